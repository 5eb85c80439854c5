"""Files that are not what they should be: a stable code, one line, and nothing kept or sold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.engine import fake_adapter_file
from tests.integration.api.harness import ADAPTER, OPERATOR_TOKEN, Buyer, Node, running_node
from tests.integration.api.test_refusals import check

from viz.api.context import PARTS
from viz.basemodel.safetensor_file import file_digest
from viz.domain.ports.chain import ContentState
from viz.domain.ports.engine import NO_MODEL
from viz.domain.units import ZERO_ADDRESS, ZERO_HASH, AdapterId, ContentId, Hash32
from viz.domain.work import parse_work
from viz.services.training.queue import TrainingQueue, seal_with
from viz.storage.unixfs import root_of

OPERATOR = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
WORK = b'{"messages": [{"role": "user", "content": "When?"}, ' + (
    b'{"role": "assistant", "content": "At six."}]}\n'
)
SALT = Hash32(b"\x05" * 32)
ONE, TWO, NEW = ContentId(1), ContentId(2), AdapterId(ADAPTER + 1)


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    """A node that trains, with two works on chain; it holds a grant to the first."""
    async with running_node(tmp_path) as running:
        chain = running.chain
        commitment = parse_work("dialogue", WORK).commitment(ZERO_ADDRESS, SALT)
        for work in (ONE, TWO):
            state = ContentState(work, ZERO_ADDRESS, ZERO_ADDRESS, commitment, ZERO_HASH, 0)
            chain.works[work] = state
        chain.granted.add(ONE)
        training = TrainingQueue(
            chain,
            running.store,
            running.clock,
            chain.address,
            seal_with(chain.key),
            directory=tmp_path / "runs",
            bases=[NO_MODEL],
            cache_dir=tmp_path,
            threads=1,
        )
        parts = replace(running.app[PARTS], trainings=training)
        monkeypatch.setitem(running.app._state, PARTS, parts)
        yield running


WORKS: list[tuple[str, bytes | None, dict[str, Any], int, str]] = [
    ("an edited work", WORK.replace(b"six", b"ten"), {}, 409, "commitment-mismatch"),
    ("another creator's work", WORK, {"creator": "0x" + "11" * 20}, 409, "commitment-mismatch"),
    ("a wrong salt", WORK, {"salt": "0x" + "06" * 32}, 409, "commitment-mismatch"),
    ("a work that is no dialogue", b"only words\n", {}, 400, "invalid-work"),
    ("a work that is not there", None, {}, 400, "invalid-work"),
    ("a work without a grant", WORK, {"contentId": 2}, 403, "no-live-grant"),
    ("a work that the chain does not have", WORK, {"contentId": 3}, 400, "invalid-request"),
]


@pytest.mark.parametrize(
    ("what", "held", "change", "status", "code"), WORKS, ids=[each[0] for each in WORKS]
)
async def test_a_work_that_is_not_the_registered_one_is_not_trained_on(
    node: Node,
    tmp_path: Path,
    what: str,
    held: bytes | None,
    change: dict[str, Any],
    status: int,
    code: str,
) -> None:
    """Protects creators: only the file behind the commitment is read for training."""
    path = tmp_path / "work.jsonl"
    if held is not None:
        path.write_bytes(held)
    work = {
        "path": str(path),
        "contentId": 1,
        "kind": "dialogue",
        "creator": ZERO_ADDRESS,
        "salt": "0x" + SALT.hex(),
    }
    body = {"works": [work | change]}
    answered, problem, _ = await Buyer(node).call(
        "POST", "/operator/v1/trainings", body=body, headers=OPERATOR
    )
    assert answered == status, problem
    check(status, problem, code)
    assert await node.store.trainings() == []


async def test_the_registered_work_is_taken(node: Node, tmp_path: Path) -> None:
    """The table above refuses for the reason it names: the right file is queued."""
    (tmp_path / "work.jsonl").write_bytes(WORK)
    work = {"path": str(tmp_path / "work.jsonl"), "contentId": 1, "kind": "dialogue"}
    body = {"works": [work | {"creator": ZERO_ADDRESS, "salt": "0x" + SALT.hex()}]}
    status, run, _ = await Buyer(node).call(
        "POST", "/operator/v1/trainings", body=body, headers=OPERATOR
    )
    assert (status, run["state"]) == (202, "queued")


WEIGHTS = [
    ("weights that are nowhere", 404, "blob-not-found"),
    ("other weights under the CID", 502, "blob-corrupt"),
    ("weights that are no safetensors", 422, "invalid-adapter-file"),
    ("another base model's weights", 403, "adapter-not-servable"),
]


@pytest.mark.parametrize(("what", "status", "code"), WEIGHTS, ids=[each[0] for each in WEIGHTS])
async def test_corrupt_weights_are_not_put_on_offer(
    node: Node, tmp_path: Path, what: str, status: int, code: str
) -> None:
    """Protects buyers: what is sold is what the chain names, or it is not sold."""
    good = fake_adapter_file(tmp_path / "good.safetensors", seed=5)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(good.read_bytes()[:100])
    base, digest, cid = node.engine.model.digest, file_digest(good), root_of(good.read_bytes())
    if what == "other weights under the CID":
        cid = await node.parts.blobs.add(broken)
    elif what == "weights that are no safetensors":
        digest, cid = file_digest(broken), await node.parts.blobs.add(broken)
    elif what == "another base model's weights":
        base, cid = ZERO_HASH, await node.parts.blobs.add(good)
    state = node.chain.put_adapter(NEW, digest)
    node.chain.adapter_states[NEW] = replace(state, cid=cid, base_model=base)
    answered, problem, _ = await Buyer(node).call(
        "POST", "/operator/v1/adapters", body={"adapterId": NEW}, headers=OPERATOR
    )
    assert answered == status, problem
    check(status, problem, code)
    assert [offer.adapter_id for offer in node.parts.catalogue.offers()] == [0, ADAPTER]
    assert NEW not in node.engine.adapters()
    assert [record.adapter_id for record in await node.store.adapters()] == [ADAPTER]
