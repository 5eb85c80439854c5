"""Find the time before which each channel must be claimed.

A channel has such a deadline if its payer requested a close, or one of its adapters ends. Owns the
known close requests. ``viz.services.settlement.claim_policy`` decides what is claimed. Nothing is
stored: after a restart the chain is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from viz.domain.ports.chain import ChainReader
from viz.domain.units import UINT64_MAX, AdapterId, Address

AT_ONCE: Final = 8
NEVER: Final = UINT64_MAX
ClaimBy = Callable[[AdapterId], Awaitable[int | None]]


class ClaimDeadlines:
    """Knows the channels with a deadline; ``claim_by`` returns that of an adapter (chain time)."""

    def __init__(self, reader: ChainReader, node: Address, claim_by: ClaimBy | None = None) -> None:
        self._reader = reader
        self._node = node
        self._claim_by = claim_by
        self._closing: set[Address] = set()
        self._asked: set[Address] = set()

    def close_requested(self, signer: Address) -> bool:
        """Record that this channel's payer requested a close; return whether it was unknown."""
        news = signer not in self._closing
        self._closing.add(signer)
        return news

    def claimed(self, signer: Address) -> None:
        """Record that a row of this channel is settled; the next ``of`` asks the chain again."""
        self._closing.discard(signer)
        self._asked.discard(signer)

    async def of(self, unclaimed: Mapping[Address, Collection[AdapterId]]) -> dict[Address, int]:
        """Return the chain time before which each channel with a deadline must be claimed.

        ``unclaimed`` holds the channels with unclaimed lines, and the adapters of these lines.
        Raises ChainError.
        """
        # The watcher reports a close request once. So each channel is read once from the chain, to
        # find requests from before this process began, and again while it is closing.
        ask = [each for each in unclaimed if each not in self._asked or each in self._closing]
        found: dict[Address, int] = {}
        for signer in ask:
            seen = await self._reader.channel(signer, self._node, confirmed=False)
            self._asked.add(signer)
            if seen is not None and seen.close_at:
                self._closing.add(signer)
                found[signer] = seen.close_at
            elif signer in self._closing:
                # A close by agreement, or a request that a reorganisation removed: no deadline.
                found[signer] = NEVER
        ends = await self._ends({key for lines in unclaimed.values() for key in lines})
        for signer, lines in unclaimed.items():
            times = [ends[key] for key in lines if key in ends]
            if times:
                found[signer] = min(*times, found.get(signer, NEVER))
        return found

    async def _ends(self, adapter_ids: set[AdapterId]) -> dict[AdapterId, int]:
        if self._claim_by is None:
            return {}
        ends: dict[AdapterId, int] = {}
        ids = sorted(adapter_ids)
        for start in range(0, len(ids), AT_ONCE):
            part = ids[start : start + AT_ONCE]
            times = await asyncio.gather(*(self._claim_by(each) for each in part))
            ends |= {each: time for each, time in zip(part, times, strict=True) if time is not None}
        return ends
