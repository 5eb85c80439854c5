"""List the forms in which an adapter's provenance is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from viz.protocol.provenance_forms.facts import AdapterProvenance
from viz.protocol.provenance_forms.ml_bom import MEDIA_TYPE as ML_BOM_TYPE
from viz.protocol.provenance_forms.ml_bom import ml_bom
from viz.protocol.provenance_forms.training_summary import summary_json, summary_markdown

_FORMS: Final[dict[str, tuple[str, Callable[[AdapterProvenance], bytes]]]] = {
    "manifest": ("application/json", lambda provenance: provenance.envelope),
    "mlbom": (ML_BOM_TYPE, ml_bom),
    "summary-md": ("text/markdown", summary_markdown),
    "summary-json": ("application/json", summary_json),
}
FORMS: Final[Mapping[str, str]] = {name: media_type for name, (media_type, _) in _FORMS.items()}
"""The media type of each form."""


def write_form(provenance: AdapterProvenance, name: str) -> bytes:
    """Return the bytes of a form; raise KeyError if there is none of that name."""
    return _FORMS[name][1](provenance)
