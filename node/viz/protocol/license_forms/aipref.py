"""Write a license as an AIPREF usage preference (draft-ietf-aipref-vocab-08).

``y`` would permit a use to everybody without conditions. A Viz license needs a grant, so the
preference is ``n``, except for a work in the public domain, which nobody can reserve; RSL, TDMRep
and the document say how to get permission. A missing label means no preference: the one for search
is missing.
"""

from __future__ import annotations

from typing import Final

from viz.protocol.license_document.model import LicenseDocument

TRAINING: Final = "train-ai"
INPUT: Final = "ai-use"


def usage_preference(document: LicenseDocument) -> str:
    """Return the value of a ``Content-Usage`` field: a dictionary of RFC 9651."""
    said = "y" if document.in_public_domain else "n"  # every other license needs a grant
    return f"{TRAINING}={said}, {INPUT}={said}"
