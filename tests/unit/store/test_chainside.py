"""Claim rows, transactions and blocks: what the chain's side finds again after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from viz.domain.ports.settlement_ledger import BlockMark
from viz.domain.units import Address, Hash32
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
