"""The compiled forward pass: what torch computes, and blind to the rows beside a row."""

from __future__ import annotations

import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fakes.tiny_base import make_tiny_base, write_random_adapter

from viz.basemodel.adapter_file import read_adapter
from viz.basemodel.nf4 import serving_weights
from viz.basemodel.source import LoadedBase
from viz.domain.units import AdapterId
from viz.engine.embedded.decoder import DecoderModel, PrefillChunk
from viz.engine.embedded.kv_cache import KvCache
from viz.engine.embedded.loaded_adapter import GROUPS, LoadedAdapter, stack
from viz.engine.embedded.native import build
from viz.engine.embedded.native.build import Kernels, NativeUnavailable, pack
from viz.engine.embedded.native.model import _Arena
from viz.engine.embedded.native_check import load_kernels

RANKS = (1, 8, 12, 64)
pytestmark = pytest.mark.compiles


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return load_kernels(tmp_path_factory.mktemp("native"), 2)


@pytest.fixture(scope="module")
def adapters(
    base: LoadedBase, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LoadedAdapter | None, ...]:
    """None, and adapters of ranks 1 to 64 as the compiled pass keeps them."""
    folder = tmp_path_factory.mktemp("adapters")
    return (None, *(read(base, folder / f"{rank}", rank, torch.float16) for rank in RANKS))


def read(base: LoadedBase, path: Path, rank: int, dtype: torch.dtype) -> LoadedAdapter:
    write_random_adapter(path, base, rank=rank, seed=rank)
    return stack(AdapterId(rank), read_adapter(path, base.shape), base.shape, dtype)


def widened(
    adapter: LoadedAdapter | None, dtype: torch.dtype = torch.float32
) -> LoadedAdapter | None:
    """Return the same numbers without float16's scaling, for the torch path."""
    if adapter is None:
        return None
    up = {name: value.to(dtype) * adapter.factors[name] for name, value in adapter.up.items()}
    down = {name: value.to(dtype) for name, value in adapter.down.items()}
    return replace(adapter, down=down, up=up, factors=dict.fromkeys(up, 1.0))


def test_adapters_in_half_are_the_file_to_eleven_bits(base: LoadedBase, tmp_path: Path) -> None:
    """Rounding A and B to 11 bits changes B @ A by at most 2**-10 of |B| @ |A|."""
    exact = read(base, tmp_path / "a", 12, torch.float32)
    kept = widened(read(base, tmp_path / "b", 12, torch.float16), torch.float64)
    assert kept is not None
    for group, members in GROUPS.items():
        for place, linear in enumerate(members):
            rows = slice(place * 16, place * 16 + 16)
            a, b = exact.down[group][:, rows].double(), exact.up[linear].double().transpose(1, 2)
            near = kept.up[linear].transpose(1, 2) @ kept.down[group][:, rows]
            assert ((near - b @ a).abs() <= 1.001 * 2.0**-10 * (b.abs() @ a.abs()) + 1e-12).all()


@pytest.mark.parametrize(("width", "depth"), [(16, 8), (40, 72), (17, 64), (259, 576)])
def test_compiled_product_is_right_and_blind_to_neighbours(
    kernels: Kernels, width: int, depth: int
) -> None:
    """Within float32's own error of the exact sum; a row is bit for bit the same in any batch.

    A sum of ``depth`` float32 terms may err by depth * 2**-24 of the sum of their sizes.
    """
    generator = torch.Generator().manual_seed(width)
    weight = torch.randn(width, depth, generator=generator).bfloat16()
    x = torch.randn(131, depth, generator=generator)
    panels = pack(weight)
    whole = kernels.linear(x, panels)
    exact = x.double() @ weight.double().t()
    sizes = x.double().abs() @ weight.double().abs().t()
    assert ((whole - exact).abs() <= depth * 2.0**-24 * sizes).all()
    for rows in (*range(1, 10), 13, 15, 31, 48, 49, 97):
        assert torch.equal(kernels.linear(x[:rows], panels), whole[:rows])


