"""Find the adapters that hold a work, and retire those whose license to it, or to another, ended.

Anyone may call ``AdapterRegistry.enforce``. Nodes that run Viz do so for the adapters that they
serve; an owner does it here for an adapter that no such node serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from viz.chain.contracts import Chain
from viz.chain.work_events import WorkEvents
from viz.domain.ports.chain import AdapterState
from viz.domain.ports.transactions import Call, ChainWriter
from viz.domain.shares import Share, share_words
from viz.domain.units import UINT64_MAX, AdapterId, ContentId


@dataclass(frozen=True, slots=True)
class AdapterOfWork:
    """An adapter that holds a work.

    ``row`` is the first row of its share table for which ``enforce`` would retire the adapter, or
    retire it earlier; None if there is none.
    """

    state: AdapterState
    row: int | None

    @property
    def because_of(self) -> ContentId | None:
        """Return the work whose license no longer permits the adapter; None if each does."""
        return None if self.row is None else self.state.shares[self.row][0]

    @property
    def retires_at_s(self) -> int | None:
        """Return when the adapter retires or retired, in seconds of the chain; None for never."""
        return None if self.state.retires_at == UINT64_MAX else self.state.retires_at


async def adapters_of(chain: Chain, content_id: ContentId) -> tuple[AdapterOfWork, ...]:
    """Return the adapters that hold a work, by id.

    Raises LicenseError if there is no such work, ChainError if the endpoint lacks logs.
    """
    ids = await WorkEvents(chain).adapters_of(content_id)
    return tuple([await _looked_at(chain, each) for each in ids])


async def enforce(
    chain: Chain, writer: ChainWriter, found: Sequence[AdapterOfWork]
) -> tuple[AdapterOfWork, ...]:
    """Retire each adapter for which ``row`` is set, and return all as they are then. Costs gas.

    An adapter may hold several works whose licenses ended: the earliest date holds. Raises
    TransactionFailed, OutcomeUnknown; what was sent before stays.
    """
    after = []
    for each in found:
        now = each
        for _ in each.state.shares:
            if now.row is None:
                break
            call = Call("AdapterRegistry", "enforce", (*_id_and_words(now.state), now.row))
            sent = await writer.submit(call)
            sent.require_mined(f"retiring adapter {now.state.adapter_id}")
            now = await _looked_at(chain, now.state.adapter_id)
        after.append(now)
    return tuple(after)


async def _looked_at(chain: Chain, adapter_id: AdapterId) -> AdapterOfWork:
    state = await chain.adapter(adapter_id)
    assert state is not None
    return AdapterOfWork(state, await chain.enforceable(*_id_and_words(state)))


def _id_and_words(state: AdapterState) -> tuple[AdapterId, list[int]]:
    return state.adapter_id, list(share_words(Share(*row) for row in state.shares))
