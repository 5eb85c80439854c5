"""What this node sells: the base model and its adapters, by name, with prices and standing.

Owns the mapping from OpenAI model names to adapters, list prices, and how long an answer of the
chain about an adapter's standing is relied on. Does not know channels or how adapters are trained.

Invariant: an adapter is sold only while the chain says that this node may serve it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from viz.domain.exchange import AdapterOffer, adapter_model, adapter_of_model
from viz.domain.ledger import AdapterCatalogue, AdapterRecord
from viz.domain.ports import ChainReader, Clock, Engine
from viz.domain.pricing import Price
from viz.domain.units import BASE_MODEL, UINT32_MAX, AdapterId, Address
from viz.errors import (
    AdapterNotServable,
    ChainUnreachable,
    EngineError,
    StorageError,
    UnknownAdapter,
    UnknownModel,
)

STANDING_S: Final = 10
GRACE_S: Final = 120
Weights = Callable[[AdapterRecord], Awaitable[Path]]
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Standing:
    reason: str | None
    asked_s: int


class Catalogue:
    """The adapters on offer; ``restore`` it once before use."""

    def __init__(
        self,
        ledger: AdapterCatalogue,
        chain: ChainReader,
        engine: Engine,
        clock: Clock,
        *,
        node: Address,
        list_price: Price,
    ) -> None:
        self._ledger = ledger
        self._chain = chain
        self._engine = engine
        self._clock = clock
        self._node = node
        self.list_price = list_price
        self._records: dict[AdapterId, AdapterRecord] = {}
        self._standing: dict[AdapterId, _Standing] = {}
        self._known: set[AdapterId] = {BASE_MODEL}

    async def restore(self, weights: Weights) -> None:
        """Load the adapters of the ledger into the engine; one that is broken is left out.

        ``weights`` returns the path of a record's weights, checked against its digest: a file that
        rotted on the disk must not be served under the name of the one that was registered.
        """
        for record in await self._ledger.adapters():
            self._known.add(record.adapter_id)
            try:
                if record.adapter_id not in self._engine.adapters():
                    await self._engine.add_adapter(record.adapter_id, await weights(record))
            except (EngineError, StorageError) as error:
                _log.warning(
                    "adapter left out",
                    adapter_id=record.adapter_id,
                    reason=error.detail,
                    remedy=f"viz adapter activate {record.adapter_id}",
                )
                continue
            self._records[record.adapter_id] = record

    async def add(self, record: AdapterRecord) -> None:
        """Put an adapter that the engine has loaded on offer; without own prices, the list's."""
        if record.adapter_id not in self._engine.adapters():
            raise UnknownAdapter(f"adapter {record.adapter_id} is not loaded: activate it first")
        await self._ledger.put_adapter(record)
        self._known.add(record.adapter_id)
        self._records[record.adapter_id] = record

    async def drop(self, adapter_id: AdapterId) -> None:
        """Take an adapter off the offer; what was promised for it stays good."""
        self._record(adapter_id)
        await self._ledger.drop_adapter(adapter_id)
        del self._records[adapter_id]
        await self._engine.remove_adapter(adapter_id)

    def records(self) -> tuple[AdapterRecord, ...]:
        """Return the adapters on offer by id."""
        return tuple(self._records[key] for key in sorted(self._records))

    def offers(self) -> tuple[AdapterOffer, ...]:
        """Return all that is sold, the base model first."""
        return (self.offer(BASE_MODEL), *(self.offer(key) for key in sorted(self._records)))

    def offer(self, adapter_id: AdapterId) -> AdapterOffer:
        """Return one adapter's offer; raise UnknownAdapter."""
        if adapter_id == BASE_MODEL:
            model = self._engine.model
            return AdapterOffer(
                BASE_MODEL,
                model.name,
                model.digest,
                self.list_price.prompt_price_units,
                self.list_price.completion_price_units,
            )
        record = self._record(adapter_id)
        return AdapterOffer(
            adapter_id,
            adapter_model(adapter_id),
            record.weights_digest,
            record.prompt_units_per_million,
            record.completion_units_per_million,
        )

    def find(self, model: str) -> AdapterOffer:
        """Return the offer that an OpenAI model name means; raise UnknownModel, UnknownAdapter."""
        if model == self._engine.model.name:
            return self.offer(BASE_MODEL)
        adapter_id = adapter_of_model(model)
        if adapter_id is None or not 0 < adapter_id <= UINT32_MAX:
            raise UnknownModel(
                f"model {model[:80]!r} is not served here: GET /v1/models lists what is"
            )
        return self.offer(adapter_id)

    async def require_servable(self, adapter_id: AdapterId) -> None:
        """Raise AdapterNotServable unless the chain lets this node serve the adapter.

        An answer is relied on for seconds, and for two minutes while the chain cannot be asked.
        """
        if adapter_id == BASE_MODEL:
            return
        now_s = self._clock.now_s()
        standing = self._standing.get(adapter_id)
        if standing is None or now_s - standing.asked_s >= STANDING_S:
            try:
                reason = await self._chain.servable(adapter_id, self._node)
                standing = self._standing[adapter_id] = _Standing(reason, now_s)
            except ChainUnreachable:
                if standing is None or now_s - standing.asked_s >= GRACE_S:
                    raise
        if standing.reason is not None:
            raise AdapterNotServable(f"adapter {adapter_id} may not be served: {standing.reason}")

    # which ids may stand in a voucher

    @property
    def known(self) -> Container[AdapterId]:
        """The ids that are registered and confirmed, on offer or not."""
        return self._known

    async def learn(self, adapter_ids: Iterable[AdapterId]) -> None:
        """Ask the chain about ids that are not known yet."""
        for adapter_id in adapter_ids:
            if adapter_id not in self._known and await self._chain.adapter(adapter_id) is not None:
                self._known.add(adapter_id)

    def _record(self, adapter_id: AdapterId) -> AdapterRecord:
        if adapter_id not in self._records:
            raise UnknownAdapter(
                f"adapter {adapter_id} is not served here: GET /viz/v1/adapters lists what is"
            )
        return self._records[adapter_id]


def at_list_price(record: AdapterRecord, price: Price) -> AdapterRecord:
    """Return the record at the node's list price."""
    return replace(
        record,
        prompt_units_per_million=price.prompt_price_units,
        completion_units_per_million=price.completion_price_units,
    )
