"""Compare a license document with the terms and the contracts on the chain.

The contracts store seven values of a license. They must be equal in the document; otherwise
somebody could sign one license and publish another. ``differences`` names every field that differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from viz.domain.license import Terms, Use
from viz.domain.units import format_units, parse_units
from viz.errors import LicenseMismatch

if TYPE_CHECKING:
    from viz.domain.ports.chain import Deployment
    from viz.protocol.license_document.model import LicenseDocument


@dataclass(frozen=True, slots=True)
class Difference:
    """A field whose value in the document differs from the chain's, with both values."""

    field: str
    document: str
    chain: str

    def __str__(self) -> str:
        return f"{self.field} is {self.document} in the document, and {self.chain} on the chain"


def uses_of(document: LicenseDocument) -> Use:
    """Return the document's rights as the uses that the contracts know."""
    rights = document.rights
    given = (
        (Use.TRAIN, rights.copy_for_training),
        (Use.EMBODY, rights.embody_in_parameters),
        (Use.SERVE, rights.serve),
        (Use.EXCERPT, rights.excerpts.permitted),
        (Use.EVALUATE, rights.evaluate),
    )
    uses = Use(0)
    for use, is_given in given:
        uses |= use if is_given else Use(0)
    return uses


def terms_of(document: LicenseDocument) -> Terms:
    """Return the on-chain terms of a document; raise InvalidRequest for a fee with many decimals.

    The result is not checked: ``Terms.check`` says whether ContentRegistry accepts it.
    """
    return Terms(
        training_fee_units=parse_units(document.money.training_fee, document.chain.token_decimals),
        min_royalty_bps=document.money.min_royalty_bps,
        grant_duration_s=document.limits.grant_s,
        notice_s=document.exit.notice_s,
        revocation_class=document.exit.revocation_class,
        uses=int(uses_of(document)),
        approval_required=document.limits.approval_required,
    )


_RIGHTS = {
    Use.TRAIN: "rights.copy_for_training",
    Use.EMBODY: "rights.embody_in_parameters",
    Use.SERVE: "rights.serve",
    Use.EXCERPT: "rights.excerpts.permitted",
    Use.EVALUATE: "rights.evaluate",
}


def differences(document: LicenseDocument, terms: Terms) -> Iterator[Difference]:
    """Yield each field of the document whose on-chain value differs."""
    said, decimals = terms_of(document), document.chain.token_decimals
    if said.training_fee_units != terms.training_fee_units:
        yield Difference(
            "money.training_fee",
            document.money.training_fee,
            format_units(terms.training_fee_units, decimals),
        )
    yield from _unequal(
        ("money.min_royalty_bps", said.min_royalty_bps, terms.min_royalty_bps),
        ("limits.grant_s", said.grant_duration_s, terms.grant_duration_s),
        ("exit.notice_s", said.notice_s, terms.notice_s),
        ("exit.revocation_class", said.revocation_class, terms.revocation_class),
        *((field, bool(said.uses & use), bool(terms.uses & use)) for use, field in _RIGHTS.items()),
        ("limits.approval_required", said.approval_required, terms.approval_required),
    )


def foreign(document: LicenseDocument, deployment: Deployment) -> Iterator[Difference]:
    """Yield each field that names another chain, registry or token than the deployment's."""
    said = document.chain
    yield from _unequal(
        ("chain.chain_id", said.chain_id, deployment.chain_id),
        ("chain.registry", said.registry, deployment.content_registry),
        ("chain.token", said.token, deployment.token),
        ("chain.token_decimals", said.token_decimals, deployment.token_decimals),
    )


def _unequal(*fields: tuple[str, int | str, int | str]) -> Iterator[Difference]:
    """Yield a difference for each (field, mine, theirs) whose values differ; truth as in JSON."""
    for field, mine, theirs in fields:
        if mine != theirs:
            yield Difference(field, _in_words(mine), _in_words(theirs))


def _in_words(value: int | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def require_agreement(
    document: LicenseDocument, terms: Terms, deployment: Deployment | None = None
) -> None:
    """Raise LicenseMismatch if any field differs; it lists all of them as ``fields``."""
    found = [*(foreign(document, deployment) if deployment else ()), *differences(document, terms)]
    if found:
        raise LicenseMismatch(
            "the license document and the chain differ: " + "; ".join(map(str, found)),
            fields=[each.field for each in found],
        )
