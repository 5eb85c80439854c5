"""`viz audit adapter` and `viz train --dry-run` as a person meets them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, FREE_TERMS, FakeChain
from tests.integration.api.harness import NODE_KEY, OPERATOR_TOKEN, running_node
from tests.integration.training.conftest import CREATOR, SALT
from typer.testing import CliRunner

from viz.api.context import PARTS
from viz.basemodel.safetensor_file import file_digest
from viz.chain import contracts, rpc
from viz.chain.deployment import save_deployment
from viz.cli.main import app
from viz.domain.eip712 import public_address
from viz.domain.manifest import manifest_hash, seal_manifest
from viz.domain.ports.chain import AdapterState, ContentState, TermsState
from viz.domain.ports.engine import NO_MODEL
from viz.domain.units import ZERO_HASH, AdapterId, Cid, ContentId, Hash32, parse_hash
from viz.domain.work import parse_work
from viz.protocol.registration import parse_description
from viz.services.training.queue import TrainingQueue, seal_with
from viz.services.training.request import read_input
from viz.services.training.result import manifest_of
from viz.services.work_records import Registration, draft, save_record
from viz.training import pace
from viz.training.process import TrainingProcess

KEY = b"\x03" * 32
INPUT = 4
ONE = ContentId(1)


class _Rpc:
    """A connection to a chain that is where it should be."""

    def __init__(self, url: str) -> None:
        assert url == "http://127.0.0.1:1"

    async def check(self, deployment: object, remedy: str = "") -> None:
        assert deployment == DEPLOYMENT and remedy, "an audit says what its own option would mend"

    async def close(self) -> None:
        """Nothing was opened."""


def _record(work: Path) -> Registration:
    """Write the record that lies beside a registered work, under the tests' creator and salt."""
    terms = Path("examples/works/varn-point/terms.toml").read_text()
    made = draft(work, parse_description(terms, token_decimals=6), CREATOR)
    commitment = parse_work("dialogue", work.read_bytes()).commitment(CREATOR, SALT)
    found = replace(made, salt=Hash32(SALT), commitment=commitment, content_id=ONE)
    save_record(work, found)
    return found


