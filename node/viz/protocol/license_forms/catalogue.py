"""List the forms of a license by their file names, with media type and content."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_forms.aipref import usage_preference
from viz.protocol.license_forms.cawg import training_assertion
from viz.protocol.license_forms.odrl import MEDIA_TYPE as ODRL_TYPE
from viz.protocol.license_forms.odrl import odrl
from viz.protocol.license_forms.place import LicensePlace
from viz.protocol.license_forms.rate_card import rate_card
from viz.protocol.license_forms.rsl import MEDIA_TYPE as RSL_TYPE
from viz.protocol.license_forms.rsl import rsl
from viz.protocol.license_forms.summary import summary_html, summary_markdown
from viz.protocol.license_forms.tdmrep import POLICY, tdm_policy

DOCUMENT: Final = "license.json"


@dataclass(frozen=True, slots=True)
class LicenseForm:
    """A form as it is served or written to a file."""

    name: str
    media_type: str
    body: bytes


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _policy(document: LicenseDocument, where: LicensePlace) -> bytes | None:
    policy = tdm_policy(document, where)
    return None if policy is None else _json(policy)


_Writer = Callable[[LicenseDocument, LicensePlace], bytes | None]
_FORMS: Final[dict[str, tuple[str, _Writer]]] = {
    DOCUMENT: ("application/json", lambda document, _: document.canonical),
    "rsl.xml": (RSL_TYPE, rsl),
    POLICY: (ODRL_TYPE, _policy),
    "odrl.jsonld": (ODRL_TYPE, lambda document, where: _json(odrl(document, where))),
    "aipref.txt": ("text/plain", lambda document, _: f"{usage_preference(document)}\n".encode()),
    "cawg.json": (
        "application/json",
        lambda document, where: _json(training_assertion(document, where)),
    ),
    "summary.html": ("text/html", lambda document, where: summary_html(document, where).encode()),
    "summary.md": (
        "text/markdown",
        lambda document, where: summary_markdown(document, where).encode(),
    ),
    "rate-card.json": (
        "application/json",
        lambda document, where: _json(rate_card(document, where)),
    ),
}
NAMES: Final = tuple(_FORMS)


def form(document: LicenseDocument, where: LicensePlace, name: str) -> LicenseForm | None:
    """Return a form by its name; None if there is no such form, or it would be empty."""
    if name not in _FORMS:
        return None
    media_type, write = _FORMS[name]
    body = write(document, where)
    return None if body is None else LicenseForm(name, media_type, body)


def forms(document: LicenseDocument, where: LicensePlace) -> list[LicenseForm]:
    """Return all forms of a license."""
    return [found for name in NAMES if (found := form(document, where, name)) is not None]
