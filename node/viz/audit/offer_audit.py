"""Compare every offer of a node with the chain, for whoever audits the node.

A finding is an offer that the chain contradicts: other weights or another base, an adapter that is
not registered or that this node may not serve, works that are left out or invented, and a license
document that is not the one on the chain; a report card that is not in the signed manifest, whose
hash is on the chain; and two descriptions of one adapter. What is true and worth knowing is a
remark: a withdrawn work that the adapter may still hold, a license text that the node does not
have, another title than the license's. What nothing here proves is unchecked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from viz.domain.card import card_of
from viz.domain.display import counted, moment, visible
from viz.domain.manifest import manifest_hash, open_manifest
from viz.domain.ports.chain import AdapterState, ChainReader
from viz.domain.units import BASE_MODEL, AdapterId, ContentId, Hash32
from viz.errors import (
    InvalidRequest,
    InvalidSignature,
    LicenseMismatch,
    LicenseUnknown,
    NodeNotTrusted,
    ProvenanceUnknown,
)
from viz.protocol.messages import AdapterOffer, NodeInfo
from viz.services.market.node_claims import check_offer, check_tokenizer

OWN_WORDS: Final = "the offers' names and descriptions, which are the node's own words"


@dataclass(frozen=True, slots=True)
class ShownLicense:
    """The hash of a license document that a node shows, and the title of its work."""

    license_hash: Hash32
    title: str


class ShownByNode(Protocol):
    """What a node shows of its offers besides its description."""

    async def license_at(self, content_id: ContentId) -> ShownLicense:
        """Return what the node shows as the license of a work.

        Raises LicenseUnknown if it has none, LicenseMismatch if the node itself says that it
        differs.
        """

    async def manifest_at(self, adapter_id: AdapterId) -> bytes:
        """Return what the node shows as an adapter's signed manifest.

        Raises ProvenanceUnknown if it has none.
        """

    async def listed(self) -> Sequence[AdapterOffer]:
        """Return the offers as every OpenAI client reads them."""


@dataclass(slots=True)
class OfferAudit:
    """What the chain contradicts, what is only worth knowing, and what nothing proves."""

    adapters: list[AdapterId] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "adapters": [int(each) for each in self.adapters],
            "findings": list(self.findings),
            "remarks": list(self.remarks),
            "unchecked": list(self.unchecked),
        }


async def audit_offers(info: NodeInfo, chain: ChainReader, shown: ShownByNode) -> OfferAudit:
    """Compare all offers with the chain; raise ChainError, and what ``shown`` raises else."""
    found, titles = OfferAudit(), dict[ContentId, set[str]]()
    bases = {info.base_of(offer) for offer in info.adapters}
    for base in sorted(bases, key=lambda each: each.digest):
        try:
            check_tokenizer(base.tokenizer_digest, base.digest)
        except NodeNotTrusted as error:
            found.findings.append(error.detail)
    for offer in info.adapters:
        found.adapters.append(offer.adapter_id)
        if offer.adapter_id == BASE_MODEL:
            if offer.weights_digest != info.base_of(offer).digest:
                found.findings.append("the base model's offer has another digest than the base")
            continue
        for content_id in await _audit_offer(found, offer, info, chain, shown):
            titles.setdefault(content_id, set())
        for work in offer.works:
            if work.title and work.content_id in titles:
                titles[work.content_id].add(work.title)
    for content_id, told in titles.items():
        await _audit_work(found, content_id, chain, shown, told)
    _audit_listed(found, info, await shown.listed())
    found.unchecked.append(OWN_WORDS)
    return found


def _audit_listed(found: OfferAudit, info: NodeInfo, listed: Sequence[AdapterOffer]) -> None:
    """Compare the two descriptions of each adapter; prices and models may change in between."""
    offers = {offer.adapter_id: offer for offer in info.adapters}
    for other in listed:
        offer = offers.get(other.adapter_id)
        if offer is None:
            found.remarks.append(f"/v1/models lists {other.model}, which the offers do not name")
        elif (other.weights_digest, other.works, other.card) != (
            offer.weights_digest,
            offer.works,
            offer.card,
        ):
            found.findings.append(
                f"/v1/models describes adapter {other.adapter_id} otherwise than the node's offer"
            )


async def _audit_offer(
    found: OfferAudit,
    offer: AdapterOffer,
    info: NodeInfo,
    chain: ChainReader,
    shown: ShownByNode,
) -> list[ContentId]:
    """Compare one adapter's offer; return the works that the chain has for it."""
    state = await chain.adapter(offer.adapter_id)
    if state is None:
        found.findings.append(f"adapter {offer.adapter_id} is sold, and is not registered")
        return []
    try:
        check_offer(offer, info.base_of(offer).digest, state)
    except NodeNotTrusted as error:
        found.findings.append(error.detail)
    named = {work.content_id for work in offer.works}
    hidden = [content_id for content_id, _ in state.shares if content_id not in named]
    if hidden and named:
        listed = ", ".join(map(str, hidden))
        found.findings.append(f"adapter {offer.adapter_id} is sold without naming work {listed}")
    serving = await chain.servable(offer.adapter_id, info.node)
    if serving.reason is not None:
        found.findings.append(
            f"adapter {offer.adapter_id} is sold, and may not be served here: {serving.reason}"
        )
    if offer.notices is not None:
        found.remarks.append(
            f"adapter {offer.adapter_id}: {counted(offer.notices.open, 'unanswered notice')}, the "
            f"oldest ({offer.notices.kind}) since {moment(offer.notices.received_at)}"
        )
    if offer.card is not None:
        await _audit_card(found, offer, state, shown)
    return [content_id for content_id, _ in state.shares]


