"""Adapters between disk and memory: what is counted, and files that change under the reader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.tiny_base import random_adapter, write_random_adapter

from viz.basemodel.adapter_file import read_adapter, write_adapter
from viz.basemodel.source import LoadedBase
from viz.domain.units import AdapterId
from viz.engine.embedded import adapter_pool
from viz.engine.embedded.adapter_pool import AdapterPool
from viz.engine.embedded.loaded_adapter import LoadedAdapter, adapter_bytes, stack
from viz.errors import EngineError, InvalidAdapterFile

ONE, TWO = AdapterId(1), AdapterId(2)


@pytest.fixture
def store(base: LoadedBase) -> Iterator[AdapterPool]:
    largest = adapter_bytes(base.shape, 64, 4)
    made = AdapterPool(base, torch.float32, max_resident=8, max_bytes=largest + largest // 8)
    yield made
    made.close()


class Heard:
    """What a load told when it ended."""

    def __init__(self) -> None:
        self._event, self._errors = threading.Event(), list[EngineError | None]()

    def __call__(self, _: AdapterId, error: EngineError | None) -> None:
        self._errors.append(error)
        self._event.set()

    def wait(self) -> EngineError | None:
        assert self._event.wait(60)
        return self._errors[0]


def size_of(adapter: LoadedAdapter) -> int:
    return sum(part.nbytes for part in (*adapter.down.values(), *adapter.up.values()))


def test_memory_is_counted_until_the_last_user_is_done(
    base: LoadedBase, store: AdapterPool, tmp_path: Path
) -> None:
    """What the store says it holds is what tensors hold; removing an adapter in use frees none."""
    only = random_adapter(base.shape, rank=5, seed=1, linears=("mlp.up_proj",))
    write_adapter(tmp_path / "1", only, rank=5, alpha=5.0, base=base.digest)
    write_random_adapter(tmp_path / "2", base, rank=64, seed=2)
    store.register(ONE, tmp_path / "1")
    store.register(TWO, tmp_path / "2")
    first, again, second = (store.acquire(each) for each in (ONE, ONE, TWO))
    assert first is not None and again is first and second is not None
    assert store.held_bytes == size_of(first) + size_of(second)
    store.remove(TWO)
    store.release(first)
    assert store.held_bytes == size_of(first) + size_of(second)
    store.release(second)
    store.release(first)
    assert store.held_bytes == size_of(first)
    store.remove(ONE)
    assert store.held_bytes == 0


def test_a_load_that_cannot_fit_evicts_nothing(
    base: LoadedBase, store: AdapterPool, tmp_path: Path
) -> None:
    """Memory in use and on its way to others is not given out twice, nor idle memory for naught."""
    for number, rank in ((1, 32), (2, 64), (3, 8)):
        write_random_adapter(tmp_path / f"{number}", base, rank=rank, seed=number)
    store.register(TWO, tmp_path / "2")
    store.register(ONE, tmp_path / "1")
    held = store.acquire(ONE)
    store.register(AdapterId(3), tmp_path / "3")
    assert held is not None and store.acquire(TWO) is None
    heard = Heard()
    assert not store.load(TWO, heard)
    assert store.resident_count == 2
    store.release(held)
    assert not store.load(TWO, heard, spared={ONE})
    assert store.load(TWO, heard)
    assert heard.wait() is None
    assert store.acquire(TWO) is not None
    assert store.held_bytes <= adapter_bytes(base.shape, 64, 4) * 9 // 8


def test_a_file_swapped_while_it_is_read_is_refused(
    base: LoadedBase, store: AdapterPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was checked and what is loaded again later must be one file."""
    path = tmp_path / "1"
    write_random_adapter(path, base, rank=4, seed=1)
    write_random_adapter(tmp_path / "other", base, rank=4, seed=2)

    def swapping(*arguments: Any, **named: Any) -> Any:
        weights = read_adapter(*arguments, **named)
        (tmp_path / "other").replace(path)
        return weights

    monkeypatch.setattr(adapter_pool, "read_adapter", swapping)
    with pytest.raises(InvalidAdapterFile, match="while it was read"):
        store.register(ONE, path)
    assert store.registered() == frozenset()


