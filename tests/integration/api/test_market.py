"""What the node tells of itself, its blobs, and its operator's side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.engine import fake_adapter_file
from tests.integration.api.done_run import done_run
from tests.integration.api.harness import ADAPTER, OPERATOR_TOKEN, Buyer, Node, running_node

from viz.api.context import PARTS, STOPPING
from viz.domain.license import Terms
from viz.domain.ports.ledger import OfferedWork, TrainingRecord
from viz.domain.units import ZERO_HASH, AdapterId, ContentId
from viz.errors import InvalidRequest
from viz.protocol import payment
from viz.protocol.messages import NodeInfo
from viz.services.adapters.publishing import Publication
from viz.services.training.queue import TrainingQueue
from viz.services.work_records import Registration, save_record

REGISTERED = Registration(
    title="The keeper",
    kind="text",
    file="work.txt",
    creator=DEPLOYMENT.token,
    salt=ZERO_HASH,
    merkle_root=ZERO_HASH,
    commitment=ZERO_HASH,
    terms=Terms(0, 0, 0, 0, 0, 0, approval_required=False),
    license={},
    license_hash=ZERO_HASH,
    content_id=ContentId(1),
)
OPERATOR = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
BLOB = bytes(range(256)) * 3_000


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


async def test_the_node_says_who_it_is_and_what_it_sells(node: Node) -> None:
    """A buyer learns chain, contracts, token and prices from one message."""
    _, body, headers = await Buyer(node).call("GET", payment.NODE_PATH)
    info = NodeInfo.from_json(body)
    assert info.node == node.chain.address and info.settlement == node.chain.deployment.settlement
    assert [offer.adapter_id for offer in info.adapters] == [0, ADAPTER]
    assert info.minimum_step_units > 0 and headers["X-Request-Id"]
    _, adapter, _ = await Buyer(node).call("GET", f"/viz/v1/adapters/{ADAPTER}")
    assert adapter["servedHere"] and adapter["royaltyBps"] == 2000
    status, problem, _ = await Buyer(node).call("GET", "/viz/v1/adapters/99")
    assert (status, problem["code"]) == (404, "unknown-adapter")


async def test_blobs_are_given_out_block_by_block(node: Node) -> None:
    """Raw blocks by CID, the whole on wish, and nothing that is not kept here."""
    cid = await node.parts.blobs.add(BLOB)
    async with node.http.get(f"{node.url}/ipfs/{cid}", params={"format": "raw"}) as response:
        assert response.content_type == "application/vnd.ipld.raw"
        assert await response.read() == await node.parts.blobs.block(cid)
    async with node.http.get(f"{node.url}/ipfs/{cid}") as response:
        assert await response.read() == BLOB
    gone = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
    queries: tuple[dict[str, str], ...] = ({"format": "raw"}, {})
    for query in queries:
        async with node.http.get(f"{node.url}/ipfs/{gone}", params=query) as response:
            assert response.status == 404
            assert (await response.json(content_type=None))["code"] == "blob-not-found"


async def test_metrics_count_what_was_billed(node: Node) -> None:
    """The operator's graphs and the receipts agree."""
    buyer = await Buyer(node).ready()
    answer = await buyer.ask()
    assert answer.receipt is not None
    async with node.http.get(node.url + "/metrics", headers=OPERATOR) as response:
        text = await response.text()
    amount = answer.receipt.receipt.amount_units
    assert f"viz_billed_units_total {float(amount)}" in text
    assert 'path="/v1/chat/completions"' in text and buyer.signer not in text


async def test_the_operator_settles_and_looks(node: Node) -> None:
    """What status shows as unclaimed is claimed by settle."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    _, before, _ = await buyer.call("GET", "/operator/v1/status", headers=OPERATOR)
    assert before["unclaimed"] == str(buyer.channel.total_units) and before["receipts"] == 1
    _, report, _ = await buyer.call("POST", "/operator/v1/settle", headers=OPERATOR)
    assert report["settled"] == 1 and report["waiting"] == 0
    _, after, _ = await buyer.call("GET", "/operator/v1/status", headers=OPERATOR)
    assert after["unclaimed"] == "0"
    _, listed, _ = await buyer.call("GET", "/operator/v1/channels", headers=OPERATOR)
    assert listed["channels"][0]["base"] == str(buyer.channel.total_units)


async def test_creators_of_every_adapter_ever_sold_are_named_while_they_are_owed(
    node: Node,
) -> None:
    """A dropped adapter still has royalties to distribute; one without any costs no gas."""
    buyer = await Buyer(node).ready()
    await buyer.ask()
    never = AdapterId(ADAPTER + 1)
    node.chain.royalties |= {ADAPTER: 12, never: 34}
    await node.parts.catalogue.drop(ADAPTER)
    path = "/operator/v1/royalties"
    _, said, _ = await buyer.call("GET", path, headers=OPERATOR)
    assert said["royalties"] == [{"adapterId": ADAPTER, "undistributed": "12"}]
    node.chain.royalties[ADAPTER] = 0
    _, said, _ = await buyer.call("GET", path, headers=OPERATOR)
    assert said["royalties"] == []


async def test_an_adapter_activated_again_keeps_its_name_and_prices(
    node: Node, tmp_path: Path
) -> None:
    """A repaired adapter is not sold at other prices than its operator set."""
    buyer, path = Buyer(node), "/operator/v1/adapters"
    weights = fake_adapter_file(tmp_path / "new.safetensors", seed=9)
    terms = (3_000, 1_000, [(ContentId(1), 10_000)])
    made = await node.parts.publishing.publish(
        Publication(weights, node.engine.model.digest, ZERO_HASH, *terms)
    )
    body = {"adapterId": made.adapter_id}
    named: dict[str, Any] = {"name": "tides", "description": "of the sea", "promptPrice": "7"}
    named["titles"] = [[1, "The sea"]]
    await buyer.call("POST", path, body=body | named, headers=OPERATOR)
    (first,) = [r for r in node.parts.catalogue.records() if r.adapter_id == made.adapter_id]
    assert (first.name, first.description, first.prompt_units_per_million) == (
        "tides", "of the sea", 7,
    )  # fmt: skip
    assert first.works == (OfferedWork(ContentId(1), "The sea"),)
    node.clock.now += 60
    await buyer.call("POST", path, body=body, headers=OPERATOR)
    (again,) = [r for r in node.parts.catalogue.records() if r.adapter_id == made.adapter_id]
    assert again == first
    await buyer.call("POST", path, body=body | {"completionPrice": "0"}, headers=OPERATOR)
    (free,) = [r for r in node.parts.catalogue.records() if r.adapter_id == made.adapter_id]
    assert free == replace(first, completion_units_per_million=0)


class Runs:
    """A training service that tells two steps and then waits."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.cancelled: list[str] = []

    async def start(self, request: Mapping[str, Any]) -> TrainingRecord:
        record = TrainingRecord("t1", "running", dict(request))
        await self._node.store.put_training(record)
        return record

    async def cancel(self, training_id: str) -> TrainingRecord:
        self.cancelled.append(training_id)
        return replace(await self.record(training_id), state="cancelled")

    async def record(self, training_id: str) -> TrainingRecord:
        found = await self._node.store.training(training_id)
        if found is None:
            raise InvalidRequest(f"there is no training run {training_id!r}")
        return found

    async def plan(self, request: Mapping[str, Any]) -> Any:
        raise AssertionError("no test plans")

    def standing(self, training_id: str) -> Mapping[str, Any]:
        return {"event": "step", "step": 2, "steps": 9, "loss": 0.5}

    async def events(self, training_id: str) -> AsyncIterator[Mapping[str, Any]]:
        yield {"step": 1}
        yield {"step": 2}
        await asyncio.Event().wait()


