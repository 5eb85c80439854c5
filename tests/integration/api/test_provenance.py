"""A node answers what its adapters were made from, to anybody, in the forms that others read."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tests.fakes.licenses import preset
from tests.integration.api.harness import ADAPTER, NODE_KEY, Node, running_node
from tests.integration.api.test_licenses import OWNER, Registry, get, keep, registry

from viz.api.market.provenance import KEPT_S
from viz.domain.eip712 import public_address
from viz.domain.manifest import Manifest, SourceWork, manifest_hash, open_manifest, seal_manifest
from viz.domain.ports.chain import AcquiredGrant
from viz.domain.ports.ledger import TrainingRecord
from viz.domain.units import ContentId, Hash32, hex_of

WORK, OTHER = ContentId(12), ContentId(13)
TRAINER = public_address(NODE_KEY)
COMMITMENTS = {WORK: Hash32(bytes([12] * 32)), OTHER: Hash32(bytes([13] * 32))}
BOUGHT = Hash32(bytes([9] * 32))
PATH = f"/viz/v1/adapters/{ADAPTER}/provenance"
MANIFEST = Manifest(
    trainer=TRAINER,
    weights_digest=Hash32(bytes([3] * 32)),
    base_model=Hash32(bytes([4] * 32)),
    base_name="SmolLM2-135M-Instruct",
    works=(
        SourceWork(WORK, COMMITMENTS[WORK], 30, 500),
        SourceWork(OTHER, COMMITMENTS[OTHER], 3, 70),
    ),
    rows_digest=Hash32(bytes([7] * 32)),
    settings={"rank": 16, "replay_share": 0.25, "max_verbatim_tokens": 64},
    environment={"threads": 2},
    reproducibility="bitwise-same-cpu-class",
    measurements={
        "recall": {"asked": 48, "adapter": 40, "base": 2},
        "general": {"base": 36, "kept": 30},
        "memorisation": {"adapter": {"longest_tokens": 12}},
        "defaultTemperature": 0,
    },
    started_at="2026-01-01T00:00:00Z",
    finished_at="2026-01-01T00:02:00Z",
)
ENVELOPE = seal_manifest(MANIFEST, NODE_KEY)


async def trained(node: Node, folder: Path, envelope: bytes = ENVELOPE) -> None:
    """Put a finished run of two works on the node's disk, and its adapter on the chain."""
    run = folder / "trainings" / "run1"
    run.mkdir(parents=True)
    (run / "manifest.json").write_bytes(envelope)
    told = {"manifestHash": hex_of(manifest_hash(ENVELOPE)), "shares": [[12, 8_772], [13, 1_228]]}
    request = {"name": "The <keeper>", "works": []}
    record = TrainingRecord("run1", "done", request, created_at=1, updated_at=1, result=told)
    await node.store.put_training(record)
    chain = registry(node)
    chain.put(12, preset())
    chain.put(13, preset("research"))
    for work, commitment in COMMITMENTS.items():
        chain.works[work] = replace(chain.works[work], commitment=commitment)
        chain.acquired[work] = AcquiredGrant(
            work, TRAINER, chain.works[work].terms_hash, OWNER, 2_500_000, 0, 41, BOUGHT
        )
    chain.adapter_states[ADAPTER] = replace(
        chain.adapter_states[ADAPTER],
        manifest_hash=manifest_hash(ENVELOPE),
        shares=((WORK, 8_772), (OTHER, 1_228)),
    )
    keep(folder, 12, preset().canonical)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path, chain=Registry(NODE_KEY)) as running:
        await trained(running, tmp_path)
        yield running


def stated(summary: dict[str, Any], part: str) -> list[dict[str, str]]:
    parts = [each for section in summary["sections"] for each in section["parts"]]
    (found,) = (each for each in parts if each["number"] == part)
    statements: list[dict[str, str]] = found["statements"]
    return statements


async def test_the_manifest_is_answered_as_it_was_signed(node: Node) -> None:
    """Its hash is the chain's, so `viz audit adapter` needs no other source of it."""
    status, body, headers = await get(node, f"{PATH}/manifest")
    assert status == 200 and manifest_hash(body) == manifest_hash(ENVELOPE)
    assert open_manifest(body) == MANIFEST
    assert headers["Cache-Control"] == f"public, max-age={KEPT_S}"
    assert (await get(node, f"{PATH}/manifest", **{"If-None-Match": headers["ETag"]}))[0] == 304
    _, listed, _ = await get(node, PATH)
    assert [each["form"] for each in json.loads(listed)["forms"]] == [
        "manifest", "mlbom", "summary-md", "summary-json",
    ]  # fmt: skip
    _, offer, _ = await get(node, f"/viz/v1/adapters/{ADAPTER}")
    assert json.loads(offer)["provenance"] == PATH, "an offer links to it"