@pytest.mark.parametrize("first", ["old", "new"])
def test_an_old_load_does_not_replace_a_newer_file(
    base: LoadedBase,
    store: AdapterPool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: str,
) -> None:
    """Registered anew while its former file is loaded, or waits to be, it is served anew."""
    for name, seed in (("old", 1), ("new", 2)):
        write_random_adapter(tmp_path / name, base, rank=32, seed=seed)
    write_random_adapter(tmp_path / "big", base, rank=64, seed=3)
    store.register(ONE, tmp_path / "old")
    store.register(TWO, tmp_path / "big")
    assert store.acquire(ONE) is None
    reading, go_on = threading.Event(), threading.Event()

    def held(path: Path, *arguments: Any, **named: Any) -> Any:
        weights = read_adapter(path, *arguments, **named)
        if path.name == first:
            reading.set()
            assert go_on.wait(60)
        return weights

    monkeypatch.setattr(adapter_pool, "read_adapter", held)
    heard = Heard()
    newer = threading.Thread(target=store.register, args=(ONE, tmp_path / "new"))
    if first == "old":
        assert store.load(ONE, heard)
        assert reading.wait(60)
        newer.start()
        newer.join(0.3)
    else:
        newer.start()
        assert reading.wait(60)
        assert store.load(ONE, heard)
    go_on.set()
    newer.join(60)
    assert heard.wait() is None
    served = store.acquire(ONE)
    weights = read_adapter(tmp_path / "new", base.shape)
    expected = stack(ONE, weights, base.shape, torch.float32)
    assert served is not None and torch.equal(served.up["mlp.up_proj"], expected.up["mlp.up_proj"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("first", "step"), [(2, 1), (0, 2)])
def test_an_adapter_of_some_layers_is_nothing_in_the_others(
    base: LoadedBase, tmp_path: Path, dtype: torch.dtype, first: int, step: int
) -> None:
    """Training leaves the lower layers out, other programs any: in every way of computing."""
    write_random_adapter(tmp_path / "1", base, rank=4, seed=1)
    read = read_adapter(tmp_path / "1", base.shape)
    shape = replace(base.shape, layers=5)
    pairs = {}
    for name, _ in shape.modules():
        _, _, layer, linear = name.split(".", 3)
        lower, upper = read.modules[f"model.layers.{int(layer) % base.shape.layers}.{linear}"]
        pairs[name] = ((lower * (int(layer) + 1)).bfloat16(), upper.bfloat16())
    chosen = tuple(f"model.layers.{layer}." for layer in range(first, shape.layers, step))
    held = {name: pair for name, pair in pairs.items() if name.startswith(chosen)}
    nothing = {n: (torch.zeros_like(a), torch.zeros_like(b)) for n, (a, b) in pairs.items()}
    some = stack(ONE, replace(read, modules=held), shape, dtype)
    filled = stack(ONE, replace(read, modules={**nothing, **held}), shape, dtype)
    assert some.factors == filled.factors
    for mine, full in ((some.down, filled.down), (some.up, filled.up)):
        assert all(torch.equal(mine[name], full[name]) for name in full)


def test_adapters_are_read_by_one_thread_alone(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading shares no step with torch's other threads, and leaves everybody else theirs."""
    seen: list[tuple[str, int]] = []

    def watched(*given: Any, **named: Any) -> Any:
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        return read_adapter(*given, **named)

    monkeypatch.setattr(adapter_pool, "read_adapter", watched)
    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        store = AdapterPool(base, torch.float32, max_resident=8, max_bytes=1 << 30)
        write_random_adapter(tmp_path / "1", base, rank=8, seed=1)
        store.register(ONE, tmp_path / "1")
        store.close()
        others: list[int] = []
        other = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert [threads for _, threads in seen] == [1]
        assert seen[0][0].startswith("viz-adapters")
        assert (torch.get_num_threads(), others) == (3, [3])
    finally:
        torch.set_num_threads(usual)