async def _audit_card(
    found: OfferAudit, offer: AdapterOffer, state: AdapterState, shown: ShownByNode
) -> None:
    """Compare an offer's report card with the manifest that the trainer signed and registered."""
    where = f"adapter {offer.adapter_id}"
    try:
        envelope = await shown.manifest_at(offer.adapter_id)
    except ProvenanceUnknown:
        found.unchecked.append(f"the report card of {where}, whose manifest the node does not have")
        return
    if manifest_hash(envelope) != state.manifest_hash:
        found.findings.append(f"the manifest shown for {where} is not the one that the chain names")
        return
    try:
        signed = card_of(open_manifest(envelope).measurements)
    except (InvalidRequest, InvalidSignature) as error:
        found.findings.append(f"{where} was registered with a false manifest: {error.detail}")
        return
    if signed != offer.card:
        found.findings.append(
            f"{where} is sold with a report card that is not the one in its signed manifest"
        )


async def _audit_work(
    found: OfferAudit,
    content_id: ContentId,
    chain: ChainReader,
    node: ShownByNode,
    titles: set[str],
) -> None:
    content = await chain.content(content_id)
    if content is None:
        found.findings.append(f"work {content_id} is in an adapter, and is not registered")
        return
    if content.withdrawn_at:
        found.remarks.append(
            f"work {content_id} was withdrawn {moment(content.withdrawn_at)}; the grants of the "
            "adapters sold here permit them still"
        )
        return
    terms = await chain.terms(content.terms_hash)
    try:
        shown = await node.license_at(content_id)
    except LicenseUnknown:
        found.remarks.append(f"work {content_id}: this node has no license document")
    except LicenseMismatch as error:
        found.findings.append(f"work {content_id}: {error.detail}")
    else:
        if terms is None or terms.license_hash != shown.license_hash:
            found.findings.append(
                f"work {content_id}: the license document shown is not the one on the chain"
            )
        else:
            found.remarks += [
                f"work {content_id} is offered as {visible(title)}, and its license is for "
                f"{visible(shown.title)}"
                for title in sorted(titles - {shown.title})
            ]
