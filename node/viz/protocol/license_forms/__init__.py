"""Statements about a license in the forms that crawlers, lawyers and miners read.

Each module writes one form from a ``LicenseDocument``. The document is what binds; a form says as
much of it as its specification can, and never more: what a form cannot express is left out or
stated in the stricter way. docs/licenses.md names the version of each specification.
"""
