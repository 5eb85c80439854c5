"""A run publishes itself as was asked: once, whoever waits, and whenever the node stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.chain import FakeChain
from tests.integration.api.done_run import done_run
from tests.integration.api.harness import (
    ADAPTER,
    NODE_KEY,
    OPERATOR_TOKEN,
    Buyer,
    Node,
    running_node,
)

from viz.domain.ports.ledger import TrainingRecord
from viz.domain.ports.transactions import Call, Transaction
from viz.domain.units import AdapterId
from viz.errors import InsufficientFunds, TooMuchGas
from viz.services.training.wish import awaits_publication, publication_state

OPERATOR = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
WISH = {"royaltyBps": 3_000, "trainerBps": 1_000, "name": "keeper", "promptPrice": "9"}
NEW = AdapterId(ADAPTER + 1)


@asynccontextmanager
async def publishing(node: Node) -> AsyncIterator[asyncio.Task[None]]:
    """Run the loop that publishes, as the node does."""
    loop = asyncio.create_task(node.parts.publisher.run())
    try:
        yield loop
    finally:
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError, Killed):
            await loop


async def over(node: Node) -> TrainingRecord:
    """Return the run's record when nothing more happens to it."""
    async for _ in node.parts.trainings.events("t1"):
        pass
    return await node.parts.trainings.record("t1")


def registrations(chain: FakeChain) -> int:
    return sum(call.function == "register" for call in chain.sent)


async def test_a_run_is_published_by_a_node_that_nobody_waits_at(tmp_path: Path) -> None:
    """Stopped between training and publication: the next start does what was asked."""
    chain = FakeChain(NODE_KEY)
    async with running_node(tmp_path, chain=chain) as node:
        await done_run(node, tmp_path, WISH, right=30)
    async with running_node(tmp_path, chain=chain) as node:
        async with publishing(node):
            record = await over(node)
        _, told, _ = await Buyer(node).call("GET", "/operator/v1/trainings/t1", headers=OPERATOR)
    made = told["result"]["publication"]
    assert made == record.result["publication"]
    assert (made["state"], made["adapter_id"], made["offer"]["name"]) == (
        "published", NEW, "keeper",
    )  # fmt: skip
    assert (made["offer"]["promptPrice"], made["offer"]["card"]["right"]) == ("9", 30)
    assert record.result["adapterId"] == NEW and record.result["cid"] == made["cid"]
    assert registrations(chain) == 1
    async with running_node(tmp_path, chain=chain) as node, publishing(node):
        assert NEW in node.parts.catalogue.adapter_ids()
        await asyncio.sleep(0)
        assert not awaits_publication(await node.parts.trainings.record("t1"))
    assert registrations(chain) == 1


class Killed(BaseException):
    """The process ends here."""


class Fatal(FakeChain):
    """A chain on which the registration happens and the process is killed."""

    kills = True

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        made = await super().submit(call, max_gas=max_gas, urgent=urgent)
        if self.kills and call.function == "register":
            raise Killed
        return made


async def test_a_kill_after_the_registration_was_sent_registers_once(tmp_path: Path) -> None:
    """The ledger does not know of it, the chain does: it is found, and not paid a second time."""
    chain, blobs = Fatal(NODE_KEY), MemoryBlobStore()
    async with running_node(tmp_path, chain=chain, blobs=blobs) as node:
        await done_run(node, tmp_path, WISH, right=30)
        async with publishing(node) as loop:
            with pytest.raises(Killed):
                await loop
        record = await node.parts.trainings.record("t1")
        assert "adapterId" not in record.result and registrations(chain) == 1
    chain.kills = False
    async with running_node(tmp_path, chain=chain, blobs=blobs) as node, publishing(node):
        record = await over(node)
        state = chain.adapter_states[NEW]
        assert record.result["publication"]["state"] == "published"
        assert (record.result["adapterId"], record.result["cid"]) == (NEW, state.cid)
        assert NEW in node.engine.adapters()
    assert registrations(chain) == 1


async def test_a_gate_that_refuses_is_kept_with_its_reason(tmp_path: Path) -> None:
    """Below the threshold nothing is registered; the operator reads why, and may sell it anyway."""
    async with running_node(tmp_path) as node:
        await done_run(node, tmp_path, WISH, right=1)
        async with publishing(node):
            record = await over(node)
        made = record.result["publication"]
        assert (made["state"], made["code"]) == ("refused", "adapter-not-taught")
        assert "1 of 40" in made["detail"] and "--publish-anyway" in made["detail"]
        assert registrations(node.chain) == 0
        body = {"trainingId": "t1", "anyway": True, **WISH}
        path = "/operator/v1/publications"
        status, sold, _ = await Buyer(node).call("POST", path, body=body, headers=OPERATOR)
        assert (status, sold["offer"]["adapterId"]) == (201, NEW)
        assert publication_state(await node.parts.trainings.record("t1")) == "published"
        again, same, _ = await Buyer(node).call("POST", path, body=body, headers=OPERATOR)
        assert (again, same["adapter_id"]) == (201, NEW) and registrations(node.chain) == 1


