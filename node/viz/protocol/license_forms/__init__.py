"""Write statements about a license in the forms that crawlers, data miners and lawyers read.

Each module writes one form of a ``LicenseDocument``. Only the document is binding. A form never
grants more than the document: what its specification cannot express is left out or stated more
strictly. docs/licenses.md names the version of each specification.
"""
