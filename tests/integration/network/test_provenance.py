"""A node that serves another's adapter says what it was made from, also without its trainer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.fakes.engine import fake_adapter_file
from tests.integration.chain.testnet import Testnet
from tests.integration.network.nodes import RealNode, real_node
from tests.integration.network.works import CreatorsWork, license_to, registered_work

from viz.basemodel.safetensor_file import file_digest
from viz.chain.keys import development_account
from viz.domain.manifest import Manifest, SourceWork, manifest_hash, seal_manifest
from viz.domain.ports.chain import AdapterState
from viz.domain.ports.ledger import TrainingRecord
from viz.domain.units import AdapterId, Hash32, hex_of
from viz.services.adapters.publishing import Publication

TRAINER, SERVER, THIRD = 5, 6, 7


@dataclass
class Served:
    """A trainer's node, and a second one that may serve its adapter."""

    net: Testnet
    trainer: RealNode
    server: RealNode
    work: CreatorsWork
    adapter: AdapterId
    envelope: bytes

    @property
    def manifest_file(self) -> Path:
        return self.trainer.folder / "trainings" / "run1" / "manifest.json"

    async def activate(self) -> None:
        body = {"adapterId": int(self.adapter)}
        status, said = await self.server.operate("POST", "/adapters", body)
        assert status == 201, said

    async def provenance(self, node: RealNode, form: str = "") -> tuple[int, Any]:
        return await node.call("GET", f"/viz/v1/adapters/{self.adapter}/provenance{form}")


@pytest_asyncio.fixture
async def served(net: Testnet, tmp_path: Path) -> AsyncIterator[Served]:
    work = await registered_work(net, tmp_path / "creator")
    await license_to(net, TRAINER, work)
    async with (
        real_node(net, tmp_path / "b", TRAINER) as trainer,
        real_node(net, tmp_path / "c", SERVER) as server,
    ):
        weights = fake_adapter_file(tmp_path / "adapter.safetensors")
        content = await net.chain.content(work.content_id)
        assert content is not None
        manifest = Manifest(
            trainer=trainer.address,
            weights_digest=file_digest(weights),
            base_model=trainer.engine.model.digest,
            base_name="fake",
            works=(SourceWork(work.content_id, content.commitment, 30, 500),),
            rows_digest=Hash32(b"\x07" * 32),
            settings={"rank": 4},
            environment={"threads": 1},
            reproducibility="bitwise-same-cpu-class",
            measurements={},
            started_at="2026-01-01T00:00:00Z",
            finished_at="2026-01-01T00:02:00Z",
        )
        envelope = seal_manifest(manifest, bytes(development_account(TRAINER).key))
        made = await trainer.parts.publishing.publish(
            Publication(
                weights, manifest.base_model, manifest_hash(envelope), 3_000, 1_000,
                [(work.content_id, 10_000)],
            )
        )  # fmt: skip
        told = {"manifestHash": hex_of(manifest_hash(envelope))}
        record = TrainingRecord("run1", "done", {"works": []}, result=told)
        await trainer.store.put_training(record)
        found = Served(net, trainer, server, work, made.adapter_id, envelope)
        found.manifest_file.parent.mkdir(parents=True)
        found.manifest_file.write_bytes(envelope)
        await trainer.announce()
        body = {"adapterId": int(made.adapter_id), "node": server.address, "allowed": True}
        assert (await trainer.operate("POST", "/adapters/permissions", body))[0] == 200
        yield found


async def test_a_serving_node_keeps_the_manifest_when_its_trainer_is_gone(served: Served) -> None:
    """Taken while the weights were, so that buyers there are told for as long as it sells."""
    await served.activate()
    await served.trainer.cut()
    status, listed = await served.provenance(served.server)
    assert status == 200
    urls = [each["url"] for each in listed["forms"]]
    assert all(url.startswith(served.server.url) for url in urls), "its own links"
    _, manifest = await served.provenance(served.server, "/manifest")
    assert manifest == json.loads(served.envelope)
    status, bill = await served.provenance(served.server, "/mlbom")
    assert status == 200 and f"work {served.work.content_id}" in json.dumps(bill)
    (kept,) = (served.server.folder / "manifests").iterdir()
    assert kept.read_bytes() == served.envelope and kept.stat().st_mode & 0o77 == 0


async def test_what_the_chain_does_not_name_is_not_kept(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer's node that answers another manifest is not repeated, nor asked again at once."""
    manifests = served.server.parts.offering._manifests
    assert manifests is not None
    state = await served.net.chain.adapter(served.adapter)
    assert state is not None
    asked: list[bytes] = []

    async def another(adapter: AdapterState) -> bytes:
        asked.append(served.envelope.replace(b'"', b' "', 1))
        return asked[-1]

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "_asked", another)
        await served.activate()
        status, problem = await served.provenance(served.server)
        assert (status, problem["code"]) == (404, "provenance-unknown")
    assert len(asked) == 1 and not (served.server.folder / "manifests").exists()
    manifests._ask_again_s.clear()
    assert await manifests.get(state) == served.envelope
    (file,) = (served.server.folder / "manifests").iterdir()
    file.write_bytes(b"{}")
    manifests._ask_again_s.clear()
    assert await manifests.get(state) == served.envelope, "a damaged file is fetched anew"


async def test_a_node_that_does_not_serve_it_asks_nobody(served: Served) -> None:
    """Strangers make no node fetch what it has no use for; they are told whom to ask."""
    status, problem = await served.provenance(served.server)
    assert (status, problem["code"]) == (404, "provenance-unknown")
    assert problem["trainer"] == served.trainer.address
    manifests = served.server.parts.offering._manifests
    assert manifests is not None and not manifests._ask_again_s
