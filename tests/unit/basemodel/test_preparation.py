"""The child that converts and quantises a base model once, as its parent sees it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import torch
from tests.fakes.tiny_base import make_tiny_directory

from viz.basemodel import source
from viz.basemodel.nf4 import serving_weights
from viz.basemodel.preparation import prepared_base
from viz.domain.ports.engine import DEFAULT_BASE
from viz.errors import ModelUnavailable


async def test_a_child_makes_the_serving_weights_once_and_reports(tmp_path: Path) -> None:
    """Protects the daemon's memory and the bar: the work is a child's, and a second start has none.

    What the child wrote is what this process would have made.
    """
    directory, told = make_tiny_directory(tmp_path / "tiny"), list[float]()
    base = await prepared_base(str(directory), cache_dir=tmp_path / "a", report=told.append)
    assert base.serving_file.is_file()
    assert told[0] == 0.0 and told[-1] == 1.0 and told == sorted(told) and len(told) > 3
    again: list[float] = []
    await prepared_base(str(directory), cache_dir=tmp_path / "a", report=again.append)
    assert again == []
    own = serving_weights(source.load_base(directory, cache_dir=tmp_path / "b"))
    theirs = serving_weights(base)
    assert set(own) == set(theirs) and all(torch.equal(own[name], theirs[name]) for name in own)


async def test_a_failing_child_is_told_in_its_own_words(tmp_path: Path) -> None:
    """An operator reads what is wrong with the cache, not that some process ended with 1."""
    directory = make_tiny_directory(tmp_path / "tiny")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ModelUnavailable, match="cannot be written"):
        await prepared_base(str(directory), cache_dir=tmp_path / "cache")


async def test_a_cancelled_start_ends_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the first minute must not leave a process that converts on."""
    children: list[asyncio.subprocess.Process] = []
    started, real = asyncio.Event(), asyncio.create_subprocess_exec

    async def watched(*command: str, **options: object) -> asyncio.subprocess.Process:
        child = await real("/bin/sleep", "600", **options)  # type: ignore[arg-type]
        children.append(child)
        started.set()
        return child

    monkeypatch.setattr(asyncio, "create_subprocess_exec", watched)
    call = asyncio.create_task(prepared_base(DEFAULT_BASE, cache_dir=tmp_path))
    await asyncio.wait_for(started.wait(), 60)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (child,) = children
    assert child.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_the_libraries_bar_is_replaced_while_we_count(capfd: pytest.CaptureFixture[str]) -> None:
    """transformers draws a bar that no setting of its own stops; ours is the only one."""
    told: list[float] = []
    with source._counted(told.append):
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        assert list(tqdm(["a", "b"], desc="Converting")) == ["a", "b"]
    assert told == [0.5, 1.0] and capfd.readouterr().err == ""
