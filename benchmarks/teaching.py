"""What works teach: right answers of adapter and base, beside plain PEFT on the same rows.

``python benchmarks/teaching.py WORK... [--seeds 7 9 11] [--peer] [--keep FILE]``: each WORK is a
folder with a work and its ``questions.json``, or several joined by ``+`` for one adapter. Each is
trained with default settings in a process of its own; printed are right answers (greedy, chat
template, committed rule) of the adapter and the bare base, the run's own measure, general questions
kept, minutes, and peak memory. ``--peer`` trains the same rows, steps, rate and rank by PEFT and
transformers' Trainer too. ``--curve`` asks the questions at every evaluation, and prints how many
answers are right and the wrong ones, the loss of the last steps, and the processor time since the
start. Needs the model stack and the base (``--base``: another one's directory).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from viz.basemodel.source import LoadedBase, load_base
from viz.domain.ports.engine import DEFAULT_BASE
from viz.domain.questions import Question, is_right, parse_questions
from viz.domain.work import Work, parse_work
from viz.training.dataset import Dataset, build_dataset
from viz.training.environment import compute_dtype, make_deterministic
from viz.training.evaluate import answers, bare_base
from viz.training.facts import facts_of
from viz.training.general import PROMPTS, QUESTIONS
from viz.training.loop import LoopState, TrainingLoop
from viz.training.neighbours import neighbours_of
from viz.training.packing import TokenRow, tokenise_all
from viz.training.qlora import build_model
from viz.training.recall import Recall
from viz.training.replay import replay_rows, with_likely_tokens
from viz.training.run import TrainingSettings, default_settings

_ANSWER_TOKENS: Final = 40
_RECENT_STEPS: Final = 10
_COLUMNS: Final = (
    "work", "way", "seed", "rows", "steps", "base", "adapter", "of", "unseen", "general", "min",
    "MiB",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """One trained adapter beside its base; ``unseen`` is "right of asked".

    ``general`` has first those that the base answers right and the adapter too, then all that the
    adapter does."""

    work: str
    way: str
    seed: int
    rows: int
    steps: int
    base: int
    adapter: int
    of: int
    unseen: str
    general: str
    minutes: float
    peak_mib: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("works", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7])
    parser.add_argument("--steps", type=int, help="default: the product's for the works' facts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--keep", type=Path, help="JSON lines of finished runs; they are not rerun")
    add_base(parser)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a way: this process trains by it
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(asdict(_train(chosen))))
        return
    kept = chosen.keep.read_text("utf-8").splitlines() if _there(chosen.keep) else []
    results = [Result(**json.loads(line)) for line in kept]
    for work in chosen.works:
        for seed in chosen.seeds:
            for way in ("here", "Trainer") if chosen.peer else ("here",):
                name = "+".join(Path(each).name for each in work.split("+"))
                if not any((r.work, r.way, r.seed) == (name, way, seed) for r in results):
                    results.append(_apart(chosen, work, seed, way))
                    _keep(chosen.keep, results[-1])
    print(" | ".join(_COLUMNS))
    for result in results:
        print(" | ".join(str(value) for value in asdict(result).values()))


def _there(path: Path | None) -> bool:
    return path is not None and path.exists()


def _keep(path: Path | None, result: Result) -> None:
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")


def _apart(chosen: argparse.Namespace, work: str, seed: int, way: str) -> Result:
    """Train in a process of its own, whose peak memory is then the run's."""
    given = [work, "--one", way, "--seeds", str(seed), "--threads", str(chosen.threads)]
    given += ["--base", chosen.base, "--cache", str(chosen.cache)]
    given += ["--steps", str(chosen.steps)] if chosen.steps else []
    given += ["--curve"] if chosen.curve else []
    command = [sys.executable, str(Path(__file__)), *given]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def add_base(parser: argparse.ArgumentParser) -> None:
    """Add the options of a base: its directory or name, and where its file is kept."""
    parser.add_argument("--base", default=DEFAULT_BASE)
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))