def test_callers_at_once_and_more_threads_than_processors_do_not_meet(kernels: Kernels) -> None:
    """Each caller has a team of its own: none waits for, or takes the work of, another's."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(640, 96, generator=generator).to(torch.bfloat16)
    rows = [torch.randn(7, 96, generator=generator) for _ in range(4)]
    panels, crowded = pack(weight), replace_threads(kernels, 5)
    alone = [kernels.linear(x, panels) for x in rows]

    def often(x: torch.Tensor) -> list[torch.Tensor]:
        return [crowded.linear(x, panels) for _ in range(200)]

    with ThreadPoolExecutor(len(rows)) as callers:
        for expected, found in zip(alone, callers.map(often, rows), strict=True):
            assert all(torch.equal(y, expected) for y in found)


def replace_threads(kernels: Kernels, threads: int) -> Kernels:
    """Return the same library, run by that many threads."""
    other = copy(kernels)
    other.threads = threads
    return other


def decoders(base: LoadedBase, kernels: Kernels) -> tuple[DecoderModel, DecoderModel]:
    weights = serving_weights(base)
    made = [KvCache(base.shape, 6, 200, torch.float32) for _ in range(2)]
    return (
        DecoderModel(weights, base.shape, made[0], torch.float32, kernels),
        DecoderModel(weights, base.shape, made[1], torch.float32),
    )


def test_compiled_pass_equals_torch_in_prefill_and_decoding(
    base: LoadedBase, kernels: Kernels, adapters: tuple[LoadedAdapter | None, ...]
) -> None:
    """Logits agree for chunked prompts and mixed adapters, some slots idle.

    Both sum in float32, in another order: two layers of 64 to 259 terms differ by far less than
    the tolerance, a wrong mask, position, adapter row or member of a group by far more.
    """
    compiled, eager = decoders(base, kernels)
    prompts = [[3 + (7 * slot + at) % 250 for at in range(30 + 25 * slot)] for slot in range(5)]
    for start in (0, 40, 80, 120):
        chunks = [
            PrefillChunk(slot, start, prompt[start : start + 40], adapters[slot])
            for slot, prompt in enumerate(prompts)
            if len(prompt) > start
        ]
        wanted = range(0, len(chunks), 2)
        plain = [replace(chunk, adapter=widened(chunk.adapter)) for chunk in chunks]
        found, expected = compiled.prefill(chunks, wanted), eager.prefill(plain, wanted)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    for step in range(3):
        slots = [0, 1, 3, 4]
        positions = [len(prompt) + step for prompt in prompts]
        worn = [(slot, adapter) for slot in slots if (adapter := adapters[slot]) is not None]
        plain_worn = [(slot, same) for slot, each in worn if (same := widened(each)) is not None]
        found = compiled.decode([10 + step] * 5, positions, slots, worn)
        expected = eager.decode([10 + step] * 5, positions, slots, plain_worn)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(3, 3, 80), (3, 1, 64), (10, 2, 48)])
def test_attention_equals_torch_however_many_heads_share_keys(
    tmp_path: Path, kernels: Kernels, heads: int, kv_heads: int, dim: int
) -> None:
    """Heads are taken one, two or three together, in pieces of the dimension: none is mixed up."""
    base = make_tiny_base(
        tmp_path,
        hidden_size=24 * heads,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=dim,
    )
    compiled, eager = decoders(base, kernels)
    prompt = [3 + (7 * at) % 250 for at in range(61)]
    for start, end in ((0, 1), (1, 9), (9, 61)):
        chunk = PrefillChunk(2, start, prompt[start:end], None)
        found, expected = compiled.prefill([chunk], [0]), eager.prefill([chunk], [0])
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_chunks_or_neighbours(
    base: LoadedBase, kernels: Kernels, adapters: tuple[LoadedAdapter | None, ...]
) -> None:
    """The same tokens give the same bits whole, in pieces, alone, or beside other adapters."""
    compiled, _ = decoders(base, kernels)
    prompt = [3 + at % 200 for at in range(101)]
    whole = compiled.prefill([PrefillChunk(0, 0, prompt, adapters[2])], [0])
    others = [PrefillChunk(2 + n, 0, prompt[: 20 + n], adapters[n]) for n in range(4)]
    for start, end in ((0, 1), (1, 50), (50, 100)):
        compiled.prefill([*others, PrefillChunk(1, start, prompt[start:end], adapters[2])], [])
    last = compiled.decode([0, prompt[-1]], [0, 100], [1], [(1, adapters[2])])  # type: ignore[list-item]
    assert torch.equal(last, whole)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_looked_up_exactly(tmp_path: Path, kernels: Kernels, tied: bool) -> None:
    """A tied head is the only copy of the embeddings: each token has its own row of it."""
    base = make_tiny_base(tmp_path, tie_word_embeddings=tied)
    compiled, eager = decoders(base, kernels)
    for token in range(base.shape.vocabulary):
        chunk = PrefillChunk(0, 0, [token], None)
        found, expected = compiled.prefill([chunk], [0]), eager.prefill([chunk], [0])
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_evicted_adapter_leaves_memory(
    base: LoadedBase, kernels: Kernels, tmp_path: Path
) -> None:
    """What the pass keeps of an adapter, its addresses, does not keep the adapter."""
    compiled, _ = decoders(base, kernels)
    adapter = read(base, tmp_path / "a", 8, torch.float16)
    compiled.prefill([PrefillChunk(0, 0, [3, 4], adapter)], [0])
    gone = weakref.ref(adapter)
    del adapter
    assert gone() is None


def test_a_row_outside_the_cache_is_refused(base: LoadedBase, kernels: Kernels) -> None:
    """A fault of the scheduler's is an error, not another stream's memory."""
    compiled, _ = decoders(base, kernels)
    with pytest.raises(RuntimeError, match="position"):
        compiled.prefill([PrefillChunk(0, 199, [3, 4], None)], [0])
    with pytest.raises(RuntimeError, match="slot"):
        compiled.prefill([PrefillChunk(6, 0, [3], None)], [0])


def test_weights_may_lie_in_huge_pages() -> None:
    """Systems give them to private memory alone: what the arena maps is not shared."""
    arena = _Arena(1 << 20)
    address = arena.place(torch.ones(4)).data_ptr()
    for line in Path("/proc/self/maps").read_text("ascii").splitlines():
        bounds, rights = line.split()[:2]
        begin, end = (int(bound, 16) for bound in bounds.split("-"))
        if begin <= address < end:
            assert rights == "rw-p"
            return
    raise AssertionError("the arena is not mapped")


def test_build_is_kept_on_disk_and_made_again_when_damaged(tmp_path: Path) -> None:
    """One build a key, the key being the file's name; a torn file is replaced, not fatal."""
    kept, torn = tmp_path / "kept", tmp_path / "torn"
    first = load_kernels(kept, 1)
    (built,) = kept.glob("*.so")
    assert built.stem == first.name
    written = built.stat().st_mtime_ns
    assert load_kernels(kept, 1).name == first.name
    assert built.stat().st_mtime_ns == written
    torn.mkdir()
    (torn / built.name).write_bytes(built.read_bytes()[:5000])
    assert load_kernels(torn, 1).name == first.name
    assert (torn / built.name).stat().st_size > 5000


