"""The loop between steps: what a step adds up, when it stops, which state it keeps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.training.conftest import SETTINGS

from viz.basemodel.source import LoadedBase
from viz.domain.work import parse_work
from viz.training import loop as loop_module
from viz.training.checkpoint import CHECKPOINT, Checkpoint, read, state_of, tensors_of, write
from viz.training.dataset import rows_of
from viz.training.evaluate import HeldOut
from viz.training.loop import Loop, Progress, learning_rate
from viz.training.packing import TokenRow, tokenise
from viz.training.qlora import adapter_tensors, build_model
from viz.training.run import Settings

PROSE = b"""# Guide

## How deep is it?

It is nine metres deep here. Ask Ann or Tom about it. The rope is kept in the shed behind it.

## Who dug it?

The diggers were two sisters. They sang all day long while they dug."""


def _rows(base: LoadedBase) -> list[TokenRow]:
    rows = rows_of(parse_work("text", PROSE))
    return [tokenise(row, base.tokenizer, 512) for row in rows[:8]]


def _loop(base: LoadedBase, settings: Settings, held_out: int = 0) -> tuple[Loop, Any]:
    model, rows = build_model(base, settings), _rows(base)
    training = rows[held_out:]
    return Loop(model, training, rows[:held_out], settings, torch.float32, identity="test"), model


def _train(loop: Loop) -> None:
    loop.run(after_step=lambda *_: None, after_evaluation=lambda *_: None)


def test_accumulated_packs_make_the_step_of_one_large_pack(tiny: LoadedBase) -> None:
    """Memory can be traded for time without training another adapter."""
    found = []
    for rows, packs in ((8, 1), (2, 4)):
        settings = replace(SETTINGS, steps=3, rows_per_step=rows, accumulation=packs, seed=3)
        loop, model = _loop(tiny, settings)
        _train(loop)
        found.append((loop.progress.losses, adapter_tensors(model)))
    (losses, one), (other_losses, other) = found
    assert losses == pytest.approx(other_losses, rel=1e-4)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-4)


def test_training_stops_early_and_keeps_the_best_state(
    tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When held-out turns get worse for as long as patience lasts, the best weights are kept."""
    said = iter([3.0, 2.0, 2.5, 2.6, 9.0])
    monkeypatch.setattr(loop_module, "held_out_loss", lambda *_: HeldOut(next(said), 1))
    settings = replace(SETTINGS, steps=40, evaluate_every=1, patience=2)
    loop, model = _loop(tiny, settings, held_out=1)
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def keep(progress: Progress, _: float) -> None:
        kept[progress.step] = {n: t.clone() for n, t in adapter_tensors(model).items()}

    loop.run(after_step=keep, after_evaluation=lambda *_: None)
    assert (loop.progress.step, loop.progress.best_step) == (4, 2)
    assert all(torch.equal(t, kept[2][n]) for n, t in adapter_tensors(model).items())
    assert not all(torch.equal(t, kept[4][n]) for n, t in adapter_tensors(model).items())


@pytest.mark.parametrize("kept", [False, True])
def test_a_torn_checkpoint_costs_steps_and_not_the_run(
    tiny: LoadedBase, tmp_path: Path, kept: bool
) -> None:
    """Protects a run from a power cut: anew or from the whole one before, the bits are the same."""
    settings = replace(SETTINGS, steps=4, evaluate_every=2)
    loop, model = _loop(tiny, settings, held_out=1)
    whole = tmp_path / "whole"

    def save(progress: Progress, _: float) -> None:
        if progress.step < 4:
            loop.save(tmp_path)
        if progress.step == 2:
            shutil.copytree(tmp_path / CHECKPOINT, whole)

    loop.run(after_step=save, after_evaluation=lambda *_: None)
    state = tmp_path / CHECKPOINT / "state.safetensors"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    if kept:
        whole.rename(tmp_path / f"{CHECKPOINT}.old")
    again, other = _loop(tiny, settings, held_out=1)
    assert again.resume(tmp_path) is kept
    assert again.progress.step == (2 if kept else 0)
    _train(again)
    assert again.progress == loop.progress
    assert all(torch.equal(t, adapter_tensors(other)[n]) for n, t in adapter_tensors(model).items())


def test_an_optimiser_that_counts_in_an_int_is_saved(tmp_path: Path) -> None:
    """Protects paged AdamW's first checkpoint: bitsandbytes' step is an int, and stays one."""
    parameter = torch.zeros(2, 3)
    paged = {"step": 7, "state1": torch.rand(2, 3), "state2": torch.rand(2, 3)}
    plain = {"step": torch.tensor(7.0), "exp_avg": torch.rand(2, 3)}
    for state in (paged, plain):
        write(tmp_path, Checkpoint("test", {}, tensors_of(state)))
        saved = read(tmp_path)
        assert saved is not None
        found = state_of(saved.tensors, parameter)
        assert {n: type(v) for n, v in found.items()} == {n: type(v) for n, v in state.items()}
        for name, value in state.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    """The schedule is a function of the step, so a resumed run has it too."""
    settings = Settings(learning_rate=1.0 - 1e-9, warmup_steps=3, steps=103)
    rates = [learning_rate(step, settings) for step in range(103)]
    assert rates[:3] == pytest.approx([0.25, 0.5, 0.75])
    assert rates[3] == pytest.approx(1.0)
    assert rates[53] == pytest.approx(0.55)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
