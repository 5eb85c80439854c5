"""The child process of a run: ``python -m viz.training.worker <run directory>``.

Owns one run from ``run.json`` to ``adapter.safetensors``, ``metrics.json`` and ``dataset.jsonl``,
and its events (its bounds are kept by ``limits``). Does not know the chain or who may train: the
parent has checked. Events are JSON objects, one a line, on stdout; whatever libraries print goes to
stderr. SIGTERM stops between two steps, after a checkpoint, or between two batches of questions.
Starting it again on the same directory resumes. Invariant: the last event is ``result``,
``cancelled`` or ``failed``, unless the process was killed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from viz.domain.units import Hash32, hex_of, parse_address, parse_hash
from viz.domain.work import Work, check_commitment, parse_work
from viz.errors import InvalidWork, TrainingCancelled, TrainingError, VizError
from viz.training.limits import Stopper, bound_memory
from viz.training.measured import Measured
from viz.training.run import TrainingRun, WorkInput, load_run

if TYPE_CHECKING:
    from viz.basemodel.source import LoadedBase
    from viz.training.loop import LoopState, TrainingLoop

ADAPTER_FILE: Final = "adapter.safetensors"
METRICS_FILE: Final = "metrics.json"
DATASET_FILE: Final = "dataset.jsonl"
EXIT_FAILED: Final = 3


class Reporter:
    """Writes events to the pipe that was stdout."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def __call__(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values})
        with self._lock:
            self._out.write(line + "\n")
            self._out.flush()


def main(directory: Path) -> int:
    """Run the worker; return the exit status."""
    report = Reporter()
    try:
        run = load_run(directory)
        os.nice(run.bounds.niceness)
        bound_memory(run.bounds.memory_bytes, lambda detail: _give_up(report, detail))
        train(run, directory, report, Stopper(run.bounds.time_s))
    except TrainingCancelled as error:
        report("cancelled", detail=str(error))
        return 0
    except VizError as error:
        report("failed", code=error.code, detail=str(error))
        return EXIT_FAILED
    except MemoryError:
        report("failed", code=TrainingError.code, detail="the run needs more memory than there is")
        return EXIT_FAILED
    return 0


def _give_up(report: Reporter, detail: str) -> NoReturn:
    """Say why and leave, from whatever thread."""
    report("failed", code=TrainingError.code, detail=detail)
    os._exit(EXIT_FAILED)


def train(  # noqa: PLR0915  one run from its works to its files, in the order of what happens
    run: TrainingRun, directory: Path, report: Reporter, stopper: Stopper
) -> None:
    """Do the run; every file it leaves appears whole or not at all."""
    from viz.training.dataset import build_dataset, write_dataset
    from viz.training.environment import compute_dtype, describe, make_deterministic
    from viz.training.packing import require_an_end, tokenise_all

    started = time.monotonic()
    settings = run.settings
    works = [_read_work(given) for given in run.works]
    make_deterministic(settings)

    from viz.basemodel.source import load_base
    from viz.training.evaluate import bare_base
    from viz.training.examination import Examination
    from viz.training.general import PROMPTS
    from viz.training.loop import TrainingLoop
    from viz.training.memorisation import Extraction
    from viz.training.neighbours import neighbours_of
    from viz.training.qlora import adapter_tensors, build_model
    from viz.training.recall import Recall
    from viz.training.replay import replay_rows

    base = load_base(run.base_model, cache_dir=run.cache_dir)
    base.tokenizer.fix_time()
    dataset = build_dataset(
        works,
        seed=settings.seed,
        held_out_share=settings.held_out_share,
        vocabulary=neighbours_of(base),
    )
    rows_digest = write_dataset(directory / DATASET_FILE, dataset, works)
    dtype = compute_dtype(settings)
    require_an_end(base.tokenizer, base.shape.end_ids)
    training, too_long = tokenise_all(dataset.training, base.tokenizer, settings.max_row_tokens)
    held_out, _ = tokenise_all(dataset.held_out, base.tokenizer, settings.max_row_tokens)
    model = build_model(base, settings)
    identity = f"{rows_digest.hex()} {base.digest.hex()} {json.dumps(run.recipe(), sort_keys=True)}"
    recall = Recall(dataset, base.tokenizer, base.shape.end_ids)
    measured = Measured(directory, f"{identity} {settings.probes} {settings.max_verbatim_tokens}")
    measures = Examination(
        model,
        base,
        recall,
        held_out=held_out,
        dtype=dtype,
        device=settings.device,
        check=stopper.check,
        measured=measured,
    )
    with bare_base(model):
        wanted = round(len(training) * settings.replay_share)
        replayed = replay_rows(
            model,
            base.tokenizer,
            base.shape.end_ids,
            min(wanted, len(PROMPTS)),
            before_batch=stopper.check,
            kept=measured.batches("replayed"),
        )
    learned = training + [
        replayed[place % len(replayed)] for place in range(wanted if replayed else 0)
    ]

    def evaluate() -> tuple[int, int]:
        now = measures.recalled()
        return now.right, now.asked

    loop = TrainingLoop(
        model, learned, settings, dtype, identity=identity, evaluate=evaluate if recall else None
    )
    resumed = loop.resume(directory)
    report(
        "started",
        steps=settings.steps,
        step=loop.progress.step,
        rows=len(training),
        held_out_rows=len(held_out),
        resumed=resumed,
        compute=str(dtype).removeprefix("torch."),
    )
    stopper.check()
    base_recalled = measures.before()
    report("evaluated", step=0, right=base_recalled.right, asked=base_recalled.asked)
    _run_loop(loop, run, directory, report, stopper)
    stopper.check()
    extraction = Extraction(
        works,
        training,
        base.tokenizer,
        base.shape.end_ids,
        wanted=settings.probes,
        limit_tokens=settings.max_verbatim_tokens,
    )
    found = measures.after(extraction, lambda what: report("measuring", what=what))
    stopper.check()
    digest = _write_adapter(directory, base, adapter_tensors(model), run)
    metrics = {
        "weightsDigest": hex_of(digest),
        "baseModel": hex_of(base.digest),
        "baseModelName": base.model.name,
        "tokenizer": hex_of(base.model.tokenizer_digest),
        "quantisation": json.loads(base.policy.canonical()),
        "rowsDigest": hex_of(rows_digest),
        "rows": len(training),
        "wholeRows": extraction.rows,
        "rowsTooLong": too_long,
        "replayedRows": len(learned) - len(training),
        "heldOutRows": len(held_out),
        "passages": extraction.available,
        "supervisedTokens": sum(len(row.supervised) for row in training),
        "workTokens": _tokens_by_work(works, base),
        "steps": loop.progress.step,
        "bestStep": loop.progress.best_step,
        "curve": {"loss": loop.progress.losses, "recalled": loop.progress.recalled},
        **found,
        "environment": describe(settings),
        "seconds": round(time.monotonic() - started, 1),
    }
    partial = directory / f"{METRICS_FILE}.partial"
    partial.write_text(json.dumps(metrics, indent=1))
    partial.replace(directory / METRICS_FILE)
    report("result", metrics=metrics)


