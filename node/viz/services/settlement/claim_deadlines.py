"""By when each channel must be claimed: payers that leave, adapters that end.

Owns what is known of close requests, and the look at the ends of adapters. Does not decide what is
claimed (``viz.services.settlement.claim_policy``), and stores nothing: after a restart the chain is
asked again.
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
    """Which channels cannot wait; ``claim_by`` says it of an adapter, in chain time."""

    def __init__(self, reader: ChainReader, node: Address, claim_by: ClaimBy | None = None) -> None:
        self._reader = reader
        self._node = node
        self._claim_by = claim_by
        self._closing: set[Address] = set()
        self._asked: set[Address] = set()

    def close_requested(self, signer: Address) -> bool:
        """Note that this channel's payer is leaving; return whether that is news."""
        news = signer not in self._closing
        self._closing.add(signer)
        return news

    def claimed(self, signer: Address) -> None:
        """A row of this channel is settled: should it owe more, the chain is asked anew."""
        self._closing.discard(signer)
        self._asked.discard(signer)

    async def of(self, owing: Mapping[Address, Collection[AdapterId]]) -> dict[Address, int]:
        """Return the chain time before which each channel with a deadline must be claimed.

        ``owing`` are the channels with unclaimed lines, and the adapters of those. Raises
        ChainError.
        """
        # Requests are reported once: who left before this process began has to be asked for.
        ask = [each for each in owing if each not in self._asked or each in self._closing]
        found: dict[Address, int] = {}
        for signer in ask:
            seen = await self._reader.channel(signer, self._node, confirmed=False)
            self._asked.add(signer)
            if seen is not None and seen.close_at:
                self._closing.add(signer)
                found[signer] = seen.close_at
            elif signer in self._closing:
                found[signer] = NEVER  # a close by agreement, or one that vanished: no hurry
        ends = await self._ends({key for lines in owing.values() for key in lines})
        for signer, lines in owing.items():
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
