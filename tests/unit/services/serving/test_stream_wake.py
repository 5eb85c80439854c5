"""A voucher that arrives while a stream is busy is noticed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from tests.fakes.engine import FakeEngine

from viz.domain.ports.engine import Piece, Sampling
from viz.domain.pricing import Price
from viz.domain.units import BASE_MODEL, ZERO_HASH
from viz.errors import PaymentRequired
from viz.protocol.payment import NeedVoucher
from viz.services.payments.metering import Meter
from viz.services.payments.paid_request import PaidRequest
from viz.services.serving.paid_stream import PaidStream, Phase, ServingPolicy
from viz.services.serving.pieces import QUEUE, ManyChoices, Text

REQUEST = PaidRequest(
    "r",
    BASE_MODEL,
    FakeEngine(),
    Price(1, 1),
    ZERO_HASH,
    b"{}",
    (1,),
    1,
    Sampling(QUEUE),
    1,
    stream=True,
)


class _Paid:
    """Refuses what is beyond ``funds``, in tokens, and keeps what is reserved."""

    reserved = funds = 0

    async def reserve(self, tokens: int, now_s: int) -> None:
        if tokens > self.funds:
            raise PaymentRequired("send a voucher", required=str(tokens))
        self.reserved = tokens

    def delivered(self, choice: int, text: str) -> None:
        pass


class _Silent:
    """A generation that gives nothing: the test puts the pieces into the queue itself."""

    def __aiter__(self) -> _Silent:
        return self

    async def __anext__(self) -> Piece:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_voucher_is_noticed_while_the_queue_is_full() -> None:
    """The notice is a count, so that a full queue cannot lose it: the refused step is retried."""
    meter = _Paid()
    channel = SimpleNamespace(base_units=0, accepted_units=lambda _: 0, best_lines=())
    stream = PaidStream(
        cast(Any, SimpleNamespace(channel=channel, chain_s=0)),
        cast(Meter, meter),
        REQUEST,
        policy=ServingPolicy(step_tokens=QUEUE),
    )
    pieces = ManyChoices("r", cast(Any, [_Silent()]))
    stream._pieces = pieces
    texts = 0
    async with asyncio.timeout(10):
        async for event in stream.events():
            if isinstance(event, NeedVoucher):
                for index in range(QUEUE):
                    piece = Piece("a", (1,), "stop" if index == QUEUE - 1 else None)
                    pieces._queue.put_nowait(Text(0, piece))
                assert pieces._queue.full() and not meter.reserved
                meter.funds = QUEUE
                stream._wake()
            else:
                texts += 1
    await pieces.stop()
    assert texts == QUEUE
    assert meter.reserved == QUEUE
    assert stream.phase is Phase.ENDING
