"""End the use of works that were withdrawn, or whose license ended: adapters and trainings.

Owns what a node does by itself after a withdrawal:

1. It enforces the adapter's retirement on the chain, which anyone may do.
2. It unloads the adapter once the chain says that it is retired.
3. It stops trainings that the work's grant no longer permits.
4. It calls ``viz.services.market.destruction`` for a withdrawn work whose use has ended.

Invariants:

- A withdrawal ends only what the terms of each grant say: nothing in class 0, no adapter in
  class 1.
- An adapter is unloaded only when its retirement is confirmed.
- Nothing is destroyed before the time that the grant's class gives, nor within ``FINAL_S`` of the
  withdrawal, which a reorganisation could still undo. A lapsed license destroys nothing.
- A fault of the chain's endpoint ends nothing; the step is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from viz.domain.display import moment
from viz.domain.license import RevocationClass
from viz.domain.ports.chain import AdapterState, ChainReader, ContentState, GrantState
from viz.domain.ports.holdings import EndedUse
from viz.domain.ports.services import AdapterEnd, OfferedAdapters, TrainingRuns
from viz.domain.ports.transactions import Call, ChainWriter
from viz.domain.shares import Share, share_words
from viz.domain.units import AdapterId, Address, ContentId
from viz.errors import ChainError, VizError
from viz.services.market.destruction import WorkDestruction

INTERVAL_S: Final = 60.0
# No event tells that a license lapsed: all adapters are checked this often.
LAPSES_EVERY_S: Final = 3_600
# A block of this age is final. If the notice is shorter, destruction waits for this age.
FINAL_S: Final = 3_600
WITHDRAWN: Final = "work-withdrawn"
LICENSE_ENDED: Final = "license-ended"
_log = structlog.get_logger()


class WithdrawalWatch:
    """Periodically checks the works of one node's adapters and trainings."""

    def __init__(
        self,
        chain: ChainReader,
        writer: ChainWriter,
        offers: OfferedAdapters,
        runs: TrainingRuns,
        destruction: WorkDestruction | None = None,
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Create it; without ``destruction`` nothing is destroyed."""
        self._chain, self._writer = chain, writer
        self._offers, self._runs = offers, runs
        self._destruction = destruction
        self._interval_s = interval_s
        self._nothing_left: dict[EndedUse, int] = {}
        self._shares: dict[AdapterId, tuple[tuple[ContentId, int], ...]] = {}
        self._lapses_at_s = 0

    async def run(self) -> None:
        """Check until cancelled; an error of the chain or of one adapter is logged."""
        while True:
            try:
                await self.step()
            except VizError as error:
                _log.warning("withdrawals are not looked at", reason=error.detail)
            await asyncio.sleep(self._interval_s)

    async def step(self) -> None:
        """Check once: enforce retirements, end retired adapters, stop trainings, destroy."""
        now_s = await self._chain.chain_time()
        for_lapses = now_s >= self._lapses_at_s
        works: dict[ContentId, ContentState | None] = {}
        for adapter_id in self._offers.adapter_ids():
            shares = await self._shares_of(adapter_id)
            withdrawn = [each for each, _ in shares if await self._is_withdrawn(each, works)]
            if withdrawn or for_lapses:
                await self._enforce(adapter_id, shares)
                await self._end(adapter_id, now_s)
        if for_lapses:
            self._lapses_at_s = now_s + LAPSES_EVERY_S
        for training_id, used in (await self._runs.under_way()).items():
            if reason := await self._why_stopped(used, works):
                _log.info("training stopped", training=training_id, reason=reason)
                await self._runs.stop(training_id, reason)
        if self._destruction is not None:
            await self._destroy(self._destruction, works, now_s)

    async def _destroy(
        self,
        destruction: WorkDestruction,
        works: dict[ContentId, ContentState | None],
        now_s: int,
    ) -> None:
        """Destroy what this node stores of each withdrawn work whose use has ended."""
        ended = self._offers.ended()
        of_adapters = {each.content_id for each in ended.values()}
        for content_id in sorted(of_adapters | await self._runs.works_used()):
            content = works[content_id] if await self._is_withdrawn(content_id, works) else None
            if content is None:
                continue
            ends = {
                adapter_id: end.ended_s
                for adapter_id, end in ended.items()
                if end.content_id == content_id and end.reason == WITHDRAWN
            }
            own_s = await self._own_end(content)
            own = own_s is not None and own_s <= now_s
            due = [*ends.values(), *([own_s] if own_s is not None and own else [])]
            use = EndedUse(content_id, frozenset(ends), own=own)
            if not due or now_s < self._nothing_left.get(use, 0):
                continue
            made = await destruction.destroy(
                use, withdrawn_at_s=content.withdrawn_at, due_at_s=max(due), time_s=now_s
            )
            if made is None:
                self._nothing_left[use] = now_s + LAPSES_EVERY_S

    async def _own_end(self, content: ContentState) -> int | None:
        """Return when the node's own use of a withdrawn work ends; None if it does not.

        It ends with the notice of the node's own grant, if the grant is of class 2, but not before
        the last of the node's adapters that were trained on the work.
        """
        grant = await self._chain.grant(content.content_id, self._writer.address)
        found = await self._chain.terms(grant.terms_hash) if grant is not None else None
        if found is None or found.terms.revocation_class != RevocationClass.RETIRE_ADAPTERS:
            return None
        for adapter_id in self._offers.adapter_ids():
            state = await self._chain.adapter(adapter_id)
            holds = any(each == content.content_id for each, _ in state.shares) if state else False
            if state is not None and holds and state.trainer == self._writer.address:
                return None
        return content.withdrawn_at + max(found.terms.notice_s, FINAL_S)

    async def _shares_of(self, adapter_id: AdapterId) -> tuple[tuple[ContentId, int], ...]:
        known = self._shares.get(adapter_id)
        if known is None:
            state = await self._chain.adapter(adapter_id)
            if state is None:
                return ()
            known = self._shares[adapter_id] = state.shares
        return known

    async def _is_withdrawn(
        self, content_id: ContentId, works: dict[ContentId, ContentState | None]
    ) -> bool:
        if content_id not in works:
            works[content_id] = await self._chain.content(content_id)
        found = works[content_id]
        return found is not None and found.withdrawn_at != 0

    async def _enforce(
        self, adapter_id: AdapterId, shares: tuple[tuple[ContentId, int], ...]
    ) -> None:
        """Retire the adapter on the chain if one of its works requires it and it is not retired."""
        words = list(share_words(Share(*row) for row in shares))
        index = await self._chain.enforceable(adapter_id, words) if words else None
        if index is None:
            return
        try:
            sent = await self._writer.submit(
                Call("AdapterRegistry", "enforce", (adapter_id, words, index))
            )
        except ChainError as error:
            # Another node may have been first; if not, the next check tries again.
            _log.info("retirement not enforced", adapter=adapter_id, reason=error.detail)
            return
        work = shares[index][0]
        _log.info("retirement enforced", adapter=adapter_id, work=work, outcome=sent.outcome.value)

    async def _end(self, adapter_id: AdapterId, now_s: int) -> None:
        state = await self._chain.adapter(adapter_id)
        if state is None or not 0 < state.retires_at <= now_s:
            return
        if (end := await self._cause(state)) is not None:
            _log.info("adapter ended", adapter=adapter_id, work=end.content_id, reason=end.reason)
            await self._offers.end(adapter_id, end)

    async def _cause(self, state: AdapterState) -> AdapterEnd | None:
        """Return the work that retired an adapter; None if its trainer did."""
        lapsed: AdapterEnd | None = None
        for content_id, _ in state.shares:
            content = await self._chain.content(content_id)
            grant = await self._chain.grant(content_id, state.trainer)
            if content is None or grant is None:
                continue
            if content.withdrawn_at and await self._retires(grant):
                return AdapterEnd(content_id, WITHDRAWN, content.withdrawn_at, state.retires_at)
            if not grant.live and not content.withdrawn_at and lapsed is None:
                lapsed = AdapterEnd(content_id, LICENSE_ENDED, grant.expires_at, state.retires_at)
        return lapsed

    async def _retires(self, grant: GrantState) -> bool:
        """Return whether a withdrawal retires the adapters of this grant (class 2)."""
        found = await self._chain.terms(grant.terms_hash)
        return found is not None and found.terms.revocation_class == RevocationClass.RETIRE_ADAPTERS

    async def _why_stopped(
        self, used: Iterable[ContentId], works: dict[ContentId, ContentState | None]
    ) -> str | None:
        """Return why a training must stop; None if all its works still permit an adapter."""
        trainer: Address = self._writer.address
        for content_id in used:
            grant = await self._chain.grant(content_id, trainer)
            withdrawn = await self._is_withdrawn(content_id, works)
            if grant is not None and grant.live and not (withdrawn and await self._retires(grant)):
                continue
            content = works.get(content_id)
            if withdrawn and content is not None:
                return f"work {content_id} was withdrawn, {moment(content.withdrawn_at)}"
            return f"the license to work {content_id} ended"
        return None