@pytest.mark.parametrize("fault", ["unconfirmed", "cannot be loaded"])
async def test_a_published_adapter_that_is_not_on_offer_yet_is_named(
    node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    """Registered and paid for: the id reaches the operator, who puts it on offer afterwards."""
    new = AdapterId(ADAPTER + 1)
    loads = node.engine.add_adapter

    async def fails(*_: object) -> None:
        raise RuntimeError("dtypes do not match")

    if fault == "unconfirmed":
        node.chain.unconfirmed.add(new)
    else:
        monkeypatch.setattr(node.engine, "add_adapter", fails)
    work = tmp_path / "work.jsonl"
    save_record(work, REGISTERED)
    works = [{"path": str(work)}, {"path": str(tmp_path / "none.txt")}, 7]
    asked = {"works": works, "name": "keeper", "description": "of a lighthouse"}
    await done_run(node, tmp_path, None, right=30, **asked)
    buyer, body = Buyer(node), {"trainingId": "t1", "royaltyBps": 3_000, "trainerBps": 1_000}
    path = "/operator/v1/publications"
    status, said, _ = await buyer.call("POST", path, body=body, headers=OPERATOR)
    assert (status, said["offer"], said["adapter_id"]) == (201, None, new)
    assert f"viz adapter activate {new}" in said["detail"]
    assert [offer.adapter_id for offer in node.parts.catalogue.offers()] == [0, ADAPTER]
    path, body = "/operator/v1/adapters", {"adapterId": new}
    if fault == "unconfirmed":
        status, problem, _ = await buyer.call("POST", path, body=body, headers=OPERATOR)
        assert (status, problem["code"]) == (404, "unknown-adapter")
    node.chain.unconfirmed.clear()
    monkeypatch.setattr(node.engine, "add_adapter", loads)
    status, offer, _ = await buyer.call("POST", path, body=body, headers=OPERATOR)
    assert (status, offer["adapterId"]) == (201, new)
    assert new in node.engine.adapters()
    assert offer["works"] == [{"contentId": 1, "title": "The keeper"}]
    _, info, _ = await buyer.call("GET", payment.NODE_PATH)
    told = NodeInfo.from_json(info).adapters[-1]
    assert (told.name, told.description) == ("keeper", "of a lighthouse")
    assert told.works == (OfferedWork(ContentId(1), "The keeper"),)


async def test_training_progress_streams_and_ends_with_the_node(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`viz train` follows a run; a stopping node ends the stream instead of hanging on it."""
    runs = Runs(node)
    app = node.app
    monkeypatch.setitem(app._state, PARTS, replace(app[PARTS], trainings=cast(TrainingQueue, runs)))
    buyer = Buyer(node)
    path = "/operator/v1/trainings"
    status, made, _ = await buyer.call("POST", path, body={"works": [1]}, headers=OPERATOR)
    assert status == 202 and made["state"] == "running"
    async with node.http.get(f"{node.url}{path}/t1/events", headers=OPERATOR) as response:
        lines = [await response.content.readline() for _ in range(4)]
        assert [json.loads(line[6:]) for line in lines[::2]] == [{"step": 1}, {"step": 2}]
        app[STOPPING].set()
        await response.read()
    status, found, _ = await buyer.call("GET", "/operator/v1/status", headers=OPERATOR)
    assert [each["progress"]["step"] for each in found["trainings"]] == [2]  # newer than the ledger
    status, ended, _ = await buyer.call("DELETE", f"{path}/t1", headers=OPERATOR)
    assert ended["state"] == "cancelled" and runs.cancelled == ["t1"]
    status, problem, _ = await buyer.call("GET", f"{path}/none", headers=OPERATOR)
    assert (status, problem["code"]) == (400, "invalid-request")
