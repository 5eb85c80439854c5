"""The loop between steps: what a step adds up, when it stops, which state it keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.integration.training.conftest import SETTINGS

from viz.basemodel.source import LoadedBase
from viz.domain.work import parse_work
from viz.training import loop as loop_module
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


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    """The schedule is a function of the step, so a resumed run has it too."""
    settings = Settings(learning_rate=1.0 - 1e-9, warmup_steps=3, steps=103)
    rates = [learning_rate(step, settings) for step in range(103)]
    assert rates[:3] == pytest.approx([0.25, 0.5, 0.75])
    assert rates[3] == pytest.approx(1.0)
    assert rates[53] == pytest.approx(0.55)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