def test_an_adapter_is_audited_by_command(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects buyers and creators: one command retrains an adapter and says what came of it."""
    run = make_run()
    (given,) = run.works
    _record(given.path)

    async def train() -> dict[str, Any]:
        events = [each async for each in TrainingProcess(run, tmp_path / "run").events()]
        metrics: dict[str, Any] = events[-1].values["metrics"]
        return metrics

    metrics = asyncio.run(train())
    trainer = public_address(KEY)
    manifest = manifest_of(run, [read_input(given)], metrics, trainer, 1_800_000_000)
    envelope = seal_manifest(manifest, KEY)
    (tmp_path / "manifest.json").write_bytes(envelope)
    on_chain = AdapterState(
        AdapterId(1), trainer, manifest.base_model, manifest.weights_digest, Cid("bafy"),
        manifest_hash(envelope), 3_000, 1_000, 0, ((ONE, 10_000),),
    )  # fmt: skip
    states = {1: on_chain, 2: replace(on_chain, weights_digest=Hash32(bytes(32)))}

    class Chain:
        def __init__(self, *_: object) -> None:
            """Nothing to connect."""

        async def adapter(self, adapter_id: int) -> AdapterState | None:
            return states.get(adapter_id)

        async def content(self, content_id: ContentId) -> ContentState:
            commitment = parse_hash(given.commitment)
            return ContentState(content_id, CREATOR, CREATOR, commitment, ZERO_HASH, 0)

    monkeypatch.setattr(contracts, "Chain", Chain)
    monkeypatch.setattr(rpc, "Rpc", _Rpc)
    save_deployment(tmp_path / "deployment.json", DEPLOYMENT)

    def audit(adapter: int, *options: str) -> Any:
        words = f"audit adapter {adapter} {given.path} --manifest {tmp_path}/manifest.json"
        at = f"--rpc http://127.0.0.1:1 --data-dir {tmp_path} --base-model {run.base_model}"
        return CliRunner().invoke(app, [*words.split(), *at.split(), *options])

    kept = tmp_path / "kept.safetensors"
    done = audit(1, "--keep", str(kept))
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "reproduced" in said and "training rows match" in said and "differs" not in said
    assert "step 8" in done.stderr
    assert file_digest(kept) == manifest.weights_digest, "for `viz audit answer --weights`"
    environment = metrics["environment"]
    others = {"GenuineIntel", "AuthenticAMD"} - {environment["cpuVendor"]}
    for changes, status, verdict in (
        ({"environment": environment | {"moonPhase": "full"}}, 13, "different"),
        ({"environment": environment | {"cpuVendor": max(others)}}, 14, "inconclusive"),
    ):
        false = seal_manifest(replace(manifest, weights_digest=Hash32(b"\7" * 32), **changes), KEY)
        (tmp_path / "manifest.json").write_bytes(false)
        states[1] = replace(
            on_chain, weights_digest=Hash32(b"\7" * 32), manifest_hash=manifest_hash(false)
        )
        judged = audit(1, "--json")
        assert judged.exit_code == status, judged.output
        assert json.loads(judged.stdout)["verdict"] == verdict
    beyond = replace(manifest, settings={**manifest.settings, "max_verbatim_tokens": 5_000})
    sealed = seal_manifest(beyond, KEY)
    (tmp_path / "manifest.json").write_bytes(sealed)
    states[1] = replace(on_chain, manifest_hash=manifest_hash(sealed))
    judged = audit(1)
    assert judged.exit_code == 14, "the license beside the work permits less"
    said = " ".join(judged.stdout.split())
    assert "beside work 1 lets it repeat 64" in said and "The weights are the same." in said
    states[1] = on_chain
    (tmp_path / "manifest.json").write_bytes(envelope)
    false_weights = audit(2)
    assert false_weights.exit_code == 13, false_weights.output
    assert "finding  the manifest is about weights " in false_weights.stdout
    assert "nothing was trained" in false_weights.stdout
    bounded = audit(1, "--max-memory-mib", "1")
    assert bounded.exit_code == 11 and "1048576 bytes of memory" in bounded.stderr
    assert "permit more with --max-memory-mib" in bounded.stderr
    assert "rows_per_step" not in bounded.stderr, "its settings are the manifest's"
    refused = audit(1, "--keep", str(kept))
    assert refused.exit_code == INPUT and "exists already" in refused.stderr


class _Priced(FakeChain):
    """A chain whose one work costs 2.50 to train on, under its license."""

    license_hash: Hash32 = ZERO_HASH

    async def terms(self, terms_hash: Hash32) -> TermsState | None:
        terms = replace(FREE_TERMS.terms, training_fee_units=2_500_000)
        return TermsState(terms, self.license_hash)


async def test_a_dry_run_is_told_in_dollars_and_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects an operator about to pay: the table is in the units that people decide by."""
    path = tmp_path / "work.jsonl"
    lines = Path("examples/works/varn-point/work.jsonl").read_text().splitlines()[:10]
    path.write_text("\n".join(lines))
    record = _record(path)
    chain = _Priced(NODE_KEY)
    chain.license_hash = record.license_hash
    chain.works[ONE] = ContentState(ONE, CREATOR, CREATOR, record.commitment, ZERO_HASH, 0)
    (tmp_path / "operator.token").write_text(OPERATOR_TOKEN)
    (tmp_path / "node").mkdir()
    monkeypatch.setattr(pace, "pace_of", lambda *_: pace.Pace())  # measured twice, it differs
    async with running_node(tmp_path / "node", chain=chain) as node:
        training = TrainingQueue(
            chain, node.store, node.clock, chain.address, seal_with(KEY),
            directory=tmp_path / "runs", bases=[NO_MODEL], cache_dir=tmp_path, threads=2,
        )  # fmt: skip
        parts = replace(node.app[PARTS], trainings=training)
        monkeypatch.setitem(node.app._state, PARTS, parts)

        words = f"train {path} --dry-run --node {node.url} --data-dir {tmp_path}"
        done = await asyncio.to_thread(CliRunner().invoke, app, words.split())
        plan = await training.plan({"works": [{"path": str(path)}]})
    assert done.exit_code == 0, done.output
    rows = dict(_cells(line) for line in done.stdout.splitlines() if line.startswith("│"))
    assert rows["fee of work 1"] == "2.500000 vUSD"
    assert rows["minutes, about"] == f"{plan.estimate.seconds / 60:.1f}"
    assert rows["steps"] == str(plan.estimate.steps)


def _cells(line: str) -> tuple[str, str]:
    what, value = line.strip("│").split("│")
    return what.strip(), value.strip()
