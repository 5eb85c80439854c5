"""What an audit may claim of another's adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from viz.domain.eip712 import public_address
from viz.domain.manifest import Manifest, SourceWork, open_manifest, seal_manifest
from viz.domain.units import ContentId, Hash32, hex_of
from viz.errors import InvalidRequest
from viz.services.auditing import Verdict, audit_adapter, judge
from viz.training.environment import REPRODUCIBILITY_CLASS

KEY = b"\x03" * 32
WEIGHTS, OTHER, BASE, ROWS = (Hash32(bytes([n]) * 32) for n in (1, 2, 3, 4))
HERE = {"threads": 2, "cpuVendor": "GenuineIntel", "cpuFlags": ["amx_bf16", "avx512_bf16"]}
MANIFEST = Manifest(
    trainer=public_address(KEY),
    weights_digest=WEIGHTS,
    base_model=BASE,
    base_name="base",
    works=(SourceWork(ContentId(1), OTHER, 3, 40),),
    rows_digest=ROWS,
    settings={},
    environment=HERE,
    reproducibility=REPRODUCIBILITY_CLASS,
    measurements={},
    started_at="2026-01-01T00:00:00Z",
    finished_at="2026-01-01T00:01:00Z",
)


@pytest.mark.parametrize(
    ("found", "there", "verdict"),
    [
        (WEIGHTS, HERE, Verdict.REPRODUCED),
        (WEIGHTS, {"threads": 8}, Verdict.REPRODUCED),
        (OTHER, HERE, Verdict.DIFFERENT),
        (OTHER, HERE | {"cpuVendor": "AuthenticAMD"}, Verdict.INCONCLUSIVE),
        (OTHER, HERE | {"cpuFlags": ["avx512_bf16"]}, Verdict.INCONCLUSIVE),
        (OTHER, {"threads": 2}, Verdict.INCONCLUSIVE),
    ],
    ids=["same", "same elsewhere", "other", "AMD for Intel", "no AMX", "older manifest"],
)
def test_other_bytes_count_only_in_the_same_environment(
    found: Hash32, there: dict[str, Any], verdict: Verdict
) -> None:
    """Protects an honest trainer from an auditor's other processor, whatever it is."""
    signed = open_manifest(seal_manifest(replace(MANIFEST, environment=there), KEY))
    metrics = {
        "weightsDigest": hex_of(found),
        "baseModel": hex_of(BASE),
        "rowsDigest": hex_of(ROWS),
        "environment": HERE,
    }
    report = judge(signed, metrics)
    assert report.verdict is verdict
    assert bool(report.differences) == (there != HERE)


async def test_a_manifest_of_other_weights_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """Protects an auditor's hour: what can be compared at once is compared at once."""
    folder = tmp_path / "run"
    with pytest.raises(InvalidRequest, match="the chain has 0x0202"):
        await audit_adapter(
            seal_manifest(MANIFEST, KEY),
            [],
            directory=folder,
            base_model="none",
            cache_dir=tmp_path,
            expected_weights=OTHER,
        )
    assert not folder.exists()
