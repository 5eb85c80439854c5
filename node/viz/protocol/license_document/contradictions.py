"""Find contradictions within a license.

Each rule names the field to change, and why. A document that breaks a rule is refused, because two
readers could understand it in two ways.
"""

from __future__ import annotations

from collections.abc import Iterator

from viz.domain.license import RevocationClass
from viz.domain.units import ZERO_ADDRESS
from viz.errors import InvalidLicense, InvalidRequest
from viz.protocol.license_document.model import EFFECTS, LicenseDocument

# A right, and the other right that it needs.
_NEEDS = (
    ("embody_in_parameters", "copy_for_training"),
    ("serve", "embody_in_parameters"),
    ("compose", "embody_in_parameters"),
    ("export", "embody_in_parameters"),
)


def contradictions(document: LicenseDocument) -> Iterator[tuple[str, str]]:
    """Yield the field at fault and the reason, for each contradiction."""
    yield from _of_dates(document)
    yield from _of_rights(document)
    yield from _of_exit(document)
    yield from _of_warranties(document)
    yield from _of_money(document)


def require_consistent(document: LicenseDocument) -> LicenseDocument:
    """Return the document; raise InvalidLicense, which names the first contradiction."""
    for field, why in contradictions(document):
        raise InvalidLicense(f"{field} contradicts the license: {why}", field=field)
    return document


def _of_dates(document: LicenseDocument) -> Iterator[tuple[str, str]]:
    """Dates are written as YYYY-MM-DD, so their order is that of the text."""
    work = document.work
    if work.created > document.issued:
        yield "work.created", f"a work cannot be licensed on {document.issued}, before it was made"
    if work.published and work.created > work.published:
        yield "work.created", f"a work cannot be published on {work.published}, before it was made"


def _of_rights(document: LicenseDocument) -> Iterator[tuple[str, str]]:
    rights = document.rights
    for right, needed in _NEEDS:
        if getattr(rights, right) and not getattr(rights, needed):
            yield f"rights.{right}", f"it is true, and rights.{needed}, which it needs, is false"
    if not (rights.copy_for_training or rights.evaluate or rights.excerpts.permitted):
        yield "rights.copy_for_training", "no right is given at all: set one to true"
    if rights.excerpts.permitted and not rights.excerpts.max_tokens:
        yield "rights.excerpts.max_tokens", "excerpts are permitted, but of at most 0 tokens"


def _of_exit(document: LicenseDocument) -> Iterator[tuple[str, str]]:
    said = document.exit
    effect = EFFECTS[RevocationClass(said.revocation_class)]
    if said.effect != effect:
        yield "exit.effect", f"class {said.revocation_class} has the effect {effect!r}"


def _of_warranties(document: LicenseDocument) -> Iterator[tuple[str, str]]:
    if document.licensor.wallet == ZERO_ADDRESS:
        yield "licensor.wallet", "the zero address is nobody's, and licenses nothing"
    given, work, capacity = document.warranties.given, document.work, document.licensor.capacity
    if given and "no-warranty" in document.warranties.disclaimed:
        yield "warranties.disclaimed", f"no-warranty is disclaimed, and {given[0]} is given"
    if capacity == "agent" and work.acquired == "own-work":
        yield "work.acquired", "an agent licenses the work of another, but this says it is its own"
    if "ownership" in given:
        for field, broken in (
            ("licensor.capacity", capacity == "agent"),
            ("work.third_party", work.third_party),
            ("work.acquired", work.acquired in ("licensed", "public-domain")),
        ):
            if broken:
                yield field, "warranties.given holds ownership: warrant authority instead"


def _of_money(document: LicenseDocument) -> Iterator[tuple[str, str]]:
    from viz.protocol.license_document.agreement import terms_of

    if document.in_public_domain:
        for field, asked in (
            ("money.training_fee", bool(set(document.money.training_fee) - set("0."))),
            ("money.min_royalty_bps", document.money.min_royalty_bps != 0),
        ):
            if asked:
                yield field, "work.acquired is public-domain: nobody owns it, so it is free (0)"
    try:
        terms_of(document).check()
    except InvalidRequest as error:
        yield "money.training_fee", error.detail
