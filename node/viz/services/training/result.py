"""Check the result of a training run, and make its manifest and the result in its record.

Owns the rule of the memorisation limit, and which facts of a run go into its manifest and its
record. It only computes: it runs, signs and stores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from viz.domain.card import ReportCard
from viz.domain.display import counted
from viz.domain.manifest import Manifest, SourceWork, manifest_hash, shares_by_tokens
from viz.domain.questions import digest_of
from viz.domain.units import Address, ContentId, hex_of, parse_hash
from viz.domain.work import Work
from viz.errors import AdapterNotTaught, MemorisationLimitExceeded
from viz.training.environment import reproducibility_class
from viz.training.run import TrainingRun, TrainingSettings

TIME_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"
MEASURED: Final = (
    "heldOut",
    "recall",
    "committed",
    "general",
    "memorisation",
    "defaultTemperature",
    "rows",
    "steps",
    "bestStep",
)


def require_memorisation_limit(settings: TrainingSettings, metrics: Mapping[str, Any]) -> None:
    """Raise MemorisationLimitExceeded if an adapter repeats more than its license allows.

    An adapter may always repeat as much as the base model does. Fewer probes than were asked for
    prove nothing, so they raise the same error.
    """
    repeated = metrics["memorisation"]
    for kind, there_are, called in (
        ("probes", "wholeRows", "rows"),
        ("passages", "passages", "passages"),
    ):
        probed, wanted = repeated["adapter"][kind], min(settings.probes, metrics[there_are])
        if probed < wanted:
            raise MemorisationLimitExceeded(
                f"the adapter was probed for repetition by {probed} {called} instead of {wanted}"
            )
    longest, limit = repeated["adapter"]["longest_tokens"], settings.max_verbatim_tokens
    # None: no probes were asked for, because no license states a limit.
    if longest is not None and longest > max(limit, repeated["base"]["longest_tokens"]):
        raise MemorisationLimitExceeded(
            f"the adapter repeats {counted(longest, 'token')} of a work word for word, its license "
            f"allows {limit}: train fewer steps, at a lower rank or learning rate"
        )


def require_taught(
    card: ReportCard | None, least_right_percent: int, least_kept_percent: int
) -> None:
    """Raise AdapterNotTaught, with what to change, if a report card is below the thresholds."""
    if card is None:
        raise AdapterNotTaught(
            "this run has no report card: train again, or publish it with --publish-anyway"
        )
    if found := card.shortcomings(least_right_percent, least_kept_percent):
        raise AdapterNotTaught(f"{'; '.join(found)}; --publish-anyway sells it as it is")


def manifest_of(
    run: TrainingRun,
    works: Sequence[Work],
    metrics: Mapping[str, Any],
    trainer: Address,
    finished_s: int,
) -> Manifest:
    """Return the manifest of a run that ended at ``finished_s``, seconds since the epoch."""
    return Manifest(
        trainer=trainer,
        weights_digest=parse_hash(metrics["weightsDigest"]),
        base_model=parse_hash(metrics["baseModel"]),
        base_name=metrics["baseModelName"],
        works=tuple(
            SourceWork(
                ContentId(given.content_id),
                parse_hash(given.commitment),
                len(work.chunks),
                tokens,
            )
            for given, work, tokens in zip(run.works, works, metrics["workTokens"], strict=True)
        ),
        rows_digest=parse_hash(metrics["rowsDigest"]),
        settings=asdict(run.settings),
        environment=metrics["environment"],
        reproducibility=reproducibility_class(run.settings.device),
        measurements={name: metrics[name] for name in MEASURED if name in metrics}
        | ({"questions": hex_of(digest_of(run.questions))} if run.questions else {}),
        started_at=_time(finished_s - int(metrics["seconds"])),
        finished_at=_time(finished_s),
    )


def result_of(
    path: Path, envelope: bytes, manifest: Manifest, metrics: dict[str, Any]
) -> dict[str, Any]:
    """Return the result for a run's record, as JSON values; ``path`` is the manifest's path."""
    return {
        "weights": str(path.with_name("adapter.safetensors")),
        "manifest": str(path),
        "manifestHash": hex_of(manifest_hash(envelope)),
        "weightsDigest": metrics["weightsDigest"],
        "baseModel": metrics["baseModel"],
        "shares": [[int(content), bps] for content, bps in shares_by_tokens(manifest.works)],
        "metrics": metrics,
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(TIME_FORM)
