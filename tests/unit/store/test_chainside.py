"""Claim rows, transactions and blocks: what the chain's side finds again after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from viz.domain.ledger import ChannelRecord, Line
from viz.domain.outbox import BlockMark, SignedTransaction
from viz.domain.ports import Outcome
from viz.domain.units import AdapterId, Address, Hash32
from viz.store import chainside
from viz.store.ledger import SqlStore

ALICE = Address("0x" + "aA" * 20)


def digest(number: int) -> Hash32:
    return Hash32(number.to_bytes(32, "big"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await SqlStore.open(tmp_path / "ledger.db", {"node": "0xN"})
    yield opened
    await opened.close()


async def test_freezing_moves_the_base_in_the_same_commit(store: SqlStore) -> None:
    """The row holds the voucher; the channel stands on its end point and has no voucher (10)."""
    told: list[Address] = []
    store.watch_frozen(told.append)
    lines = {AdapterId(1): Line(10, 40, 15), AdapterId(2): Line(0, 5, 0), AdapterId(3): Line(7, 7)}
    await store.commit(
        "voucher", ChannelRecord(ALICE, 17, lines, b"\x01" * 64, voucher_head=digest(9))
    )
    row = await store.freeze(ALICE, now_s=50)
    assert row is not None and told == [ALICE]
    assert (row.base_units, row.lines, row.end_units) == (17, ((1, 30), (2, 5)), 52)
    assert (row.signature, row.receipts_head, row.frozen_at) == (b"\x01" * 64, digest(9), 50)
    channel = await store.channel(ALICE)
    assert channel is not None and (channel.base_units, channel.signature) == (52, b"")
    assert channel.lines[AdapterId(1)] == Line(40, 40, 15) and not channel.unclaimed()
    assert await store.freeze(ALICE, now_s=51) is None, "there is nothing new to claim"
    assert list(await store.frozen()) == [row]
    await store.finish(row.claim_id, "settled", "")
    await store.finish(row.claim_id, "dropped", "too late to change")
    assert list(await store.frozen()) == []


async def test_transactions_wait_for_their_end(store: SqlStore) -> None:
    """What was signed and has no known end is found again, by nonce."""
    sent = [SignedTransaction(digest(n), ALICE, 9 - n, b"raw", "claim") for n in (1, 2, 3)]
    for transaction in sent:
        await store.record(transaction)
    await store.resolve(digest(2), Outcome.SETTLED)
    assert list(await store.pending(ALICE)) == [sent[2], sent[0]]


async def test_the_cursor_rolls_back_and_forgets_the_oldest(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough blocks are kept to find a fork, and no more."""
    monkeypatch.setattr(chainside, "MARKS_KEPT", 3)
    for number in range(1, 8):
        await store.advance(BlockMark(number, digest(number)))
    assert [mark.number for mark in await store.marks()] == [7, 6, 5]
    await store.rollback(5)
    await store.advance(BlockMark(6, digest(66)))
    assert list(await store.marks()) == [BlockMark(6, digest(66)), BlockMark(5, digest(5))]
