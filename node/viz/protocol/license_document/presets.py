"""Make the license documents that ``viz license new`` starts from.

A preset fixes rights, limits, money and exit; the facts (who, which work, which chain) come from
the caller. Every preset is a valid document, so that a creator can sign it unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from viz.domain.license import RevocationClass
from viz.protocol.license_document.model import EFFECTS, FORMAT, LicenseDocument
from viz.protocol.license_document.reading import license_from_values

DAY_S: Final = 86_400
DEFAULT_FEE: Final = "2.00"
DEFAULT_ROYALTY_BPS: Final = 800
# The recipe's own limit on repetition, and the stricter one of a license without excerpts.
EXCERPT_TOKENS: Final = 64
NO_EXCERPT_TOKENS: Final = 24


@dataclass(frozen=True, slots=True)
class Preset:
    """A named template: what it is for, and how it differs from the commercial license."""

    summary: str
    field: str = "any"
    free: bool = False
    approval: bool = False
    excerpts: bool = True
    revocation_class: int = 2
    grant_s: int = 365 * DAY_S


PRESETS: Final = {
    "research": Preset(
        "free of charge, for research only", field="research", free=True, revocation_class=1
    ),
    "commercial": Preset("a fee for each grant, and a royalty on what adapters earn"),
    "approval": Preset(
        "as commercial, for trainers that you approve one by one",
        approval=True,
        grant_s=180 * DAY_S,
    ),
    "no-excerpt": Preset("as commercial, and answers may not quote the work", excerpts=False),
}


def document_from_preset(
    name: str,
    *,
    licensor: dict[str, Any],
    work: dict[str, Any],
    chain: dict[str, Any],
    issued: str,
    law: str,
    fee: str | None = None,
    royalty_bps: int | None = None,
) -> LicenseDocument:
    """Return the preset's document with these facts; raise InvalidLicense for a wrong one."""
    preset = PRESETS[name]
    unowned = work["acquired"] == "public-domain"
    free = preset.free or unowned
    default_fee, default_bps = ("0", 0) if free else (DEFAULT_FEE, DEFAULT_ROYALTY_BPS)
    owns = licensor["capacity"] != "agent" and not work["third_party"]
    owns = owns and work["acquired"] != "licensed"
    # Nobody has an authority over a work that nobody owns, and nothing of it can be reserved.
    excerpts = preset.excerpts or unowned
    warranted = [] if unowned else ["ownership"] if owns else ["authority"]
    return license_from_values(
        {
            "format": FORMAT,
            "issued": issued,
            "text": "",
            "licensor": licensor,
            "work": work,
            "rights": {
                "copy_for_training": True,
                "embody_in_parameters": True,
                "serve": True,
                "evaluate": True,
                "compose": True,
                "export": unowned,
                "excerpts": {
                    "permitted": excerpts,
                    "max_tokens": EXCERPT_TOKENS if excerpts else NO_EXCERPT_TOKENS,
                },
            },
            "limits": {
                "bases": [],
                "field": "any" if unowned else preset.field,
                "territory": [],
                "grant_s": preset.grant_s,
                "approval_required": preset.approval,
            },
            "money": {
                "training_fee": default_fee if fee is None else fee,
                "min_royalty_bps": default_bps if royalty_bps is None else royalty_bps,
            },
            "exit": {
                "revocation_class": preset.revocation_class,
                "effect": EFFECTS[RevocationClass(preset.revocation_class)],
                "notice_s": 7 * DAY_S,
                "erasure": "copies-and-keys",
            },
            "warranties": {
                "given": warranted,
                "disclaimed": ["as-is"],
            },
            "law": {"governing": law, "courts": "", "precedence": "chain-first"},
            "chain": chain,
        }
    )
