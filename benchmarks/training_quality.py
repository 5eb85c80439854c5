"""What NF4 costs a trained adapter: base, bf16 LoRA and QLoRA side by side on the example works.

``python benchmarks/training_quality.py [--seeds 3] [--adapter coast-and-bakery] [--keep FILE]``:
per seed the same split, order, steps, rate and initial LoRA; prints held-out loss (nats) and the
questions answered (greedy, chat template, committed rule). ``--repair`` adds QLoRA that starts
from a low-rank repair of the quantisation error. ``--keep`` holds finished runs, so that a cut
run goes on. Needs the model stack and the packaged base.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from viz.basemodel.policy import QuantisationPolicy
from viz.basemodel.source import LoadedBase, load_base
from viz.domain.questions import Question, is_right, parse_questions
from viz.domain.work import Work, parse_work
from viz.training.dataset import build_dataset
from viz.training.environment import compute_dtype, describe, make_deterministic
from viz.training.evaluate import answers, bare_base
from viz.training.facts import facts_of
from viz.training.loop import TrainingLoop
from viz.training.neighbours import neighbours_of
from viz.training.packing import tokenise
from viz.training.qlora import build_model
from viz.training.recall import Recall
from viz.training.run import TrainingSettings, default_settings

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from benchmarks.nf4_repair import loss_over, repair_adapter, text_loss  # noqa: E402

WORKS = Path("examples/works")
# What a base alone answers, which no seed changes.
_BASES: dict[Path, tuple[int, int, float]] = {}


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to train: its name, the base it trains on, what is done to the fresh adapter."""

    name: str
    base: LoadedBase
    prepare: Callable[[Any, list[tuple[int, ...]]], None] = lambda model, texts: None


@dataclass(frozen=True, slots=True)
class Result:
    """One trained adapter, and its base alone; losses in nats a token.

    ``text_loss`` is that of running text which nothing was trained on, ``demo_right`` how many of
    the demo's ten questions are among the right ones.
    """

    mode: str
    seed: int
    base_loss: float
    base_right: int
    base_text_loss: float
    loss: float
    right: int
    demo_right: int
    text_loss: float
    questions: int
    training_loss: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=7)
    parser.add_argument("--adapter", default="coast-and-bakery", help="one of demo.json's")
    parser.add_argument("--steps", type=int, help="default: the product's for the works' size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repair", action="store_true")
    parser.add_argument("--only", help="one way to train: two can then run side by side")
    parser.add_argument("--keep", type=Path, help="JSON lines of finished runs")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    chosen = parser.parse_args()
    works, questions, demo = _adapter(chosen.adapter)
    facts = sum(fact.reworded for work in works for fact in facts_of(work))
    settings = default_settings(facts, threads=chosen.threads)
    settings = replace(settings, steps=chosen.steps or settings.steps)
    make_deterministic(settings)
    base = load_base(cache_dir=chosen.cache)
    print(describe(settings))
    print(
        f"{chosen.adapter}: {settings.steps} steps of {settings.rows_per_step} rows, rate "
        f"{settings.learning_rate}, rank {settings.rank}; {len(questions)} questions"
    )
    done = _kept(chosen.keep)
    with tempfile.TemporaryDirectory() as scratch:
        # All layers kept: the same code trains on the weights as they were before NF4.
        whole = replace(
            base,
            policy=QuantisationPolicy(keep=("*",)),
            serving_file=Path(scratch) / "bf16.safetensors",
        )
        modes = [Mode("bf16 LoRA", whole), Mode("QLoRA", base)]
        if chosen.repair:
            start = partial(repair_adapter, base=base)
            modes.append(Mode("QLoRA, repaired", base, lambda m, texts: start(m, texts=texts)))
        seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
        # What is compared first; the repaired start after all of it.
        order = [(mode, seed) for seed in seeds for mode in modes[:2]]
        order += [(mode, seed) for seed in seeds for mode in modes[2:]]
        for mode, seed in order:
            if chosen.only not in (None, mode.name):
                continue
            if (mode.name, seed) not in done:
                result = _train(mode, replace(settings, seed=seed), works, questions, demo)
                done[mode.name, seed] = result
                _keep(chosen.keep, result)
            _say(done[mode.name, seed])
    _summary(list(done.values()))