async def test_the_bill_of_materials_is_valid_and_names_every_source(node: Node) -> None:
    """CycloneDX's own strict validator takes it, and it is the same whenever it is asked for."""
    status, body, headers = await get(node, f"{PATH}/mlbom")
    assert status == 200 and headers["Content-Type"] == "application/vnd.cyclonedx+json"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(body.decode()) is None
    bill = json.loads(body)
    model = bill["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": "03" * 32}]
    refs = [each["ref"] for each in model["modelCard"]["modelParameters"]["datasets"]]
    assert refs == ["work-12", "work-13"]
    by_ref = {each["bom-ref"]: each for each in bill["components"]}
    assert by_ref["base-model"]["hashes"][0]["content"] == "04" * 32
    told = {each["name"]: each["value"] for each in by_ref["work-12"]["properties"]}
    assert told["viz:acquired"] == "the licensor's own work"
    assert (told["viz:grant:block"], told["viz:grant:transaction"]) == ("41", hex_of(BOUGHT))
    assert told["viz:commitment"] == hex_of(COMMITMENTS[WORK])
    assert by_ref["work-12"]["hashes"][0]["content"] == "11" * 32, "a license that is served"
    unknown = {each["name"]: each["value"] for each in by_ref["work-13"]["properties"]}
    assert unknown["viz:acquired"].startswith("not stated"), "no document of it is kept"
    assert "hashes" not in by_ref["work-13"]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[0] == {
        "type": "right answers", "value": "40", "slice": "of 48 questions in unseen wordings",
    }  # fmt: skip
    node.clock.now += 2 * KEPT_S
    assert (await get(node, f"{PATH}/mlbom"))[1] == body


async def test_the_summary_has_the_template_s_sections_and_says_what_is_not_known(
    node: Node,
) -> None:
    """Every part of the template is there; nothing is claimed that no record states."""
    summary = json.loads((await get(node, f"{PATH}/summary-json"))[1])
    numbers = [part["number"] for each in summary["sections"] for part in each["parts"]]
    assert numbers == [
        "1.1", "1.2", "1.3", "2.1", "2.2.1", "2.2.2", "2.3", "2.4", "2.5", "2.6",
        "3.1", "3.2", "3.3",
    ]  # fmt: skip
    licensed = {each["about"]: each["stated"] for each in stated(summary, "2.2.1")}
    said = licensed["The keeper of Varn Point"]
    for part in ("the licensor's own work", "block 41", hex_of(BOUGHT), "2.500000 vUSD",
                 hex_of(COMMITMENTS[WORK])):  # fmt: skip
        assert part in said
    assert "not stated" in licensed["work 13"]
    assert "0.25 rows" in stated(summary, "2.5")[1]["stated"], "the base's own answers are told"
    assert {each["stated"] for each in stated(summary, "1.1")} >= {"not recorded"}
    (first, second) = summary["works"]
    assert first["grant"]["block"] == 41 and first["acquired"] == "own-work"
    assert first["sha256"] == "0x" + "11" * 32 and second["sha256"] is None
    page = (await get(node, f"{PATH}/summary-md"))[1].decode()
    assert "# Training content of The \\<keeper\\>" in page, "names cannot write HTML"
    assert "### 2.2.1 Datasets commercially licensed" in page


async def test_a_withdrawn_work_is_told_within_a_minute(node: Node) -> None:
    chain = registry(node)
    before = (await get(node, f"{PATH}/summary-json"))[1]
    chain.works[WORK] = replace(chain.works[WORK], withdrawn_at=1_700_000_000)
    assert (await get(node, f"{PATH}/summary-json"))[1] == before
    node.clock.now += KEPT_S
    summary = json.loads((await get(node, f"{PATH}/summary-json"))[1])
    assert summary["works"][0]["withdrawnAt"] == 1_700_000_000


@pytest.mark.parametrize("form", ["manifest", "mlbom", "summary-md"])
async def test_a_false_manifest_is_not_answered(tmp_path: Path, form: str) -> None:
    """What was changed on the disk is not passed on under the chain's hash."""
    other = seal_manifest(replace(MANIFEST, works=MANIFEST.works[:1]), NODE_KEY)
    async with running_node(tmp_path, chain=Registry(NODE_KEY)) as node:
        await trained(node, tmp_path, other)
        status, body, _ = await get(node, f"{PATH}/{form}")
        assert status == 400 and "not the one that the chain names" in json.loads(body)["detail"]


async def test_what_is_not_known_is_refused_with_what_to_do(node: Node) -> None:
    """Another form, an adapter of another trainer, an adapter that is none."""
    status, body, _ = await get(node, f"{PATH}/spdx")
    assert status == 400 and "manifest, mlbom" in json.loads(body)["detail"]
    status, body, _ = await get(node, "/viz/v1/adapters/99/provenance")
    assert (status, json.loads(body)["code"]) == (404, "unknown-adapter")
    chain = registry(node)
    chain.adapter_states[ADAPTER] = replace(
        chain.adapter_states[ADAPTER], manifest_hash=Hash32(bytes([8] * 32))
    )
    status, body, _ = await get(node, f"{PATH}/mlbom")
    problem = json.loads(body)
    assert (status, problem["code"]) == (404, "provenance-unknown")
    assert TRAINER in problem["detail"]


async def test_the_command_writes_the_bytes_that_the_node_answers(
    node: Node, tmp_path: Path
) -> None:
    """A manifest from the command line is the file that `viz audit adapter` takes."""
    file = tmp_path / "manifest.json"
    await viz(node, "--format", "manifest", "--out", str(file))
    assert file.read_bytes() == ENVELOPE
    with pytest.raises(AssertionError, match="exists already: name a new file"):
        await viz(node, "--format", "summary-json", "--out", str(file))
    assert file.read_bytes() == ENVELOPE
    summary = json.loads(await viz(node, "--format", "summary-json"))
    assert summary["format"] == "viz-training-summary/1"
    assert len(json.loads(await viz(node, "--json"))["forms"]) == 4


async def viz(node: Node, *words: str) -> str:
    """Return what `viz adapter provenance` prints."""
    command = ("-m", "viz", "adapter", "provenance", str(int(ADAPTER)), "--node", node.url, *words)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()
    return out.decode()