@pytest.mark.parametrize(
    ("sound", "wrong"),
    [("low[p][r] += left", "low[p][r] -= left"), ("total * factor", "total")],
    ids=["products", "adapters"],
)
def test_wrong_numbers_and_new_sources_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound: str, wrong: str
) -> None:
    """Changed sources are another build; a library that is wrong in any part does not serve."""
    genuine = build._key("g++")
    for path in build._SOURCES:
        text = path.read_text("utf-8").replace(sound, wrong)
        (tmp_path / path.name).write_text(text)
    monkeypatch.setattr(build, "_SOURCES", tuple(tmp_path / path.name for path in build._SOURCES))
    assert build._key("g++") != genuine
    with pytest.raises(NativeUnavailable, match="other results than torch"):
        load_kernels(tmp_path, 1)


def test_old_builds_are_deleted(tmp_path: Path) -> None:
    """The folder of builds does not grow with every upgrade; other files there are left alone."""
    for age in range(6):
        for ending in ("so", "sha256"):
            old = tmp_path / f"kernels-{age}.{ending}"
            old.write_text("")
            os.utime(old, (1_000 - age, 1_000 - age))
    (tmp_path / "other.so").write_text("")
    built = load_kernels(tmp_path, 1).name
    kept = {
        f"{name}.{ending}"
        for name in (built, *(f"kernels-{age}" for age in range(3)))
        for ending in ("so", "sha256")
    }
    assert {path.name for path in tmp_path.iterdir()} == kept | {"other.so"}
