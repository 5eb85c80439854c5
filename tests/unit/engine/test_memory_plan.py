"""What memory admits: the plan, control groups, and lanes that keep to it."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fakes.tiny_base import write_random_adapter

from viz.basemodel.adapter_file import read_adapter
from viz.basemodel.source import LoadedBase
from viz.domain.units import AdapterId
from viz.engine.embedded.loaded_adapter import LoadedAdapter, adapter_bytes, stack
from viz.engine.embedded.lora_batch import LoraBatch
from viz.engine.embedded.memory_plan import Widths, available_bytes, plan, usable_processors
from viz.engine.embedded.settings import EngineSettings
from viz.errors import ModelUnavailable

TORCH = Widths(weight=4, cache=4, adapter=4, lanes=True)
COMPILED = Widths(weight=2, cache=4, adapter=2, lanes=False, embeds_by_head=True)
MIB = 1 << 20


def test_memory_plan_refuses_what_does_not_fit(base: LoadedBase) -> None:
    """Too little memory is a clear refusal at start; little memory is fewer streams."""
    settings = EngineSettings(max_streams=32, context_tokens=512)
    with pytest.raises(ModelUnavailable, match="MiB"):
        plan(base.shape, settings, TORCH, MIB // 4)
    assert 1 <= plan(base.shape, settings, TORCH, 4 * MIB).slots < 32
    assert plan(base.shape, settings, TORCH, 1024 * MIB).slots == 32


@pytest.mark.parametrize("widths", [TORCH, COMPILED])
def test_the_memory_that_is_named_for_all_streams_is_enough(
    base: LoadedBase, widths: Widths
) -> None:
    """An operator who follows the line in the log gets what it promises, at no byte too many."""
    settings = EngineSettings(max_streams=32, context_tokens=512)
    little = plan(base.shape, settings, widths, 5 * MIB)
    assert little.slots < 32
    enough = little.all_streams_bytes
    assert plan(base.shape, settings, widths, enough).slots == 32
    assert plan(base.shape, settings, widths, enough - 2).slots == 31


@pytest.mark.parametrize("widths", [TORCH, COMPILED])
def test_the_parts_of_a_plan_stay_within_the_whole(base: LoadedBase, widths: Widths) -> None:
    """Weights, caches, lanes and adapters add up to the budget at most, and any adapter fits."""
    shape, settings = base.shape, EngineSettings(max_streams=32, context_tokens=256)
    numbers = sum(map(math.prod, shape.tensors().values()))
    kept = 2 * shape.layers * shape.kv_heads * shape.head_dim * 256 * widths.cache
    largest = adapter_bytes(shape, 64, widths.adapter)
    for memory in (3 * MIB, 8 * MIB, 64 * MIB):
        found = plan(shape, settings, widths, memory)
        lanes = found.lane_bytes or 0
        parts = numbers * widths.weight + found.slots * kept + lanes + found.resident_bytes
        assert parts <= memory
        assert found.resident_bytes >= largest
        assert (found.lane_bytes is not None) == widths.lanes
        assert not widths.lanes or lanes >= largest
    assert not widths.lanes or lanes == 32 * largest


def groups(root: Path, lines: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "files", "mib"),
    [
        ("0::/a/b\n", {}, 8_000_000 / 1024),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": "max\n",
                "a/b/memory.current": "1\n",
                "a/memory.max": f"{600 * MIB}\n",
                "a/memory.current": f"{200 * MIB}\n",
                "a/memory.stat": f"anon {120 * MIB}\ninactive_file {50 * MIB}\n",
            },
            450,
        ),
        (
            "5:devices:/\n4:cpu,memory:/host/path\n0::/\n",
            {
                "memory/memory.limit_in_bytes": f"{300 * MIB}\n",
                "memory/memory.usage_in_bytes": f"{100 * MIB}\n",
                "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {MIB}\n",
            },
            201,
        ),
        ("garbage\n4:memory\n", {"memory.max": "none", "memory.current": "x"}, 8_000_000 / 1024),
    ],
    ids=["no bound", "version 2, its parent's", "version 1, in a container", "unreadable"],
)
def test_a_control_group_bounds_what_is_free(
    tmp_path: Path, lines: str, files: dict[str, str], mib: float
) -> None:
    """In a container the engine plans with what the kernel will let it have, not the machine's."""
    assert available_bytes(groups(tmp_path, lines, files)) == mib * MIB


@pytest.mark.parametrize(
    ("lines", "files", "processors"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, 64),
        ("0::/a/b\n", {"a/b/cpu.max": "900000 100000\n", "a/cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        (
            "4:cpu,cpuacct:/host/path\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("0::/\n", {"cpu.max": "many\n"}, 64),
    ],
    ids=[
        "no bound",
        "its parent's",
        "half of one",
        "version 1",
        "version 1, no bound",
        "unreadable",
    ],
)
def test_a_control_group_bounds_the_threads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: str,
    files: dict[str, str],
    processors: int,
) -> None:
    """More threads than the kernel runs at once wait for each other 400 times a step."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert usable_processors(groups(tmp_path, lines, files)) == processors


def test_lanes_hold_what_is_worn_and_no_more_than_their_bound(
    base: LoadedBase, tmp_path: Path
) -> None:
    """Ranks that come and go share one bound: memory that one bucket leaves goes to the next."""
    made: dict[tuple[int, int], LoadedAdapter] = {}
    for rank in (8, 16, 32, 64):
        write_random_adapter(tmp_path / f"{rank}", base, rank=rank, seed=rank)
        weights = read_adapter(tmp_path / f"{rank}", base.shape)
        one = stack(AdapterId(rank), weights, base.shape, torch.float32)
        for number in range(16):
            up = {name: part * number for name, part in one.up.items()}
            made[rank, number] = replace(one, up=up)
    bound = 2 * adapter_bytes(base.shape, 64, 4)
    lanes = LoraBatch(base.shape, 16, torch.float32, bound)
    assert lanes.held_bytes == 0
    for worn in (
        [(8, number) for number in range(16)],
        [(64, 1), (64, 2)],
        [(64, 2), (32, 1), (16, 1), (8, 1), (8, 2)],
        [(8, 2), (32, 3), (32, 1), (32, 2)],
        [(16, number) for number in range(8)],
        [(16, 5), (16, 2), (16, 7), (8, 3)],
        [(16, 0), (16, 1), (16, 3), (16, 5)],
        [],
    ):
        wanted = [(slot, made[each]) for slot, each in enumerate(worn)]
        buckets = lanes.sync(wanted)
        assert lanes.held_bytes <= bound
        held = {
            slot: (bucket.rank, bucket.down["down"][1][lane], bucket.up["mlp.up_proj"][0][lane])
            for bucket in buckets
            for lane, slot in enumerate(bucket.slots)
        }
        assert sorted(held) == list(range(len(worn)))
        for slot, adapter in wanted:
            rank, down, up_lane = held[slot]
            assert rank == adapter.rank
            assert torch.equal(down, adapter.down["down"][1])
            assert torch.equal(up_lane, adapter.up["mlp.up_proj"][0])
