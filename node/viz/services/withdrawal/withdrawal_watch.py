"""End the use of works that were withdrawn, or whose license ended: adapters and trainings.

Owns what a node does by itself after a withdrawal:

1. It enforces the adapter's retirement on the chain, which anyone may do.
2. It unloads the adapter once the chain says that it is retired.
3. It stops trainings that the work's grant no longer permits.
4. It hides the listings of withdrawn works.
5. It calls ``viz.services.withdrawal.destruction`` for a withdrawn work whose use has ended, and,
   in every class, for its listing.

What the node keeps is told by its disk: also an adapter that it has dropped, and a work that it has
in custody only.

Invariants:

- A withdrawal ends only what the terms of each grant say: no use in class 0, no adapter in
  class 1.
- An adapter is unloaded only when its retirement is confirmed.
- Nothing is destroyed before the time that the grant's class gives, nor within ``FINAL_S`` of the
  withdrawal, which a reorganisation could still undo. A lapsed license destroys nothing.
- A fault of the chain's endpoint ends nothing; the step is tried again.
- The error of one work, adapter or run stops no other (``separate_looks``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import structlog

from viz.domain.display import moment
from viz.domain.ports.chain import AdapterState, ChainReader, ContentState
from viz.domain.ports.holdings import EndedUse
from viz.domain.ports.services import AdapterEnd, KeptAdapters, OfferedAdapters, TrainingRuns
from viz.domain.ports.transactions import Call, ChainWriter
from viz.domain.shares import Share, share_words
from viz.domain.units import UINT64_MAX, AdapterId, Address, ContentId, Hash32
from viz.errors import ChainError
from viz.services.market.listings import Listings
from viz.services.upkeep.supervision import periodically
from viz.services.withdrawal.destruction import WorkDestruction
from viz.services.withdrawal.last_use import FINAL_S, LastUse
from viz.services.withdrawal.separate_looks import SeparateLooks

INTERVAL_S: Final = 60.0
# No event tells that a license lapsed: all adapters are checked this often.
LAPSES_EVERY_S: Final = 3_600
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
        *,
        destruction: WorkDestruction | None = None,
        kept: KeptAdapters | None = None,
        listings: Listings | None = None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Create it; without ``destruction`` nothing is destroyed.

        ``kept`` tells which weights are here of adapters that are not on offer; without it they
        stay. ``listings`` are those that this node shows.
        """
        self._chain, self._writer = chain, writer
        self._offers, self._runs = offers, runs
        self._destruction, self._kept, self._listings = destruction, kept, listings
        self._last_use = LastUse(chain, offers, writer.address)
        self._each = SeparateLooks(chain)
        self._interval_s = interval_s
        self._nothing_left: dict[EndedUse, int] = {}
        self._strays_at_s: dict[Hash32, int] = {}
        self._shares: dict[AdapterId, tuple[tuple[ContentId, int], ...]] = {}
        self._lapses_at_s = 0

    async def run(self) -> None:
        """Check until cancelled; an error of the chain or of one item is logged."""
        await periodically(
            self.step, self._interval_s, _log.warning, "withdrawals are not looked at"
        )

    async def step(self) -> None:
        """Check once: enforce retirements, end retired adapters, stop trainings, destroy."""
        now_s = await self._chain.chain_time()
        for_lapses = now_s >= self._lapses_at_s
        works: dict[ContentId, ContentState | None] = {}
        all_well = True
        for adapter_id in self._offers.adapter_ids():
            look = self._look_at(adapter_id, works, now_s, for_lapses=for_lapses)
            all_well &= await self._each.at(look, "adapter", adapter_id)
        if for_lapses and all_well:
            self._lapses_at_s = now_s + LAPSES_EVERY_S
        for training_id, used in (await self._runs.under_way()).items():
            await self._each.at(self._stop(training_id, used, works), "training", training_id)
        if self._kept is not None:
            await self._each.at(self._end_strays(self._kept, now_s), "folder", "adapters")
        if self._destruction is not None:
            ever = await self._withdrawn_works()
            if self._listings is not None:
                await self._end_listings(self._listings, self._destruction, works, ever, now_s)
            await self._destroy(self._destruction, works, ever, now_s)

    async def _look_at(
        self,
        adapter_id: AdapterId,
        works: dict[ContentId, ContentState | None],
        now_s: int,
        *,
        for_lapses: bool,
    ) -> None:
        """Enforce the retirement of an adapter on offer, and end it when it is retired."""
        shares = await self._shares_of(adapter_id)
        withdrawn = [each for each, _ in shares if await self._is_withdrawn(each, works)]
        if withdrawn or for_lapses:
            await self._enforce(adapter_id, shares)
            await self._end(adapter_id, now_s)

    async def _stop(
        self,
        training_id: str,
        used: Iterable[ContentId],
        works: dict[ContentId, ContentState | None],
    ) -> None:
        """Stop a training if one of its works no longer permits an adapter."""
        if reason := await self._why_stopped(used, works):
            _log.info("training stopped", training=training_id, reason=reason)
            await self._runs.stop(training_id, reason)

    async def _withdrawn_works(self) -> frozenset[ContentId]:
        """Return all works that were withdrawn; none if the endpoint does not serve the logs."""
        try:
            return await self._chain.withdrawn_works()
        except ChainError as error:
            _log.warning("withdrawals are not read from the logs", reason=error.detail)
            return frozenset()

    async def _end_strays(self, kept: KeptAdapters, now_s: int) -> None:
        """End the adapters that are not on offer, and whose weights are still on the disk."""
        for digest in await kept.kept_weights():
            if now_s >= self._strays_at_s.get(digest, 0):
                await self._each.at(self._end_stray(digest, now_s), "weights", digest.hex())

    async def _end_stray(self, digest: Hash32, now_s: int) -> None:
        """End the adapters with these weights, if none is on offer.

        Weights go only if every adapter that was registered with them is retired: whoever names
        another's weights in an adapter of its own and withdraws must not have them destroyed.
        """
        next_s = now_s + LAPSES_EVERY_S
        adapters = await self._chain.adapters_with(digest)
        if not set(adapters) & set(self._offers.adapter_ids()):
            for adapter_id in adapters:
                await self._enforce(adapter_id, await self._shares_of(adapter_id))
            states = [await self._chain.adapter(adapter_id) for adapter_id in adapters]
            # One without its confirmations yet is not over.
            retired_s = max((each.retires_at if each else UINT64_MAX for each in states), default=0)
            if retired_s > now_s:
                next_s = min(next_s, retired_s)
            else:
                await self._end_all([each for each in states if each is not None])
        self._strays_at_s[digest] = next_s

    async def _end_all(self, states: Iterable[AdapterState]) -> None:
        """End retired adapters that are not on offer, if a withdrawal retired them."""
        for state in states:
            end = await self._cause(state)
            if end is not None and end.reason == WITHDRAWN:
                _log.info("stray weights ended", adapter=state.adapter_id, work=end.content_id)
                await self._offers.end(state, end)

    async def _end_listings(
        self,
        listings: Listings,
        destruction: WorkDestruction,
        works: dict[ContentId, ContentState | None],
        withdrawn: frozenset[ContentId],
        now_s: int,
    ) -> None:
        """Hide the listings of withdrawn works, and destroy each when its withdrawal is final."""
        listings.hide(withdrawn)
        for content_id in sorted(withdrawn | listings.withdrawn):
            ending = self._end_listing(destruction, content_id, works, now_s)
            await self._each.at(ending, "listing", content_id)

    async def _end_listing(
        self,
        destruction: WorkDestruction,
        content_id: ContentId,
        works: dict[ContentId, ContentState | None],
        now_s: int,
    ) -> None:
        use = EndedUse(content_id, listing=True)
        if not await self._may_have(destruction, use, now_s):
            return
        content = works[content_id] if await self._is_withdrawn(content_id, works) else None
        if content is not None and now_s >= (due_s := content.withdrawn_at + FINAL_S):
            await destruction.destroy(
                use, withdrawn_at_s=content.withdrawn_at, due_at_s=due_s, time_s=now_s
            )

    async def _destroy(
        self,
        destruction: WorkDestruction,
        works: dict[ContentId, ContentState | None],
        withdrawn: frozenset[ContentId],
        now_s: int,
    ) -> None:
        """Destroy what this node stores of each withdrawn work whose use has ended."""
        ended = self._offers.ended()
        looked_at = {each.content_id for each in ended.values()} | await self._runs.works_used()
        for content_id in sorted(looked_at | withdrawn):
            ends = {
                adapter_id: end.ended_s
                for adapter_id, end in ended.items()
                if end.content_id == content_id and end.reason == WITHDRAWN
            }
            # Of most of the chain's withdrawn works nothing is here: their state is not asked for.
            known = content_id in looked_at
            ending = self._destroy_work(destruction, content_id, ends, works, now_s, known=known)
            await self._each.at(ending, "work", content_id)

    async def _destroy_work(
        self,
        destruction: WorkDestruction,
        content_id: ContentId,
        ends: Mapping[AdapterId, int],
        works: dict[ContentId, ContentState | None],
        now_s: int,
        *,
        known: bool,
    ) -> None:
        """Destroy what is stored of one work, if it was withdrawn and a use of it has ended.

        ``ends`` are the times at which adapters ended with it; ``known``: something of it was here.
        """
        whole = EndedUse(content_id, own=True, custody=True)
        if not known and not await self._may_have(destruction, whole, now_s):
            return
        content = works[content_id] if await self._is_withdrawn(content_id, works) else None
        # Also if all use had ended before: a block may vanish, and the withdrawal with it.
        if content is None or now_s < content.withdrawn_at + FINAL_S:
            return
        own_s = await self._last_use.own_end(content)
        custody_s = await self._last_use.custody_end(content, now_s)
        own, custody = own_s is not None and own_s <= now_s, custody_s is not None
        due = [*ends.values(), *([own_s] if own_s is not None and own else [])]
        due += [custody_s] if custody_s is not None else []
        use = EndedUse(content_id, frozenset(ends), own=own, custody=custody)
        if not due or now_s < self._nothing_left.get(use, 0):
            return
        made = await destruction.destroy(
            use, withdrawn_at_s=content.withdrawn_at, due_at_s=max(due), time_s=now_s
        )
        # What could not be destroyed is tried again at the next look.
        if made is None and not await destruction.has_any(use):
            self._nothing_left[use] = now_s + LAPSES_EVERY_S

    async def _may_have(self, destruction: WorkDestruction, whole: EndedUse, now_s: int) -> bool:
        """Return whether anything of a work is here; looked up at most once an hour if not."""
        if now_s < self._nothing_left.get(whole, 0):
            return False
        if await destruction.has_any(whole):
            return True
        self._nothing_left[whole] = now_s + LAPSES_EVERY_S
        return False

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
            await self._offers.end(state, end)

    async def _cause(self, state: AdapterState) -> AdapterEnd | None:
        """Return the work that retired an adapter; None if its trainer did."""
        lapsed: AdapterEnd | None = None
        for content_id, _ in state.shares:
            content = await self._chain.content(content_id)
            grant = await self._chain.grant(content_id, state.trainer)
            if content is None or grant is None:
                continue
            if content.withdrawn_at and await self._last_use.retires(grant):
                return AdapterEnd(content_id, WITHDRAWN, content.withdrawn_at, state.retires_at)
            if not grant.live and not content.withdrawn_at and lapsed is None:
                lapsed = AdapterEnd(content_id, LICENSE_ENDED, grant.expires_at, state.retires_at)
        return lapsed

    async def _why_stopped(
        self, used: Iterable[ContentId], works: dict[ContentId, ContentState | None]
    ) -> str | None:
        """Return why a training must stop; None if all its works still permit an adapter."""
        trainer: Address = self._writer.address
        for content_id in used:
            grant = await self._chain.grant(content_id, trainer)
            withdrawn = await self._is_withdrawn(content_id, works)
            if (
                grant is not None
                and grant.live
                and not (withdrawn and await self._last_use.retires(grant))
            ):
                continue
            content = works.get(content_id)
            if withdrawn and content is not None:
                return f"work {content_id} was withdrawn, {moment(content.withdrawn_at)}"
            return f"the license to work {content_id} ended"
        return None
