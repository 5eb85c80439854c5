"""The exported checkpoint is the function that the embedded engine serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fakes.tiny_base import make_tiny_base

from viz.basemodel.export import ExportDtype, export_base
from viz.basemodel.nf4 import serving_weights
from viz.basemodel.safetensor_file import file_digest
from viz.errors import InvalidRequest


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_another_program_computes_our_logits_from_it(tmp_path: Path, dtype: str) -> None:
    """E1: transformers, given the folder alone, computes what our decoder computes, and not the
    plain checkpoint's function."""
    import torch
    from transformers import AutoModelForCausalLM

    from viz.engine.embedded.decoder import DecoderModel, PrefillChunk
    from viz.engine.embedded.kv_cache import KvCache

    base = make_tiny_base(tmp_path, quantised=True)
    made = export_base(base, tmp_path / "out", dtype=cast(ExportDtype, dtype), shard_bytes=20_000)
    assert len(made.files) > 3
    theirs: Any = AutoModelForCausalLM.from_pretrained(str(made.directory), dtype=torch.float32)
    plain: Any = AutoModelForCausalLM.from_pretrained(str(base.directory), dtype=torch.float32)
    tokens = base.tokenizer.encode("The lamp of Varn Point is lit at dusk.")
    cache = KvCache(base.shape, 1, 64, torch.float32)
    decoder = DecoderModel(serving_weights(base), base.shape, cache, torch.float32)
    ours = decoder.prefill([PrefillChunk(0, 0, tokens, None)], [0])[0]
    with torch.inference_mode():
        same = theirs(torch.tensor([tokens])).logits[0, -1]
        other = plain(torch.tensor([tokens])).logits[0, -1]
    torch.testing.assert_close(ours, same, rtol=1e-4, atol=1e-4)
    assert (ours - other).abs().max() > 0.01


def test_it_says_what_it_is(tmp_path: Path) -> None:
    """Base, dtype and the hash of every file stand in the folder; the weights are those of E1."""
    import torch
    from safetensors.torch import load_file

    base = make_tiny_base(tmp_path, quantised=True)
    made = export_base(base, tmp_path / "out")
    record = json.loads((made.directory / "viz-base.json").read_text())
    assert record["digest"] == f"0x{base.digest.hex()}"
    assert record["dtype"] == "bfloat16"
    assert json.loads((made.directory / "config.json").read_text())["dtype"] == "bfloat16"
    for name, digest in record["sha256"].items():
        assert file_digest(made.directory / name).hex() == digest
    serving = serving_weights(base)
    written = load_file(made.directory / "model.safetensors")
    assert set(written) == set(serving)
    assert all(torch.equal(value, serving[name]) for name, value in written.items())


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    """Nothing of the operator's is overwritten, and nothing half-written stays behind."""
    base = make_tiny_base(tmp_path)
    kept = tmp_path / "out" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(InvalidRequest, match="not an empty folder"):
        export_base(base, kept.parent)
    with pytest.raises(InvalidRequest, match="not an empty folder"):
        export_base(base, kept)
    assert kept.read_text() == "mine"
    kept.unlink()
    assert export_base(base, kept.parent).directory == kept.parent
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
