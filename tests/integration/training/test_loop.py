"""The loop between steps: what a step adds up, when it stops, which state it keeps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.training.conftest import SETTINGS

from viz.basemodel.source import LoadedBase
from viz.domain.work import parse_work
from viz.training.checkpoint import CHECKPOINT, Checkpoint, read, state_of, tensors_of, write
from viz.training.dataset import rows_of
from viz.training.loop import LoopState, TrainingLoop, learning_rate
from viz.training.packing import TokenRow, tokenise
from viz.training.qlora import adapter_tensors, build_model
from viz.training.run import TrainingSettings

PROSE = b"""# Guide

## How deep is it?

It is nine metres deep here. Ask Ann or Tom about it. The rope is kept in the shed behind it.

## Who dug it?

The diggers were two sisters. They sang all day long while they dug."""


def _rows(base: LoadedBase) -> list[TokenRow]:
    rows = rows_of(parse_work("text", PROSE))
    return [tokenise(row, base.tokenizer, 512) for row in rows[:8]]


def _loop(
    base: LoadedBase, settings: TrainingSettings, rights: Sequence[int] | None = None
) -> tuple[TrainingLoop, Any]:
    """Return a loop whose evaluations find ``rights`` right answers of 40, in turn."""
    model, said = build_model(base, settings), iter(rights or ())
    evaluate = None if rights is None else lambda: (next(said), 40)
    return TrainingLoop(
        model, _rows(base), settings, torch.float32, identity="test", evaluate=evaluate
    ), model


def _train(loop: TrainingLoop) -> None:
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


def test_the_state_that_answers_most_is_kept_and_training_stops_where_it_answers_less(
    tiny: LoadedBase,
) -> None:
    """The measure of a run is what it answers: within noise the later state, else the better."""
    settings = replace(SETTINGS, steps=40, evaluate_every=1, patience=2)
    loop, model = _loop(tiny, settings, rights=[3, 20, 19, 12, 9, 40])
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def keep(progress: LoopState, _: float) -> None:
        kept[progress.step] = {n: t.clone() for n, t in adapter_tensors(model).items()}

    loop.run(after_step=keep, after_evaluation=lambda *_: None)
    assert (loop.progress.step, loop.progress.best_step) == (5, 3)
    assert all(torch.equal(t, kept[3][n]) for n, t in adapter_tensors(model).items())
    assert not all(torch.equal(t, kept[5][n]) for n, t in adapter_tensors(model).items())


def test_where_nothing_is_asked_the_last_state_is_kept(tiny: LoadedBase) -> None:
    """A work whose wordings cannot be held out is trained to the end, and that is what is kept."""
    loop, _ = _loop(tiny, replace(SETTINGS, steps=3, evaluate_every=1))
    _train(loop)
    assert (loop.progress.best_step, loop.progress.recalled) == (3, [])


@pytest.mark.parametrize("kept", [False, True])
def test_a_torn_checkpoint_costs_steps_and_not_the_run(
    tiny: LoadedBase, tmp_path: Path, kept: bool
) -> None:
    """Protects a run from a power cut: anew or from the whole one before, the bits are the same."""
    settings = replace(SETTINGS, steps=4, evaluate_every=2)
    loop, model = _loop(tiny, settings, rights=[1, 2])
    whole = tmp_path / "whole"

    def save(progress: LoopState, _: float) -> None:
        if progress.step < 4:
            loop.save(tmp_path)
        if progress.step == 2:
            shutil.copytree(tmp_path / CHECKPOINT, whole)

    loop.run(after_step=save, after_evaluation=lambda *_: None)
    state = tmp_path / CHECKPOINT / "state.safetensors"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    if kept:
        whole.rename(tmp_path / f"{CHECKPOINT}.old")
    # The second step was saved before it was judged: that is made good after the resume.
    again, other = _loop(tiny, settings, rights=[1, 2])
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
    settings = TrainingSettings(learning_rate=1.0 - 1e-9, warmup_steps=3, steps=103)
    rates = [learning_rate(step, settings) for step in range(103)]
    assert rates[:3] == pytest.approx([0.25, 0.5, 0.75])
    assert rates[3] == pytest.approx(1.0)
    assert rates[53] == pytest.approx(0.55)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
