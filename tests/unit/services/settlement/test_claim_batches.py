"""Claims are cut to what one transaction carries, and one refused row does not hold the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import structlog
from tests.fakes.chain import FakeClock

from viz.domain.claim_rows import unpack_rows
from viz.domain.ports.settlement_ledger import ClaimRecord
from viz.domain.ports.transactions import Call, Outcome, Transaction
from viz.domain.units import AdapterId, Hash32, parse_address
from viz.errors import TransactionFailed
from viz.services.settlement.claim_policy import (
    MAX_BATCH_BYTES,
    MAX_BATCH_GAS,
    MAX_BATCH_LINES,
    MAX_ROWS,
    batches,
    claim_gas,
    packed,
)
from viz.services.settlement.claim_sender import ClaimSender

SIGNER = parse_address("0x" + "11" * 20)


def row(number: int, lines: int = 1) -> ClaimRecord:
    return ClaimRecord(
        number,
        SIGNER,
        number,
        tuple((AdapterId(each), 1) for each in range(lines)),
        Hash32(bytes(32)),
        bytes(64),
        0,
    )


@pytest.mark.parametrize("lines", [1, 30, 255])
def test_a_batch_fits_one_transaction_and_no_row_is_lost(lines: int) -> None:
    """Wide rows are cut by lines and bytes, narrow ones by their number, all in order."""
    rows = [row(number, lines) for number in range(450)]
    parts = list(batches(rows))
    assert [each for part in parts for each in part] == rows
    for part in parts:
        assert len(part) <= MAX_ROWS
        assert sum(len(each.lines) for each in part) <= MAX_BATCH_LINES
        assert len(packed(part)) <= MAX_BATCH_BYTES


def test_a_batch_takes_no_more_gas_than_one_transaction_may() -> None:
    """Rows for many adapters, each of which writes its balance."""
    rows = [
        replace(row(number), lines=tuple((AdapterId(10 * number + each), 1) for each in range(10)))
        for number in range(150)
    ]
    parts = list(batches(rows))
    assert [each for part in parts for each in part] == rows and len(parts) > 1
    for part in parts:
        assert claim_gas([[key for key, _ in each.lines] for each in part]) <= MAX_BATCH_GAS


class Refusing:
    """A sender whose chain refuses any claim that holds the bad rows."""

    def __init__(self, bad: Sequence[int]) -> None:
        self.bad, self.calls, self.sent = set(bad), 0, list[int]()

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        self.calls += 1
        numbers = [each.base_units for each in unpack_rows(call.args[0])]
        if self.bad & set(numbers):
            raise TransactionFailed(f"the contract refused, at {self.calls} wei")
        self.sent += numbers
        return Transaction(Outcome.MINED, Hash32(bytes(32)), gas_used=1)


def sender(writer: Refusing) -> ClaimSender:
    return ClaimSender(cast(Any, writer), FakeClock())


async def test_a_refused_row_does_not_hold_the_others() -> None:
    """A refused batch is halved until only the bad row is left out."""
    writer = Refusing([77])
    await sender(writer).send([row(number) for number in range(200)])
    assert writer.sent == [number for number in range(200) if number != 77]


async def test_halving_ends_and_says_why_when_all_is_refused() -> None:
    """A chain that refuses everything is asked a bounded number of times, then reported."""
    writer = Refusing(range(200))
    with pytest.raises(TransactionFailed):
        await sender(writer).send([row(number) for number in range(200)])
    assert writer.calls < 50


async def test_a_refusal_that_stays_is_told_once() -> None:
    """Each half, and each pass, is refused for the same reason."""
    claims = sender(Refusing(range(20)))
    with structlog.testing.capture_logs() as told:
        for _ in range(3):
            with pytest.raises(TransactionFailed):
                await claims.send([row(number) for number in range(20)])
    assert [each["event"] for each in told] == ["claim refused"]