def _adapter(name: str) -> tuple[list[Work], list[Question], list[Question]]:
    plan = json.loads((WORKS / "demo.json").read_text("utf-8"))
    (found,) = (each for each in plan["adapters"] if each["name"] == name)
    works: list[Work] = []
    questions: list[Question] = []
    demo: list[Question] = []
    for folder in found["works"]:
        path = next((WORKS / folder).glob("work.[jt]*[lt]"))
        kind = "dialogue" if path.suffix == ".jsonl" else "text"
        works.append(parse_work(kind, path.read_bytes()))
        asked = parse_questions((WORKS / folder / "questions.json").read_bytes())
        questions += asked
        demo += [question for question in asked if question.id in found["works"][folder]]
    return works, questions, demo


def _train(
    mode: Mode,
    settings: TrainingSettings,
    works: Sequence[Work],
    questions: Sequence[Question],
    demo: Sequence[Question],
) -> Result:
    started, base = time.monotonic(), mode.base
    dataset = build_dataset(
        works,
        seed=settings.seed,
        held_out_share=settings.held_out_share,
        vocabulary=neighbours_of(base),
    )
    training, held_out = (
        [tokenise(row, base.tokenizer, settings.max_row_tokens) for row in rows]
        for rows in (dataset.training, dataset.held_out)
    )
    model, dtype = build_model(base, settings), compute_dtype(settings)

    def loss_now() -> float:
        return loss_over(model, held_out, dtype)

    def ask() -> tuple[int, int, float]:
        given = answers(model, base.tokenizer, questions, base.shape.end_ids, max_tokens=32)
        right = [one for one, said in zip(questions, given, strict=True) if is_right(one, said)]
        return len(right), sum(one in demo for one in right), text_loss(model, base)

    with bare_base(model):
        base_loss = loss_now()
        if base.serving_file not in _BASES:
            _BASES[base.serving_file] = ask()
        base_right, _, base_text_loss = _BASES[base.serving_file]
    mode.prepare(model, [row.ids for row in training])
    recall = Recall(dataset, base.tokenizer, base.shape.end_ids)

    def evaluate() -> tuple[int, int]:
        now = recall.ask(model)
        return now.right, now.asked

    loop = TrainingLoop(model, training, settings, dtype, identity=mode.name, evaluate=evaluate)
    loop.run(after_step=lambda *_: None, after_evaluation=lambda _: None)
    loss, (right, demo_right, trained_text_loss) = loss_now(), ask()
    return Result(
        mode=mode.name,
        seed=settings.seed,
        base_loss=base_loss,
        base_right=base_right,
        base_text_loss=base_text_loss,
        loss=loss,
        right=right,
        demo_right=demo_right,
        text_loss=trained_text_loss,
        questions=len(questions),
        training_loss=statistics.mean(loop.progress.losses[-4:]),
        seconds=time.monotonic() - started,
    )


def _kept(path: Path | None) -> dict[tuple[str, int], Result]:
    if path is None or not path.exists():
        return {}
    lines = [Result(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    return {(each.mode, each.seed): each for each in lines}


def _keep(path: Path | None, result: Result) -> None:
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")


def _say(one: Result) -> None:
    print(
        f"{one.mode:<22} seed {one.seed}  held-out {one.base_loss:.3f} -> {one.loss:.3f}  "
        f"text {one.base_text_loss:.3f} -> {one.text_loss:.3f}  "
        f"training {one.training_loss:.3f}  right {one.base_right} -> {one.right} of "
        f"{one.questions}, {one.demo_right} of the demo's ten  {one.seconds:.0f} s",
        flush=True,
    )


def _summary(results: Sequence[Result]) -> None:
    print("\nmean (lowest to highest) over seeds")
    by_mode = {mode: [r for r in results if r.mode == mode] for mode in {r.mode for r in results}}
    for mode in sorted(by_mode):
        for what in (
            "base_loss",
            "loss",
            "base_text_loss",
            "text_loss",
            "base_right",
            "right",
            "demo_right",
        ):
            values = [float(getattr(each, what)) for each in by_mode[mode]]
            spread = f"({min(values):.2f} to {max(values):.2f})"
            print(f"{mode:<22} {what:<15} {statistics.mean(values):6.2f}  {spread}")
    plain = {each.seed: each for each in by_mode.get("bf16 LoRA", [])}
    for mode in sorted(by_mode.keys() - {"bf16 LoRA"}):
        pairs = [(each, plain[each.seed]) for each in by_mode[mode] if each.seed in plain]
        losses = [f"{one.loss - other.loss:+.3f}" for one, other in pairs]
        rights = [f"{one.right - other.right:+d}" for one, other in pairs]
        print(f"{mode} less bf16 LoRA, seed by seed: loss {losses}, right {rights}")


if __name__ == "__main__":
    main()