def untrained(description: str | None) -> argparse.Namespace:
    """Return what the command line says of a measurement of works without a training."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("works", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    add_base(parser)
    return parser.parse_args()


def read_works(folders: Sequence[Path]) -> tuple[list[Work], list[Question]]:
    """Return the works in ``folders``, and the questions that lie beside them."""
    works: list[Work] = []
    questions: list[Question] = []
    for folder in folders:
        (path,) = (each for each in folder.glob("work.*") if each.suffix != ".json")
        kind = "dialogue" if path.suffix == ".jsonl" else "text"
        works.append(parse_work(kind, path.read_bytes()))
        questions += parse_questions((folder / "questions.json").read_bytes())
    return works, questions


def _train(chosen: argparse.Namespace) -> Result:
    started = time.monotonic()
    folders = [Path(each) for each in chosen.works[0].split("+")]
    works, questions = read_works(folders)
    facts = sum(fact.reworded for work in works for fact in facts_of(work))
    settings = default_settings(facts, threads=chosen.threads, seed=chosen.seeds[0])
    settings = replace(settings, steps=chosen.steps or settings.steps)
    make_deterministic(settings)
    base = load_base(chosen.base, cache_dir=chosen.cache)
    dataset = build_dataset(
        works,
        seed=settings.seed,
        held_out_share=settings.held_out_share,
        vocabulary=neighbours_of(base),
    )
    rows, _ = tokenise_all(dataset.training, base.tokenizer, settings.max_row_tokens)
    model = build_model(base, settings)
    with bare_base(model):
        base_right = _right(model, base, questions)
        known = [q for q, _, right in _judged(model, base, QUESTIONS, tokens=24) if right]
    if chosen.one == "Trainer":
        model = _by_trainer(base, settings, rows)
        unseen = Recall(dataset, base.tokenizer, base.shape.end_ids).ask(model)
    else:
        unseen = _here(
            model, base, settings, dataset, rows, curve=questions if chosen.curve else []
        )
    general = [q for q, _, right in _judged(model, base, QUESTIONS, tokens=24) if right]
    kept = sum(q in known for q in general)
    return Result(
        work="+".join(folder.name for folder in folders),
        way=chosen.one,
        seed=settings.seed,
        rows=len(rows),
        steps=settings.steps,
        base=base_right,
        adapter=_right(model, base, questions),
        of=len(questions),
        unseen=f"{unseen.right} of {unseen.asked}",
        general=f"{kept} of {len(known)}, {len(general)} of {len(QUESTIONS)}",
        minutes=round((time.monotonic() - started) / 60, 1),
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    )


def _right(
    model: Any, base: LoadedBase, questions: Sequence[Question], tokens: int = _ANSWER_TOKENS
) -> int:
    return sum(right for _, _, right in _judged(model, base, questions, tokens))


def _judged(
    model: Any, base: LoadedBase, questions: Sequence[Question], tokens: int
) -> list[tuple[Question, str, bool]]:
    """Return each question with its answer, and whether that is right."""
    if not questions:
        return []
    given = answers(model, base.tokenizer, questions, base.shape.end_ids, max_tokens=tokens)
    return [(one, said, is_right(one, said)) for one, said in zip(questions, given, strict=True)]


def _here(
    model: Any,
    base: LoadedBase,
    settings: TrainingSettings,
    dataset: Dataset,
    rows: list[TokenRow],
    *,
    curve: Sequence[Question],
) -> Any:
    """Train as the worker does; return what is answered in unseen wordings at the end."""
    recall = Recall(dataset, base.tokenizer, base.shape.end_ids)
    wanted = round(len(rows) * settings.replay_share)
    with bare_base(model):
        said = replay_rows(model, base.tokenizer, base.shape.end_ids, min(wanted, len(PROMPTS)))
        said = with_likely_tokens(model, said, compute_dtype(settings), settings.device)
    learned = rows + [said[place % len(said)] for place in range(wanted if said else 0)]

    def evaluate() -> tuple[int, int]:
        now = recall.ask(model)
        return now.right, now.asked

    def after_evaluation(progress: LoopState) -> None:
        step, right, asked = progress.recalled[-1]
        judged = _judged(model, base, curve, _ANSWER_TOKENS)
        lines = [f"step {step}: {right} of {asked} in unseen wordings"]
        if judged:
            lines[0] += f", {sum(right for _, _, right in judged)} of {len(judged)} questions"
        recent = progress.losses[-_RECENT_STEPS:]
        lines[0] += f", loss {sum(recent) / len(recent):.2f}, {time.process_time():.0f} s"
        lines += [f"  {one.question} -> {said}" for one, said, right in judged if not right]
        print(*lines, sep="\n", file=sys.stderr, flush=True)

    dtype = compute_dtype(settings)
    loop = TrainingLoop(model, learned, settings, dtype, identity="benchmark", evaluate=evaluate)
    loop.run(after_step=lambda *_: None, after_evaluation=after_evaluation)
    return recall.ask(model)


def _by_trainer(base: LoadedBase, settings: TrainingSettings, rows: list[TokenRow]) -> Any:
    """Train the same rows by PEFT and transformers' Trainer, with its own order and schedule."""
    import torch
    from transformers import Trainer, TrainingArguments

    model = build_model(base, settings)
    torch.use_deterministic_algorithms(False)

    def collate(batch: list[TokenRow]) -> dict[str, torch.Tensor]:
        width = max(len(row.ids) for row in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        seen, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for place, row in enumerate(batch):
            ids[place, : len(row.ids)] = torch.tensor(row.ids)
            seen[place, : len(row.ids)] = 1
            for at in row.supervised:
                labels[place, at] = row.ids[at]
        return {"input_ids": ids, "attention_mask": seen, "labels": labels}

    model.get_base_model().set_attn_implementation("sdpa")  # padded rows, no packs
    with tempfile.TemporaryDirectory() as scratch:
        Trainer(
            model=model,
            args=TrainingArguments(
                scratch,
                max_steps=settings.steps,
                per_device_train_batch_size=settings.rows_per_step,
                learning_rate=settings.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=settings.warmup_steps,
                seed=settings.seed,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
            ),
            train_dataset=rows,
            data_collator=collate,
        ).train()
    torch.use_deterministic_algorithms(True)
    from viz.training import row_attention

    model.get_base_model().set_attn_implementation(row_attention.NAME)
    return model.train()


if __name__ == "__main__":
    main()
