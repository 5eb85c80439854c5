"""License documents of invented works on the chain in memory, for tests to change."""

from __future__ import annotations

import copy
from typing import Any

from tests.fakes.chain import DEPLOYMENT

from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_document.presets import document_from_preset
from viz.protocol.license_document.reading import license_from_values
from viz.protocol.license_forms.place import LicensePlace

WALLET = "0x40Adc39c8B89278e06688E90D0DE03CCD7DA471F"
WHERE = LicensePlace("/viz/v1/contents/1$", "https://node.test/license/1", 1)


def facts(**changes: Any) -> dict[str, Any]:
    """Return what a preset asks for: licensor, work, chain."""
    found: dict[str, Any] = {
        "licensor": {
            "name": "Alma Reyes",
            "kind": "person",
            "capacity": "author",
            "contact": "mailto:alma@example.org",
            "wallet": WALLET,
        },
        "work": {
            "title": "The keeper of Varn Point",
            "creators": ["Alma Reyes"],
            "language": "en",
            "sha256": "0x" + "11" * 32,
            "root": "0x" + "22" * 32,
            "created": "",
            "published": "2026-01-02",
            "third_party": False,
            "personal_data": False,
            "acquired": "own-work",
        },
        "chain": {
            "chain_id": DEPLOYMENT.chain_id,
            "registry": DEPLOYMENT.content_registry,
            "token": DEPLOYMENT.token,
            "token_decimals": DEPLOYMENT.token_decimals,
            "token_symbol": DEPLOYMENT.token_symbol,
        },
        "issued": "2026-11-30",
        "law": "the law of Portugal",
    }
    return {**found, **changes}


def preset(name: str = "commercial", **changes: Any) -> LicenseDocument:
    """Return a preset's document; ``changes`` are facts."""
    return document_from_preset(name, **facts(**changes))


def values_with(changes: dict[str, Any], name: str = "commercial") -> dict[str, Any]:
    """Return a preset's values in which each dotted field of ``changes`` has another value."""
    values = copy.deepcopy(preset(name).to_json())
    for path, value in changes.items():
        *parents, last = path.split(".")
        table = values
        for parent in parents:
            table = table[parent]
        if value is ...:
            del table[last]
        else:
            table[last] = value
    return values


def changed(changes: dict[str, Any], name: str = "commercial") -> LicenseDocument:
    """Return the document of ``values_with``."""
    return license_from_values(values_with(changes, name))


def of_public_domain(name: str = "commercial") -> LicenseDocument:
    """Return the document of a work that nobody owns, as hostile to that as a document may be.

    It states every limit and reservation that it can: a form must not repeat them as if they held.
    """
    return changed(
        {
            "work.acquired": "public-domain",
            "warranties.given": ["authority"],
            "money.training_fee": "0",
            "money.min_royalty_bps": 0,
            "rights.export": False,
            "rights.excerpts.permitted": False,
            "limits.field": "research",
            "limits.territory": ["DE"],
        },
        name,
    )
