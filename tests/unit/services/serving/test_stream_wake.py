"""A voucher that arrives while a stream is busy is noticed."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from viz.domain.ports.engine import Piece
from viz.services.payments.metering import Meter
from viz.services.serving.paid_stream import QUEUE, PaidStream, ServingPolicy, Text


class _Paid:
    """Counts the reservations, refuses none."""

    reserved = 0

    async def reserve(self, tokens: int, now_s: int) -> None:
        self.reserved = tokens

    def delivered(self, choice: int, text: str) -> None:
        pass


class _Job:
    choices, request_id, offer, stream = 1, "r", None, True


async def test_a_voucher_is_noticed_while_the_queue_is_full() -> None:
    """The notice is a flag, so that a full queue cannot lose it."""

    async def now(_: Any) -> int:
        return 0

    stream = PaidStream(
        cast(Any, None),
        cast(Meter, _Paid()),
        cast(Any, _Job()),
        max_tokens=QUEUE,
        policy=ServingPolicy(),
        chain_now=now,
    )
    for index in range(QUEUE):
        piece = Piece("a", (1,), "stop" if index == QUEUE - 1 else None)
        stream._queue.put_nowait(Text(0, piece))
    stream._wake()
    assert stream._woken and stream._queue.full()
    async with asyncio.timeout(10):
        assert len([each async for each in stream.events()]) == QUEUE
    assert not stream._woken
