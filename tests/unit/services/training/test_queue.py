"""The queue of trainings outlives a ledger that refuses a write."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.ports.chain import ContentState
from viz.domain.ports.engine import NO_MODEL
from viz.domain.ports.ledger import TrainingRecord
from viz.domain.units import ZERO_HASH, ContentId, Hash32, hex_of
from viz.domain.work import parse_work
from viz.errors import InvalidRequest, StoreError
from viz.services.training.queue import TrainingQueue, seal_with

OTHER = replace(NO_MODEL, name="larger", digest=Hash32(b"\2" * 32))
KEY = b"\x11" * 32
WORK = b'{"messages": [{"role": "user", "content": "When?"}, ' + (
    b'{"role": "assistant", "content": "At six."}]}\n'
)


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


def training_on(store: MemoryStore, chain: FakeChain, folder: Path) -> TrainingQueue:
    return TrainingQueue(
        chain,
        store,
        chain.clock,
        chain.address,
        seal_with(KEY),
        directory=folder,
        bases=[NO_MODEL, OTHER],
        cache_dir=folder,
        threads=1,
        retry_s=0.001,
    )


class Slow(FakeChain):
    """A chain that is asked for a work, and answers when it is let."""

    def __init__(self) -> None:
        super().__init__(KEY)
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def content(self, content_id: ContentId) -> ContentState | None:
        self.asked.set()
        await self.answer.wait()
        return await super().content(content_id)


def licensed_request(chain: FakeChain, folder: Path) -> dict[str, Any]:
    """Register a work on the chain with a grant, and return the request to train on it."""
    path = folder / "work.jsonl"
    path.write_bytes(WORK)
    creator, one = address_of(7), ContentId(1)
    commitment = parse_work("dialogue", WORK).commitment(creator, ZERO_HASH)
    chain.works[one] = ContentState(one, creator, creator, commitment, ZERO_HASH, 0)
    chain.granted.add(one)
    work = {"path": str(path), "contentId": 1, "kind": "dialogue", "creator": creator}
    return {"works": [work | {"salt": "0x" + ZERO_HASH.hex()}]}


async def test_a_run_that_is_being_checked_can_be_cancelled(tmp_path: Path) -> None:
    """Between the queue and the training process a cancel is not lost."""
    chain, store = Slow(), MemoryStore()
    request = licensed_request(chain, tmp_path)
    store.training_rows["one"] = TrainingRecord("one", "queued", request)
    training = training_on(store, chain, tmp_path)
    loop = asyncio.create_task(training.run())
    async with asyncio.timeout(10):
        await chain.asked.wait()
        cancelling = asyncio.create_task(training.cancel("one"))
        await asyncio.sleep(0)
        chain.answer.set()
        assert (await cancelling).state == "cancelled"
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop


async def test_a_run_keeps_the_base_that_it_was_asked_for(tmp_path: Path) -> None:
    """Entries may change their order, or go, while a run waits; the record names the digest."""
    chain, store = FakeChain(KEY), MemoryStore()
    training = training_on(store, chain, tmp_path)
    request = licensed_request(chain, tmp_path)
    first = await training.start(request)
    second = await training.start(request | {"base": OTHER.name})
    assert [each.request["base"] for each in (first, second)] == [
        hex_of(NO_MODEL.digest),
        hex_of(OTHER.digest),
    ]
    with pytest.raises(InvalidRequest, match="no base model 'huge'"):
        await training.start(request | {"base": "huge"})


async def test_a_run_whose_base_is_not_served_waits_and_holds_up_no_other(tmp_path: Path) -> None:
    """An entry that is switched off for a day must not cost a run that was paid for."""
    store = MemoryStore()
    asked = {"one": {"base": "0x" + "99" * 32}, "two": {}}
    for name, request in asked.items():
        store.training_rows[name] = TrainingRecord(name, "running", request)
    training = training_on(store, FakeChain(KEY), tmp_path)
    loop = asyncio.create_task(training.run())
    async with asyncio.timeout(10):
        while store.training_rows["two"].state != "failed":
            assert not loop.done(), "the queue ended"
            await asyncio.sleep(0.001)
        assert store.training_rows["one"].state == "queued"
        assert (await training.cancel("one")).state == "cancelled"
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop


async def test_a_refused_write_does_not_stop_the_runs_behind_it(tmp_path: Path) -> None:
    """A run whose start or end cannot be stored is told of; the next one is taken up."""
    store = Refusing(writes=2, readings=1)
    for name in ("one", "two"):
        store.training_rows[name] = TrainingRecord(name, "queued", {})
    training = training_on(store, FakeChain(KEY), tmp_path)
    loop = asyncio.create_task(training.run())
    async with asyncio.timeout(10):
        while any(row.state in ("queued", "running") for row in store.training_rows.values()):
            assert not loop.done(), "the queue ended"
            await asyncio.sleep(0.001)
    assert {row.state for row in store.training_rows.values()} == {"failed"}
    loop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop
