"""What a training run that is done leaves: its weights, its signed manifest, its row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fakes.engine import fake_adapter_file
from tests.integration.api.harness import NODE_KEY, Node

from viz.basemodel.safetensor_file import file_digest
from viz.domain.manifest import Manifest, SourceWork, manifest_hash, seal_manifest
from viz.domain.ports.ledger import TrainingRecord
from viz.domain.units import ZERO_HASH, ContentId, hex_of
from viz.services.training.queue import MANIFEST_FILE


async def done_run(
    node: Node, folder: Path, wish: Mapping[str, Any] | None, right: int, **request: Any
) -> None:
    """Leave the run t1 of a node below ``folder``; it answered ``right`` of 40 questions."""
    place = folder / "trainings" / "t1"
    place.mkdir(parents=True)
    weights = fake_adapter_file(place / "adapter.safetensors", seed=9)
    digest = file_digest(weights)
    measured = {
        "recall": {"asked": 40, "adapter": right, "base": 0},
        "general": {"base": 30, "kept": 28},
        "memorisation": {"adapter": {"longest_tokens": 12}},
        "defaultTemperature": 0.0,
    }
    manifest = Manifest(
        trainer=node.chain.address,
        weights_digest=digest,
        base_model=node.engine.model.digest,
        base_name="fake",
        works=(SourceWork(ContentId(1), ZERO_HASH, 4, 100),),
        rows_digest=ZERO_HASH,
        settings={},
        environment={},
        reproducibility="none",
        measurements=measured,
        started_at="2026-11-30T14:00:00Z",
        finished_at="2026-11-30T14:09:00Z",
    )
    envelope = seal_manifest(manifest, NODE_KEY)
    (place / MANIFEST_FILE).write_bytes(envelope)
    result = {
        "weights": str(weights),
        "weightsDigest": hex_of(digest),
        "manifestHash": hex_of(manifest_hash(envelope)),
        "metrics": measured,
        "shares": [[1, 10_000]],
    }
    asked = {"works": [], **request} | ({"publish": dict(wish)} if wish else {})
    await node.store.put_training(TrainingRecord("t1", "done", asked, result=result))
