"""The queue of trainings outlives a ledger that refuses a write."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from tests.fakes.chain import FakeChain
from tests.fakes.ledger import MemoryStore

from viz.domain.ledger import TrainingRecord
from viz.errors import StoreError
from viz.services.training import Training, seal_with


class Refusing(MemoryStore):
    """A store that refuses so many writes and readings of trainings before it works."""

    def __init__(self, writes: int, readings: int) -> None:
        super().__init__()
        self.writes, self.readings = writes, readings

    async def put_training(self, training: TrainingRecord) -> None:
        self.writes -= 1
        if self.writes >= 0:
            raise StoreError("the disk is full")
        await super().put_training(training)

    async def training(self, training_id: str) -> TrainingRecord | None:
        self.readings -= 1
        if self.readings >= 0:
            raise StoreError("the ledger's disk does not answer")
        return await super().training(training_id)


async def test_a_refused_write_does_not_stop_the_runs_behind_it(tmp_path: Path) -> None:
    """A run whose start or end cannot be stored is told of; the next one is taken up."""
    store = Refusing(writes=2, readings=1)
    for name in ("one", "two"):
        store.training_rows[name] = TrainingRecord(name, "queued", {})
    chain, key = FakeChain(b"\x11" * 32), b"\x11" * 32
    training = Training(
        chain,
        store,
        chain.clock,
        chain.address,
        seal_with(key),
        directory=tmp_path,
        base_model="none",
        cache_dir=tmp_path,
        threads=1,
        retry_s=0.001,
    )
    loop = asyncio.create_task(training.run())
    async with asyncio.timeout(10):
        while any(row.state in ("queued", "running") for row in store.training_rows.values()):
            assert not loop.done(), "the queue ended"
            await asyncio.sleep(0.001)
    assert {row.state for row in store.training_rows.values()} == {"failed"}
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop
