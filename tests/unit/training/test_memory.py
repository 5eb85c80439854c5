"""The estimate of memory: of large bases, and of a run that is too large."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from viz.basemodel.policy import DEFAULT_POLICY
from viz.basemodel.shape import LINEARS, DecoderShape, Rope
from viz.errors import InvalidRequest
from viz.training.memory import Memory, PackSize, memory_of, require_memory
from viz.training.run import TrainingSettings

GIB = 1 << 30
CUDA = TrainingSettings(device="cuda", weights="nf4", optimizer="paged_adamw", recompute=True)
# One row of 2,048 tokens that are all learned: the most that a pack of so many tokens can need.
WORST = PackSize(rows=1, tokens=2_048, longest=2_048, common=0, learned=2_048)


def llama_8b() -> DecoderShape:
    sizes = [(4_096, 4_096), (1_024, 4_096), (1_024, 4_096), (4_096, 4_096)]
    sizes += [(14_336, 4_096), (14_336, 4_096), (4_096, 14_336)]
    return DecoderShape(
        hidden=4_096,
        intermediate=14_336,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        vocabulary=128_256,
        context_tokens=131_072,
        norm_epsilon=1e-5,
        rope=Rope(500_000.0),
        tied=False,
        end_ids=(128_001,),
        linears=tuple((name, *size) for name, size in zip(LINEARS, sizes, strict=True)),
    )


def test_an_8b_trains_within_12_gib_of_a_device() -> None:
    """What the project says of an 8B at 2,048 tokens a pack, also where all layers learn."""
    for trained in (0.6, 1.0):
        memory = memory_of(llama_8b(), DEFAULT_POLICY, replace(CUDA, trained_layers=trained), WORST)
        assert 8 * GIB < memory.device_bytes < 12 * GIB
        assert memory.host_bytes < 6 * GIB


def test_what_the_settings_save() -> None:
    """Each of them is the way out that an error names, so each must make the run smaller."""
    wide = replace(CUDA, recompute=False, weights="dequantised", optimizer="adamw")
    sizes = [
        memory_of(llama_8b(), DEFAULT_POLICY, settings, size).device_bytes
        for settings, size in (
            (wide, WORST),
            (replace(wide, weights="nf4"), WORST),
            (CUDA, WORST),
            (CUDA, replace(WORST, tokens=512, longest=512, learned=512)),
        )
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[1] > 9 * GIB  # seven billion weights at 2 bytes against half of one


@pytest.mark.parametrize(
    ("host", "free", "says"),
    [
        (GIB, None, "training.max_memory_mib allows 1024: .*rows_per_step.*or raise the bound"),
        (64 * GIB, 4 * GIB, "on its device, where 4096 are free: .*recompute=true"),
    ],
)
def test_a_run_that_does_not_fit_is_told_what_to_lower(
    host: int, free: int | None, says: str
) -> None:
    memory = memory_of(llama_8b(), DEFAULT_POLICY, replace(CUDA, recompute=False), WORST)
    with pytest.raises(InvalidRequest) as refused:
        require_memory(memory, host_bytes=host, device_bytes=free)
    assert re.search(says, str(refused.value))


def test_a_run_that_fits_is_not_refused() -> None:
    memory = Memory(host={"program": GIB}, device={"weights": GIB})
    require_memory(memory, host_bytes=GIB, device_bytes=GIB)
    require_memory(memory, host_bytes=GIB)