def _run_loop(
    loop: TrainingLoop, run: TrainingRun, directory: Path, report: Reporter, stopper: Stopper
) -> None:
    bounds, saved, saved_at = run.bounds, loop.progress.step, time.monotonic()

    def checkpoint(step: int) -> None:
        nonlocal saved, saved_at
        loop.save(directory)
        saved, saved_at = step, time.monotonic()
        report("checkpoint", step=step)

    def after_step(progress: LoopState, loss: float) -> None:
        # On the disk first: a step that was told of is not made again.
        late = time.monotonic() - saved_at >= bounds.checkpoint_s
        if late or progress.step % bounds.checkpoint_every == 0 or loop.is_ended:
            checkpoint(progress.step)
        report("step", step=progress.step, steps=run.settings.steps, loss=loss)
        stopper.check()

    def after_evaluation(progress: LoopState) -> None:
        checkpoint(progress.step)
        step, right, asked = progress.recalled[-1]
        report("evaluated", step=step, right=right, asked=asked)

    try:
        loop.run(after_step=after_step, after_evaluation=after_evaluation)
    except TrainingCancelled:
        # Between two steps, or while one is judged, which is then done after the resume.
        if loop.progress.step > saved:
            checkpoint(loop.progress.step)
        raise


def _tokens_by_work(works: list[Work], base: LoadedBase) -> list[int]:
    """Return each work's size in tokens: what shares by size are computed from."""
    return [
        sum(
            base.tokenizer.count(text)
            for chunk in work.chunks
            for text in ([m.content for m in chunk.messages] or [chunk.text])
        )
        for work in works
    ]


def _read_work(given: WorkInput) -> Work:
    try:
        raw = given.path.read_bytes()
    except OSError as error:
        raise InvalidWork(f"work {given.content_id} cannot be read: {error.strerror}") from error
    work = parse_work(given.kind, raw)
    check_commitment(
        work,
        parse_address(given.creator),
        parse_hash(given.salt),
        parse_hash(given.commitment),
    )
    return work


def _write_adapter(
    directory: Path, base: LoadedBase, tensors: dict[str, Any], run: TrainingRun
) -> Hash32:
    import torch

    from viz.basemodel.adapter_file import write_adapter

    # Serving computes with bf16 adapters; rounding here makes the file exactly what is served.
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    return write_adapter(
        directory / ADAPTER_FILE,
        rounded,
        rank=run.settings.rank,
        alpha=run.settings.alpha,
        base=base.digest,
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
