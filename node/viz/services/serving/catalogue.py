"""List what this node sells: its base models and their adapters, with names and prices.

Owns the mapping from OpenAI model names to adapters, the list prices, and how long the node relies
on an answer of the chain about an adapter (whether the node may serve it, and how long).
Invariant: an adapter is sold only while the chain says that this node may serve it, not in the last
hour before that ends, and not while a notice suspends it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from viz.domain.engines import Engines
from viz.domain.notices import Suspension
from viz.domain.ports.chain import ChainReader, WeightsAddress
from viz.domain.ports.clock import Clock
from viz.domain.ports.engine import Engine
from viz.domain.ports.ledger import AdapterCatalogue, AdapterRecord, EndedAdapter
from viz.domain.ports.services import AdapterEnd
from viz.domain.pricing import Price
from viz.domain.units import BASE_MODEL, UINT32_MAX, AdapterId, Address, ContentId, Hash32
from viz.errors import (
    AdapterNotServable,
    InvalidRequest,
    UnknownAdapter,
    UnknownModel,
    VizError,
)
from viz.protocol.messages import AdapterOffer, ServedBase, adapter_model, adapter_named
from viz.services.payments.freshness import ChainAccess, Freshness
from viz.services.serving.not_sold import ended_error, suspended_error
from viz.services.serving.servability import NEVER_READ, Servability
from viz.services.upkeep.supervision import periodically
from viz.services.withdrawal.notices import Notices

STANDING_S: Final = 10
# How old a reading may be that tells when to claim. The margin is long, so this may be minutes.
ENDING_LOOK_S: Final = 300
FetchWeights = Callable[[AdapterRecord], Awaitable[Path]]
_log = structlog.get_logger()


class Catalogue:
    """Hold the adapters on offer. Call ``restore`` once before use."""

    def __init__(
        self,
        ledger: AdapterCatalogue,
        chain: ChainReader,
        engines: Engines,
        clock: Clock,
        *,
        node: Address,
        list_price: Price,
        base_prices: Mapping[Hash32, Price] = {},
        access: ChainAccess | None = None,
        notices: Notices | None = None,
    ) -> None:
        """Create it; ``notices`` suspend adapters.

        ``base_prices`` are the list prices of base models that do not have the node's.
        """
        self._notices = notices
        self._ledger = ledger
        self._chain = chain
        self._engines = engines
        self._clock = clock
        self._node = node
        self.list_price, self._base_prices = list_price, base_prices
        self._records: dict[AdapterId, AdapterRecord] = {}
        # Those that ended; `_gone` holds the dropped ones of them as well.
        self._ended: dict[AdapterId, AdapterEnd] = {}
        self._ended_names: dict[AdapterId, str] = {}
        self._gone: dict[AdapterId, AdapterEnd] = {}
        self._successors: dict[AdapterId, AdapterId] = {}
        self._servability: dict[AdapterId, Servability] = {}
        self._told_stopped: set[AdapterId] = set()
        self._freshness = Freshness(clock, access or ChainAccess(clock))

    async def restore(self, weights: FetchWeights) -> None:
        """Load the ledger's adapters into their engines; leave out those that cannot be loaded.

        ``weights`` returns the path of a record's weights after it has checked their digest, so
        that a file damaged on the disk is not served as the registered adapter. An ended adapter is
        not loaded.
        """
        self._gone = {each.adapter_id: each.end for each in await self._ledger.ended()}
        self._successors = dict(await self._ledger.successors())
        for record in await self._ledger.adapters():
            if (end := self._gone.get(record.adapter_id)) is not None:
                self._note_end(record, end)
                continue
            try:
                engine = self._engines.require_for(record.adapter_id, record.base_model)
                if record.adapter_id not in engine.adapters():
                    await engine.add_adapter(record.adapter_id, await weights(record))
            except VizError as error:  # also what the trainer's node or the chain says
                _log.warning(
                    "adapter left out",
                    adapter_id=record.adapter_id,
                    reason=error.detail,
                    remedy=f"viz adapter activate {record.adapter_id}",
                )
                continue
            self._records[record.adapter_id] = record

    async def add(self, record: AdapterRecord) -> None:
        """Put an adapter on offer; raise UnknownAdapter if its engine has not loaded it."""
        engine = self._engines.of_base(record.base_model)
        if engine is None or record.adapter_id not in engine.adapters():
            raise UnknownAdapter(f"adapter {record.adapter_id} is not loaded: activate it first")
        await self._ledger.put_adapter(record)
        self._ended.pop(record.adapter_id, None)
        self._servability.pop(record.adapter_id, None)
        self._records[record.adapter_id] = record

    def adapter_ids(self) -> Sequence[AdapterId]:
        """Return the ids of the adapters on offer."""
        return sorted(self._records)

    async def end(self, adapter: WeightsAddress, end: AdapterEnd) -> None:
        """Unload an adapter whose license ended; the ledger keeps it, and requests are told why.

        Of one that was dropped before, the ledger keeps where its weights were.
        """
        adapter_id, record = adapter.adapter_id, self._records.get(adapter.adapter_id)
        if record is None and adapter_id in self._gone:
            return
        where = record or adapter
        await self._ledger.put_end(EndedAdapter(adapter_id, end, where.weights_digest, where.cid))
        self._gone[adapter_id] = end
        if (on_offer := self._records.pop(adapter_id, None)) is not None:
            self._note_end(on_offer, end)
            await self._unload(on_offer)

    def _note_end(self, record: AdapterRecord, end: AdapterEnd) -> None:
        self._ended[record.adapter_id] = end
        self._ended_names[record.adapter_id] = record.name

    def ended(self) -> Mapping[AdapterId, AdapterEnd]:
        """Return the ended adapters, also those that were dropped afterwards."""
        return dict(self._gone)

    async def succeed(self, adapter_id: AdapterId, successor_id: AdapterId) -> None:
        """Set the successor that is named in the refusal of requests for an ended adapter.

        Raises UnknownAdapter if the successor is not on offer here, InvalidRequest if it is the
        ended adapter itself.
        """
        self._record(successor_id)
        if adapter_id == successor_id:
            raise InvalidRequest(f"adapter {adapter_id} cannot be its own successor")
        await self._ledger.put_successor(adapter_id, successor_id)
        self._successors[adapter_id] = successor_id

    async def drop(self, adapter_id: AdapterId) -> None:
        """Take an adapter off the offer; vouchers for it stay valid."""
        if self._ended.pop(adapter_id, None) is not None:
            await self._ledger.drop_adapter(adapter_id)
            return
        record = self._record(adapter_id)
        await self._ledger.drop_adapter(adapter_id)
        del self._records[adapter_id]
        await self._unload(record)

    async def _unload(self, record: AdapterRecord) -> None:
        if (engine := self._engines.of_base(record.base_model)) is not None:
            await engine.remove_adapter(record.adapter_id)

    def records(self) -> tuple[AdapterRecord, ...]:
        """Return the adapters on offer, ordered by id."""
        return tuple(self._records[key] for key in sorted(self._records))

    def offers(self) -> tuple[AdapterOffer, ...]:
        """Return all that is sold, the base models first; nothing if no model is served.

        Adapters that a notice suspends are left out, and those that the chain, when it was last
        read, did not let this node sell.
        """
        bases = [self._base_offer(engine) for engine in self._engines]
        kept = (key for key in sorted(self._records) if self.suspension(key) is None)
        return (*bases, *(self.offer(key) for key in kept if self._why_stopped(key) is None))

    async def run(self) -> None:
        """Read until cancelled from the chain which adapters this node may still sell."""
        await periodically(
            self.look, ENDING_LOOK_S, _log.warning, "what may be served is not looked at"
        )

    async def look(self) -> None:
        """Read the chain about each adapter on offer; log which ones it stops the sale of.

        Raises ChainUnreachable.
        """
        for adapter_id in self.adapter_ids():
            await self._servability_of(adapter_id, ENDING_LOOK_S)
            reason = self._why_stopped(adapter_id)
            if reason is None:
                self._told_stopped.discard(adapter_id)
            elif adapter_id not in self._told_stopped:
                self._told_stopped.add(adapter_id)
                _log.warning("an adapter is not sold", adapter_id=int(adapter_id), reason=reason)

    def _why_stopped(self, adapter_id: AdapterId) -> str | None:
        """Return why the chain, as last read, forbids an adapter's sale; None if it does not."""
        found = self._servability.get(adapter_id)
        if found is None or not found.exists:
            return None
        if found.state.reason is not None:
            return found.state.reason
        return "its end is near" if found.over(self._clock.now_s()) else None

    def list_price_of(self, base: Hash32) -> Price:
        """Return the list price of a base model, which its new adapters take too."""
        return self._base_prices.get(base, self.list_price)

    def _base_offer(self, engine: Engine) -> AdapterOffer:
        model, price = engine.model, self.list_price_of(engine.model.digest)
        return AdapterOffer(
            BASE_MODEL,
            model.name,
            model.digest,
            price.prompt_price_units,
            price.completion_price_units,
            name=model.name,
            description="The base model, without any adapter.",
            base=_served(engine),
        )

    def suspension(self, adapter_id: AdapterId) -> Suspension | None:
        """Return why an adapter on offer may not be sold now; None if it may."""
        record = self._records.get(adapter_id)
        if record is None or self._notices is None:
            return None
        return self._notices.suspension(adapter_id, works_of(record))

    def offer(self, adapter_id: AdapterId) -> AdapterOffer:
        """Return one adapter's offer; raise UnknownAdapter."""
        record = self._record(adapter_id)
        return AdapterOffer(
            adapter_id,
            adapter_model(adapter_id),
            record.weights_digest,
            record.prompt_units_per_million,
            record.completion_units_per_million,
            record.name,
            record.description,
            record.works,
            record.card,
            self._notices.on_adapter(adapter_id, works_of(record)) if self._notices else None,
            _served(self._engines.require_for(adapter_id, record.base_model)),
            self._servability.get(adapter_id, NEVER_READ).sold_until_s,
        )

    def find(self, model: str) -> AdapterOffer:
        """Return the offer of an OpenAI model name; an adapter's id, in any case, is no other's.

        The title of an adapter that is no longer sold is refused as its id is, so that a buyer who
        asks by title is told why. Raises UnknownModel, UnknownAdapter, AdapterEnded,
        AdapterSuspended. Requests that run when a notice takes effect go on to their end, as those
        of an adapter that is dropped.
        """
        if (adapter_id := adapter_named(model)) is None:
            if (engine := self._engines.named(model)) is not None:
                return self._base_offer(engine)
            adapter_id = self._not_sold(model)
        if adapter_id is None or not 0 < adapter_id <= UINT32_MAX:
            raise UnknownModel(
                f"model {model[:80]!r} is not served here: GET /v1/models lists what is"
            )
        if (suspended := self.suspension(adapter_id)) is not None:
            raise suspended_error(adapter_id, suspended)
        return self.offer(adapter_id)

    def _not_sold(self, title: str) -> AdapterId | None:
        """Return the suspended or ended adapter with this title; None if one with it is sold.

        Of several ended ones it is the one that ended last.
        """

        def named(name: str) -> bool:
            return bool(name) and name.strip().casefold() == title.strip().casefold()

        here = [key for key, record in self._records.items() if named(record.name)]
        if here:
            sold = any(self.suspension(key) is None for key in here)
            return None if sold else max(here)
        ended = [key for key in self._ended if named(self._ended_names[key])]
        return max(ended, key=lambda key: (self._ended[key].ended_s, key), default=None)

    def engine_of(self, offer: AdapterOffer) -> Engine:
        """Return the engine that computes for one of this node's offers.

        Raises UnknownAdapter, AdapterNotServable if the offer is no longer this node's.
        """
        if offer.adapter_id == BASE_MODEL:
            base = offer.weights_digest
        else:
            base = self._record(offer.adapter_id).base_model
        return self._engines.require_for(offer.adapter_id, base)

    async def require_servable(self, adapter_id: AdapterId) -> None:
        """Raise AdapterNotServable if the chain does not let this node serve the adapter.

        An answer of the chain is used for ``STANDING_S`` seconds. While the chain cannot be read,
        it is used as long as ``viz.services.payments.freshness`` allows. After that
        ChainUnreachable is raised.
        """
        if adapter_id == BASE_MODEL:
            return
        servability = await self._servability_of(adapter_id, STANDING_S)
        if servability.state.reason is not None:
            raise AdapterNotServable(
                f"adapter {adapter_id} may not be served: {servability.state.reason}"
            )
        if servability.over(self._clock.now_s()):
            raise AdapterNotServable(
                f"adapter {adapter_id} may be served until {servability.state.until_s} only, and "
                "its sale has stopped: what it earned is claimed before"
            )

    async def claim_by(self, adapter_id: AdapterId) -> int | None:
        """Return the chain time before which the adapter's earnings must be claimed.

        None if the adapter is still sold, or if a claim is of no use any more.
        """
        if adapter_id == BASE_MODEL:
            return None
        servability = await self._servability_of(adapter_id, ENDING_LOOK_S)
        return servability.state.until_s if servability.over(self._clock.now_s()) else None

    async def _servability_of(self, adapter_id: AdapterId, age_s: int) -> Servability:
        servability = self._servability.setdefault(adapter_id, Servability())

        async def ask() -> None:
            state = await self._chain.servable(adapter_id, self._node)
            chain_s = await self._chain.chain_time() if state.until_s is not None else 0
            servability.state, servability.chain_s = state, chain_s
            servability.seen_s = self._clock.now_s()

        await self._freshness.ensure(servability, ask, within_s=age_s)
        return servability

    @property
    def known(self) -> Container[AdapterId]:
        """The ids on offer. A voucher may pay for these, and for what its channel had before."""
        return self._records.keys() | {BASE_MODEL}

    def _successor(self, adapter_id: AdapterId) -> AdapterId | None:
        """Follow the chain of successors to the first adapter on offer; None if there is none."""
        seen = {adapter_id}
        following = self._successors.get(adapter_id)
        while following is not None and following not in seen:
            if following in self._records:
                return following
            seen.add(following)
            following = self._successors.get(following)
        return None

    def _record(self, adapter_id: AdapterId) -> AdapterRecord:
        if (end := self._ended.get(adapter_id)) is not None:
            raise ended_error(adapter_id, end, self._successor(adapter_id))
        if adapter_id not in self._records:
            raise UnknownAdapter(
                f"adapter {adapter_id} is not served here: GET /viz/v1/adapters lists what is"
            )
        return self._records[adapter_id]


def _served(engine: Engine) -> ServedBase:
    model = engine.model
    return ServedBase(model.digest, model.tokenizer_digest, model.context_tokens, model.arithmetic)


def works_of(record: AdapterRecord) -> Sequence[ContentId]:
    """Return the works that an offered adapter was trained on."""
    return [work.content_id for work in record.works]