REFUSALS = {
    "a cap on gas": TooMuchGas("gas required exceeds allowance (700000)"),
    "no coin": InsufficientFunds("send coin for gas to this account"),
}


@pytest.mark.parametrize(
    "fault", ["the chain is down", "gas is too dear", "unconfirmed", *REFUSALS]
)
async def test_what_passes_by_itself_is_tried_again(tmp_path: Path, fault: str) -> None:
    """An outage at the end of a night's training costs no adapter. What only the operator can end,
    a cap on gas or an account without coin, needs no command afterwards."""
    blobs = MemoryBlobStore()
    async with running_node(tmp_path, blobs=blobs) as node:
        before = len(blobs.pins)
        node.parts.publisher._retry_s = 0.01
        await done_run(node, tmp_path, WISH, right=30)
        node.chain.down = fault == "the chain is down"
        node.chain.too_dear = fault == "gas is too dear"
        node.chain.refuses = REFUSALS.get(fault)
        if fault == "unconfirmed":
            node.chain.unconfirmed.add(NEW)
        waits = "registered" if fault == "unconfirmed" else "waiting"
        async with publishing(node):
            record = await node.parts.trainings.record("t1")
            while not record.result.get("publication", {}).get("detail"):
                await asyncio.sleep(0.005)
                record = await node.parts.trainings.record("t1")
            assert publication_state(record) == waits
            told = record.result["publication"]["detail"]
            if fault in REFUSALS:
                assert REFUSALS[fault].detail in told
            if fault == "a cap on gas":
                assert record.result["publication"]["code"] == "too-much-gas"
                for todo in (
                    "chain.rpc_url",
                    "viz training cancel t1",
                    "viz adapter register t1",
                    "no endpoint helps: cancel, and train on fewer works",
                ):
                    assert todo in told
            await asyncio.sleep(0.1)
            node.chain.refuses = None
            node.chain.down = node.chain.too_dear = False
            node.chain.unconfirmed.clear()
            record = await over(node)
        made = record.result["publication"]
        assert made["state"] == "published" and "detail" not in made
        assert made["offer"]["adapterId"] == NEW and registrations(node.chain) == 1
        assert len(blobs.pins) == before + 1


async def test_a_wish_that_waits_can_be_taken_back(tmp_path: Path) -> None:
    """Who changed one's mind while the chain was away is not made to pay when it is back."""
    async with running_node(tmp_path) as node:
        node.parts.publisher._retry_s = 0.01
        await done_run(node, tmp_path, WISH, right=30)
        node.chain.down = True
        async with publishing(node):
            record = await node.parts.trainings.record("t1")
            while publication_state(record) != "waiting":
                await asyncio.sleep(0.005)
                record = await node.parts.trainings.record("t1")
            path = "/operator/v1/trainings/t1"
            status, told, _ = await Buyer(node).call("DELETE", path, headers=OPERATOR)
            made = told["result"]["publication"]
            assert (status, told["state"], made["state"]) == (200, "done", "refused")
            node.chain.down = False
            node.parts.trainings.done.set()
            await asyncio.sleep(0.05)
        assert publication_state(await over(node)) == "refused"
        assert registrations(node.chain) == 0


async def test_a_run_without_a_wish_stays_unpublished(tmp_path: Path) -> None:
    """`viz train --no-publish`, and runs of earlier versions, are not sold behind one's back."""
    async with running_node(tmp_path) as node:
        await done_run(node, tmp_path, None, right=30)
        async with publishing(node):
            record = await over(node)
            await asyncio.sleep(0)
        assert "publication" not in record.result and registrations(node.chain) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"royaltyBps": 10_001},
        {"royaltyBps": None},
        {"shares": [[1]]},
        {"promptPrice": 7},
        {"succeeds": "x"},
    ],
)
async def test_a_wish_that_cannot_be_read_is_refused_before_the_training(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """Nobody trains for an hour to learn that a rate was mistyped."""
    async with running_node(tmp_path) as node:
        body = {"works": [], "publish": {**WISH, **change}}
        path = "/operator/v1/trainings"
        for dry in (False, True):
            status, problem, _ = await Buyer(node).call(
                "POST", path, body=body | {"dryRun": dry}, headers=OPERATOR
            )
            assert (status, problem["code"]) == (400, "invalid-request"), problem
            (name,) = change
            assert name in json.dumps(problem)
