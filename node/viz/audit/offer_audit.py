"""Compare every offer of a node with the chain, for whoever audits the node.

A finding is an offer that the chain contradicts: other weights or another base, an adapter that is
not registered or that this node may not serve, works that are left out or invented, and a license
document that is not the one on the chain. What is true and worth knowing is a remark: a withdrawn
work that the adapter may still hold, a license text that the node does not have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from viz.domain.display import counted, moment
from viz.domain.ports.chain import ChainReader
from viz.domain.units import BASE_MODEL, AdapterId, ContentId, Hash32
from viz.errors import LicenseMismatch, LicenseUnknown, NodeNotTrusted
from viz.protocol.messages import AdapterOffer, NodeInfo
from viz.services.market.node_claims import check_offer, check_tokenizer

LicenseAt = Callable[[ContentId], Awaitable[Hash32]]
"""Returns the hash of the license document that the node shows for a work.

Raises LicenseUnknown if it has none, LicenseMismatch if the node itself says that it differs.
"""


@dataclass(slots=True)
class OfferAudit:
    """What the chain contradicts, and what is only worth knowing."""

    adapters: list[AdapterId] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "adapters": [int(each) for each in self.adapters],
            "findings": list(self.findings),
            "remarks": list(self.remarks),
        }


async def audit_offers(info: NodeInfo, chain: ChainReader, license_at: LicenseAt) -> OfferAudit:
    """Compare all offers with the chain; raise ChainError, and what ``license_at`` raises else."""
    found, works = OfferAudit(), dict[ContentId, None]()
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
        works |= dict.fromkeys(await _audit_offer(found, offer, info, chain))
    for content_id in works:
        await _audit_work(found, content_id, chain, license_at)
    return found


async def _audit_offer(
    found: OfferAudit, offer: AdapterOffer, info: NodeInfo, chain: ChainReader
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
    return [content_id for content_id, _ in state.shares]


async def _audit_work(
    found: OfferAudit, content_id: ContentId, chain: ChainReader, license_at: LicenseAt
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
        shown = await license_at(content_id)
    except LicenseUnknown:
        found.remarks.append(f"work {content_id}: this node has no license document")
    except LicenseMismatch as error:
        found.findings.append(f"work {content_id}: {error.detail}")
    else:
        if terms is None or terms.license_hash != shown:
            found.findings.append(
                f"work {content_id}: the license document shown is not the one on the chain"
            )
