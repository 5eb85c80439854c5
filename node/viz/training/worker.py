"""Run a training in a child process: ``python -m viz.training.worker <run directory>``.

Owns one run from ``run.json`` to ``adapter.safetensors``, ``metrics.json`` and ``dataset.jsonl``,
and its events (its bounds are kept by ``limits``). The parent has checked who may train. Events are
JSON objects, one a line, on stdout; whatever libraries print goes to stderr. SIGTERM stops between
two steps, after a checkpoint, or between two batches of questions. Starting it again on the same
directory resumes. Invariant: the last event is ``result``, ``cancelled`` or ``failed``, unless the
process was killed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from viz.domain.units import Hash32, hex_of, parse_address, parse_hash
from viz.domain.work import Work, check_commitment, parse_work, tokens_of
from viz.errors import InvalidWork, TrainingCancelled, TrainingError, VizError
from viz.training.limits import Stopper, bound_memory
from viz.training.measured import Measured, of_base, of_run
from viz.training.run import TrainingRun, TrainingSettings, WorkInput, load_run

if TYPE_CHECKING:
    import torch

    from viz.basemodel.source import LoadedBase
    from viz.training.examination import Examination
    from viz.training.loop import LoopState, TrainingLoop
    from viz.training.memorisation import Extraction
    from viz.training.packing import TokenRow
    from viz.training.recall import Recall

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
    except OSError as error:
        # Its traceback goes to the log, which may be on the same full disk.
        why = f"a file of the run cannot be read or written ({error.strerror}): if its disk is full"
        report("failed", code=TrainingError.code, detail=f"{why}, free some space")
        return EXIT_FAILED
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for this
            raise
        detail = (
            "the device has no memory left for the run: set recompute=true, lower rows_per_step or "
            f"max_row_tokens, or end what else uses the device ({str(error)[:200]})"
        )
        report("failed", code=TrainingError.code, detail=detail)
        return EXIT_FAILED
    return 0


def _give_up(report: Reporter, detail: str) -> NoReturn:
    """Say why and leave, from whatever thread."""
    report("failed", code=TrainingError.code, detail=detail)
    os._exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class _RunMaterial:
    """The rows of a run and the model. ``identity`` names everything that determines both."""

    works: list[Work]
    base: LoadedBase
    model: Any
    dtype: torch.dtype
    recall: Recall
    training: list[TokenRow]
    held_out: list[TokenRow]
    too_long: int
    rows_digest: Hash32
    identity: str
    measured: Measured
    general: Measured


def train(run: TrainingRun, directory: Path, report: Reporter, stopper: Stopper) -> None:
    """Do the run; every file it leaves appears whole or not at all."""
    started = time.monotonic()
    here = _prepare(run, directory)

    from viz.training.environment import describe
    from viz.training.qlora import adapter_tensors

    examination = _examination(here, run.settings, stopper)
    learned = here.training + _replayed(here, run.settings, stopper)
    loop = _training_loop(here, run.settings, learned, examination)
    resumed = loop.resume(directory)
    report(
        "started",
        steps=run.settings.steps,
        step=loop.progress.step,
        rows=len(here.training),
        held_out_rows=len(here.held_out),
        resumed=resumed,
        compute=str(here.dtype).removeprefix("torch."),
    )
    stopper.check()
    right, asked = examination.before().score
    report("evaluated", step=0, right=right, asked=asked)
    _run_loop(loop, run, directory, report, stopper)
    stopper.check()
    extraction, found = _measure(here, run.settings, examination, report)
    stopper.check()
    digest = _write_adapter(directory, here.base, adapter_tensors(here.model), run)
    metrics = {
        "weightsDigest": hex_of(digest),
        **_described(here),
        "wholeRows": extraction.rows,
        "replayedRows": len(learned) - len(here.training),
        "passages": extraction.available,
        "steps": loop.progress.step,
        "bestStep": loop.progress.best_step,
        "curve": {"loss": loop.progress.losses, "recalled": loop.progress.recalled},
        **found,
        "environment": describe(run.settings),
        "seconds": round(time.monotonic() - started, 1),
    }
    partial = directory / f"{METRICS_FILE}.partial"
    partial.write_text(json.dumps(metrics, indent=1))
    partial.replace(directory / METRICS_FILE)
    report("result", metrics=metrics)


def _prepare(run: TrainingRun, directory: Path) -> _RunMaterial:
    """Make the rows and build the model; write the rows to disk for audits to compare."""
    from viz.training.dataset import build_dataset, write_dataset
    from viz.training.environment import (
        compute_dtype,
        describe,
        make_deterministic,
        require_device,
    )
    from viz.training.packing import require_an_end, tokenise_all

    settings = run.settings
    works = [_read_work(given) for given in run.works]
    require_device(settings)
    make_deterministic(settings)

    from viz.basemodel.source import load_base
    from viz.training.general import digest_of_general
    from viz.training.neighbours import neighbours_of
    from viz.training.qlora import build_model
    from viz.training.recall import Recall

    base = load_base(run.base_model, cache_dir=run.cache_dir)
    base.tokenizer.fix_time()
    dataset = build_dataset(
        works,
        seed=settings.seed,
        held_out_share=settings.held_out_share,
        vocabulary=neighbours_of(base),
    )
    rows_digest = write_dataset(directory / DATASET_FILE, dataset, works)
    require_an_end(base.tokenizer, base.shape.end_ids)
    training, too_long = tokenise_all(dataset.training, base.tokenizer, settings.max_row_tokens)
    held_out, _ = tokenise_all(dataset.held_out, base.tokenizer, settings.max_row_tokens)
    identity = f"{rows_digest.hex()} {base.digest.hex()} {json.dumps(run.recipe(), sort_keys=True)}"
    return _RunMaterial(
        works=works,
        base=base,
        model=build_model(base, settings),
        dtype=compute_dtype(settings),
        recall=Recall(dataset, base.tokenizer, base.shape.end_ids, run.questions),
        training=training,
        held_out=held_out,
        too_long=too_long,
        rows_digest=rows_digest,
        identity=identity,
        measured=of_run(directory, f"{identity} {settings.probes} {settings.max_verbatim_tokens}"),
        general=of_base(
            run.cache_dir,
            f"{base.digest.hex()} {digest_of_general()} {settings.weights} "
            f"{json.dumps(describe(settings), sort_keys=True)}",
        ),
    )


def _examination(here: _RunMaterial, settings: TrainingSettings, stopper: Stopper) -> Examination:
    from viz.training.examination import Examination

    return Examination(
        here.model,
        here.base,
        here.recall,
        held_out=here.held_out,
        dtype=here.dtype,
        device=settings.device,
        check=stopper.check,
        measured=here.measured,
        of_base=here.general,
    )


def _replayed(here: _RunMaterial, settings: TrainingSettings, stopper: Stopper) -> list[TokenRow]:
    """Return rows of the bare base's answers, so that the adapter keeps the base's abilities."""
    from viz.training.evaluate import bare_base
    from viz.training.general import PROMPTS
    from viz.training.replay import replay_rows, with_likely_tokens

    with bare_base(here.model):
        wanted = round(len(here.training) * settings.replay_share)
        rows = replay_rows(
            here.model,
            here.base.tokenizer,
            here.base.shape.end_ids,
            min(wanted, len(PROMPTS)),
            before_batch=stopper.check,
            kept=here.general.batches("replayed"),
        )
        rows = with_likely_tokens(here.model, rows, here.dtype, settings.device)
    return [rows[place % len(rows)] for place in range(wanted if rows else 0)]


def _training_loop(
    here: _RunMaterial,
    settings: TrainingSettings,
    learned: list[TokenRow],
    examination: Examination,
) -> TrainingLoop:
    from viz.training.loop import TrainingLoop

    def evaluate() -> tuple[int, int]:
        return examination.recalled().score

    return TrainingLoop(
        here.model,
        learned,
        settings,
        here.dtype,
        identity=here.identity,
        evaluate=evaluate if here.recall else None,
    )


def _measure(
    here: _RunMaterial, settings: TrainingSettings, examination: Examination, report: Reporter
) -> tuple[Extraction, dict[str, Any]]:
    """Measure the adapter; return its memorisation probes, and all measurements as JSON values."""
    from viz.training.memorisation import Extraction

    extraction = Extraction(
        here.works,
        here.training,
        here.base.tokenizer,
        here.base.shape.end_ids,
        wanted=settings.probes,
        limit_tokens=settings.max_verbatim_tokens,
    )
    return extraction, examination.after(extraction, lambda what: report("measuring", what=what))


def _described(here: _RunMaterial) -> dict[str, Any]:
    """Return the result's members about the base model and the rows, as JSON values."""
    base = here.base
    return {
        "baseModel": hex_of(base.digest),
        "baseModelName": base.model.name,
        "tokenizer": hex_of(base.model.tokenizer_digest),
        "quantisation": json.loads(base.policy.canonical()),
        "rowsDigest": hex_of(here.rows_digest),
        "rows": len(here.training),
        "rowsTooLong": here.too_long,
        "heldOutRows": len(here.held_out),
        "supervisedTokens": sum(len(row.supervised) for row in here.training),
        "workTokens": _tokens_by_work(here.works, base),
    }


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
        # Cancelled between steps or in an evaluation, which is repeated after the resume.
        if loop.progress.step > saved:
            checkpoint(loop.progress.step)
        raise


def _tokens_by_work(works: list[Work], base: LoadedBase) -> list[int]:
    """Return each work's size in tokens: what shares by size are computed from."""
    return [tokens_of(work, base.tokenizer.count) for work in works]


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
