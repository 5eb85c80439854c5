"""Cache what the chain says about adapters and works, for the market index.

Owns how long each fact is cached, and the bound on chain reads in one round. Invariant: a fact is
read again when it expires, and nothing is listed if a fact about it could not be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from viz.domain.ports.chain import AdapterState, ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.units import AdapterId, Address, ContentId

READS_A_ROUND: Final = 4_096
ADAPTER_KEPT_S: Final = 3_600
# An adapter that is not registered yet is read again soon.
UNKNOWN_KEPT_S: Final = 300
SERVING_KEPT_S: Final = 900
WORK_KEPT_S: Final = 3_600
MAX_KEPT: Final = 65_536
K = TypeVar("K")
V = TypeVar("V")


class OutOfReadings(Exception):
    """This round has used all its chain reads."""


@dataclass(frozen=True, slots=True)
class WorkFacts:
    """A work's current terms; ``uses`` is 0 once the work is withdrawn."""

    uses: int
    revocation_class: int
    withdrawn_at_s: int


class _Kept(Generic[K, V]):
    def __init__(self) -> None:
        self._values: dict[K, tuple[int, V]] = {}

    def get(self, key: K, now_s: int) -> tuple[V] | None:
        until_s, value = self._values.get(key, (0, None))
        return (value,) if until_s > now_s else None  # type: ignore[return-value]

    def put(self, key: K, value: V, until_s: int) -> V:
        self._values.pop(key, None)
        self._values[key] = until_s, value
        while len(self._values) > MAX_KEPT:
            del self._values[next(iter(self._values))]
        return value


class ChainFacts:
    """A cache of chain reads about adapters and works."""

    def __init__(self, chain: ChainReader, clock: Clock) -> None:
        self._chain, self._clock = chain, clock
        self._adapters: _Kept[AdapterId, AdapterState | None] = _Kept()
        self._serving: _Kept[tuple[AdapterId, Address], bool] = _Kept()
        self._works: _Kept[ContentId, WorkFacts | None] = _Kept()
        self._left = READS_A_ROUND

    def begin_round(self) -> None:
        """Allow ``READS_A_ROUND`` more chain reads."""
        self._left = READS_A_ROUND

    async def adapter(self, adapter_id: AdapterId) -> AdapterState | None:
        """Return an adapter; None if it is not registered. Raises ChainError, OutOfReadings."""
        now_s = self._clock.now_s()
        if (kept := self._adapters.get(adapter_id, now_s)) is not None:
            return kept[0]
        self._read()
        state = await self._chain.adapter(adapter_id)
        kept_s = UNKNOWN_KEPT_S if state is None else ADAPTER_KEPT_S
        return self._adapters.put(adapter_id, state, now_s + kept_s)

    async def may_serve(self, adapter_id: AdapterId, node: Address) -> bool:
        """Return whether a node may serve an adapter. Raises ChainError, OutOfReadings."""
        now_s = self._clock.now_s()
        if (kept := self._serving.get((adapter_id, node), now_s)) is not None:
            return kept[0]
        self._read()
        state = await self._chain.servable(adapter_id, node)
        return self._serving.put((adapter_id, node), state.reason is None, now_s + SERVING_KEPT_S)

    async def work(self, content_id: ContentId) -> WorkFacts | None:
        """Return a work's terms; None if there is no work. Raises ChainError, OutOfReadings."""
        now_s = self._clock.now_s()
        if (kept := self._works.get(content_id, now_s)) is not None:
            return kept[0]
        self._read()
        state = await self._chain.content(content_id)
        facts = None
        if state is not None and state.withdrawn_at:
            facts = WorkFacts(0, 0, state.withdrawn_at)
        elif state is not None and (found := await self._chain.terms(state.terms_hash)) is not None:
            facts = WorkFacts(found.terms.uses, int(found.terms.revocation_class), 0)
        return self._works.put(content_id, facts, now_s + WORK_KEPT_S)

    def _read(self) -> None:
        if not self._left:
            raise OutOfReadings
        self._left -= 1
