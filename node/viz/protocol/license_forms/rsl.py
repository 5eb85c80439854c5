"""Write a license as an RSL 1.0 document (Really Simple Licensing, 2025-11-06).

``permits`` is a closed list in RSL: what it does not name is not allowed. RSL has no value for
research, so a research license permits only the users ``education`` and ``non-commercial``; the
document says more. Of a work in the public domain nobody claims the copyright. Amounts need a
currency of ISO 4217, which a token is not, so the price is in the rate card, and ``custom`` names
that.
"""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from viz.domain.display import visible
from viz.protocol.license_document.agreement import terms_of
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_forms.place import LicensePlace

MEDIA_TYPE: Final = "application/rsl+xml"
NAMESPACE: Final = "https://rslstandard.org/rsl"
_USERS: Final = {"non-commercial": "non-commercial", "research": "education non-commercial"}

_RIGHTFUL: Final = frozenset({"ownership", "authority"})


def rsl(document: LicenseDocument, where: LicensePlace) -> bytes:
    """Return the RSL document for the work."""
    root = Element("rsl", {"xmlns": NAMESPACE})
    content = SubElement(root, "content", {"url": where.work_path})
    _license(SubElement(content, "license"), document, where)
    if not document.in_public_domain:
        _text(content, "copyright", document.licensor.name, _holder(document))
    _text(content, "terms", where.form("summary.html"))
    indent(root)
    written: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _holder(document: LicenseDocument) -> dict[str, str]:
    contact = document.licensor.contact
    holder: dict[str, str] = {"type": document.licensor.kind}
    if contact.startswith("mailto:"):
        holder["contactEmail"] = contact.removeprefix("mailto:")
    else:
        holder["contactUrl"] = contact
    return holder


def _license(found: Element, document: LicenseDocument, where: LicensePlace) -> None:
    if document.in_public_domain:
        _text(found, "permits", "all", {"type": "usage"})
        SubElement(found, "payment", {"type": "free"})
        _text(found, "legal", where.form("license.json"), {"type": "proof"})
        return
    trains = document.rights.copy_for_training and not where.withdrawn_at
    if trains:
        _text(found, "permits", "ai-train", {"type": "usage"})
        if users := _USERS.get(document.limits.field):
            _text(found, "permits", users, {"type": "user"})
        if document.limits.territory:
            _text(found, "permits", " ".join(document.limits.territory), {"type": "geo"})
        _text(found, "prohibits", "ai-input ai-index", {"type": "usage"})
    else:
        _text(found, "prohibits", "ai-all", {"type": "usage"})
    if trains:
        payment = SubElement(found, "payment", {"type": _payment(document)})
        _text(payment, "custom", where.form("rate-card.json"))
    _legal(found, document, where)


def _payment(document: LicenseDocument) -> str:
    terms = terms_of(document)
    if terms.training_fee_units:
        return "training"
    return "use" if terms.min_royalty_bps else "free"


def _legal(found: Element, document: LicenseDocument, where: LicensePlace) -> None:
    if document.warranties.given:
        _text(found, "legal", " ".join(document.warranties.given), {"type": "warranty"})
    # It asserts that the licensor has the rights or may license them: said only if warranted.
    if _RIGHTFUL & set(document.warranties.given):
        _text(found, "legal", "true", {"type": "attestation"})
    if document.warranties.disclaimed:
        _text(found, "legal", " ".join(document.warranties.disclaimed), {"type": "disclaimer"})
    _text(found, "legal", document.licensor.contact, {"type": "contact"})
    _text(found, "legal", where.form("license.json"), {"type": "proof"})


def _text(parent: Element, name: str, text: str, attributes: dict[str, str] | None = None) -> None:
    SubElement(parent, name, attributes or {}).text = visible(text)
