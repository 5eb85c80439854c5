"""Write a license as a training and data mining assertion of the CAWG (version 1.1, 2025-05-06).

``constrained`` means that the permission has conditions; a reader who does not know them must treat
it as ``notAllowed``. Viz adapters are generative language models, so the license does not allow
training of other kinds of models. A work in the public domain is open to every use.
"""

from __future__ import annotations

from typing import Any, Final

from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_forms.place import LicensePlace

LABEL: Final = "cawg.training-mining"
ENTRIES: Final = (
    "cawg.data_mining",
    "cawg.ai_inference",
    "cawg.ai_generative_training",
    "cawg.ai_training",
)


def training_assertion(document: LicenseDocument, where: LicensePlace) -> dict[str, Any]:
    """Return the assertion: its label and its data, for a C2PA claim generator to sign."""
    rights = document.rights
    open_uses = {
        "cawg.data_mining": rights.copy_for_training,
        "cawg.ai_inference": rights.evaluate,
        "cawg.ai_generative_training": rights.copy_for_training,
        "cawg.ai_training": False,
    }
    entries: dict[str, dict[str, str]] = {}
    for name in ENTRIES:
        if document.in_public_domain:
            entries[name] = {"use": "allowed"}
        elif open_uses[name] and not where.withdrawn_at:
            entries[name] = {
                "use": "constrained",
                "constraint_info": f"a grant is needed: {where.form('license.json')}",
            }
        else:
            entries[name] = {"use": "notAllowed"}
    return {"label": LABEL, "data": {"entries": entries}}
