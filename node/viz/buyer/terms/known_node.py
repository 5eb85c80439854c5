"""Hold what a buyer knows of its node: the latest description, and the offers in it.

Owns the node's description, its renewal, and the check of an adapter against the buyer's own chain.

Invariant: a description is used only if it names the contracts that the buyer trusts, and the same
node as before.
"""

from __future__ import annotations

import asyncio

from viz.buyer.terms.counting import Counter, Counters
from viz.buyer.terms.counting_pins import CountingPins
from viz.buyer.terms.offers import find_offer, is_askable, unknown
from viz.client.node_client import NodeClient
from viz.domain.ports.chain import ChainReader, Deployment
from viz.domain.units import BASE_MODEL, AdapterId, Hash32
from viz.errors import (
    AdapterEnded,
    AdapterNotServable,
    AdapterSuspended,
    NodeNotTrusted,
    VizError,
)
from viz.protocol.messages import AdapterOffer, NodeInfo
from viz.services.market.node_claims import check_node, check_offer, check_tokenizer


class KnownNode:
    """One node with its latest description. ``info`` was checked when it was read."""

    def __init__(
        self,
        api: NodeClient,
        info: NodeInfo,
        deployment: Deployment,
        *,
        counters: Counters,
        chain: ChainReader | None,
        pins: CountingPins,
    ) -> None:
        self._api = api
        self._deployment = deployment
        self._counters = counters
        self._chain = chain
        self._pins = pins
        self._checked: set[tuple[AdapterId, Hash32, Hash32, Hash32]] = set()
        self.info = info

    async def refresh(self) -> NodeInfo:
        """Read the description again: new adapters, prices, chain time.

        Raises NodeNotTrusted, NodeUnreachable.
        """
        info = await self._api.info()
        check_node(info, self._deployment)
        if info.node != self.info.node:
            raise NodeNotTrusted(f"the node was {self.info.node} and is now {info.node}")
        self.info = info
        return info

    async def offer_of(self, model: str) -> AdapterOffer:
        """Return the offer with this id, this name, or this ``NAME@DIGEST``.

        Raises UnknownModel, NodeNotTrusted, AdapterSuspended, AdapterEnded.
        """
        for again in (False, True):
            if again:
                await self.refresh()
            if offer := find_offer(self.info.adapters, model):
                await self._check_on_chain(offer)
                exact = (await self.counter(offer)).exact
                self._pins.check(offer, self.info.base_of(offer), exact=exact)
                return offer
        await self.require_sold(model)
        raise unknown(self.info.adapters, model)

    async def require_sold(self, model: str) -> None:
        """Raise AdapterSuspended or AdapterEnded if the node says so of an id or a title."""
        if not is_askable(model):
            return
        try:
            await self._api.require_model(model)
        except (AdapterSuspended, AdapterEnded):
            raise
        except VizError:
            return  # it is not among the node's offers, whatever else the node says of it

    async def require_servable(self, adapter_id: AdapterId) -> None:
        """Raise AdapterNotServable if the buyer's chain does not let the node serve an adapter now.

        Without a chain nothing is known of that. Raises ChainError.
        """
        if self._chain is None or adapter_id == BASE_MODEL:
            return
        serving = await self._chain.servable(adapter_id, self.info.node)
        if serving.reason is not None:
            raise AdapterNotServable(
                f"adapter {adapter_id} may not be served by {self.info.node}: {serving.reason}"
            )

    async def renewed_offer(self, model: str) -> AdapterOffer:
        """Read the description again, because it is out of date; return the offer in it."""
        await self.refresh()
        return await self.offer_of(model)

    async def pin(self, offer: AdapterOffer) -> None:
        """Record how the node counts, before anything is paid for this adapter."""
        counter = await self.counter(offer)
        self._pins.keep(offer, self.info.base_of(offer), exact=counter.exact)

    async def counter(self, offer: AdapterOffer) -> Counter:
        """Return the counter for an offer's tokens; it is exact if the tokenizer is known."""
        return await asyncio.to_thread(self._counters.of, self.info.base_of(offer).tokenizer_digest)

    async def _check_on_chain(self, offer: AdapterOffer) -> None:
        # Later the node may name other weights, or another tokenizer, under the same id. So the
        # digests are remembered as checked, not the id alone.
        base = self.info.base_of(offer)
        checked = offer.adapter_id, offer.weights_digest, base.digest, base.tokenizer_digest
        if self._chain is None or checked in self._checked:
            return
        if offer.adapter_id != BASE_MODEL:
            state = await self._chain.adapter(offer.adapter_id)
            if state is None:
                raise NodeNotTrusted(f"the node's adapter {offer.adapter_id} is not on the chain")
            # The chain's base, whatever the node says: its tokenizer decides what may be billed.
            check_tokenizer(base.tokenizer_digest, state.base_model)
            check_offer(offer, base.digest, state)
        self._checked.add(checked)
