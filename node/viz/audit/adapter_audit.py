"""Audit an adapter: train it again from its manifest, and compare the weights byte by byte.

Owns the comparison and the verdict. Manifest and works are given as files. Invariants:

- An audit that cannot repeat the run (a wrong work, the manifest of another adapter) says so before
  it computes anything. So does one that need not: a manifest whose hash the chain has, and that
  contradicts the chain, or the works that the chain names, is not true whatever the bytes are.
- If the bytes differ, that counts against the trainer, unless the environment here differs in an
  entry of the auditor's own list (``audit_environment``).
- A difference in what no environment can change (training rows, sizes in tokens) always counts.
- The report card is a claim of its own: it can be untrue although the weights are the same. The
  same holds for every other measurement in a manifest of this recipe; a measurement that no run
  makes is untrue.
- Only what was checked is reproduced: the same bytes beside a claim that this audit cannot read or
  compare (an entry that no run writes, an older recipe) are inconclusive.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from viz.audit.audit_environment import compare
from viz.domain.card import ReportCard, card_of
from viz.domain.display import counted
from viz.domain.manifest import Manifest, manifest_hash, open_manifest, shares_by_tokens
from viz.domain.ports.chain import AdapterState
from viz.domain.questions import QUESTIONS_FILE, Question, digest_of
from viz.domain.units import ContentId, Hash32, hex_of, parse_address, parse_hash
from viz.domain.verdict import Verdict
from viz.domain.work import check_commitment
from viz.errors import InvalidRequest, InvalidSignature
from viz.protocol.license_document.reading import verbatim_tokens
from viz.services.training.request import inputs_of, questions_of, read_input
from viz.services.training.result import MEASURED, TIME_FORM
from viz.services.work_records import load_record
from viz.training.environment import reproducibility_class
from viz.training.process import TrainingEvent, TrainingProcess
from viz.training.run import Bounds, TrainingRun, WorkInput, settings_from

# Packages that split a text into sentences and words. Other versions may give other rows.
_SPLITTERS: Final = frozenset({"packages.regex", "packages.sentencex"})
# Relative difference that a held-out loss may have although the weights are the same to the byte.
_ROUNDING: Final = 1e-6
_REGISTERED: Final = "the chain names this manifest by its hash, and "


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Hold the outcome of one repetition.

    ``verdict``: DIFFERENT if the manifest is not true: the rows differ, or bytes or measurements
    differ although the environment is the same. INCONCLUSIVE if the environment differs too.
    ``claimed`` and ``found``: the weights' digests in the manifest and in the repetition, None if
    nothing was trained; then ``rows_match`` is None too.
    ``claimed_card`` and ``card``: the report cards in the manifest and of the repetition's weights.
    ``differences``: what may have changed the bytes, as (manifest, here) by entry.
    ``remarks``: what is wrong with the manifest, or cannot be checked of it, whatever the bytes
    are. They excuse nothing, and none stands beside REPRODUCED.
    """

    verdict: Verdict
    claimed: Hash32
    found: Hash32 | None
    reproducibility: str
    differences: Mapping[str, tuple[Any, Any]]
    rows_match: bool | None
    remarks: tuple[str, ...]
    claimed_card: ReportCard | None = None
    card: ReportCard | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "verdict": self.verdict,
            "claimedWeights": hex_of(self.claimed),
            "foundWeights": hex_of(self.found) if self.found is not None else None,
            "reproducibility": self.reproducibility,
            "differences": {name: list(pair) for name, pair in self.differences.items()},
            "rowsMatch": self.rows_match,
            "remarks": list(self.remarks),
            "claimedCard": self.claimed_card.to_json() if self.claimed_card else None,
            "card": self.card.to_json() if self.card else None,
        }


async def audit_adapter(
    envelope: bytes,
    works: Sequence[Mapping[str, Any]],
    *,
    directory: Path,
    base_model: str,
    cache_dir: Path,
    registered: AdapterState | None = None,
    commitments: Mapping[ContentId, Hash32] | None = None,
    bounds: Bounds | None = None,
    progress: Callable[[TrainingEvent], None] | None = None,
) -> AuditReport:
    """Train an adapter again from its manifest and its works, and compare the weights.

    ``works`` are as in a training request, in any order. ``registered`` is the adapter as the chain
    has it, ``commitments`` are the commitments of its works. Another manifest than the chain's is
    refused before anything is computed. If the chain's own manifest contradicts the chain on
    weights, trainer, base model, works or shares, or a work on the number of its chunks, it is not
    true, and nothing is trained. Raises InvalidRequest, InvalidSignature, CommitmentMismatch, and
    what a run raises.
    """
    if registered is not None and manifest_hash(envelope) != registered.manifest_hash:
        raise InvalidRequest(
            f"this manifest hashes to {hex_of(manifest_hash(envelope))}, and the chain names "
            f"{hex_of(registered.manifest_hash)}: get that one with `viz adapter provenance "
            f"{registered.adapter_id} --format manifest --out FILE`"
        )
    try:
        manifest = open_manifest(envelope)
    except (InvalidRequest, InvalidSignature) as error:
        if registered is None:
            raise
        # Another version of this program may be able to read it; a signature is one or is none.
        forged = isinstance(error, InvalidSignature)
        verdict = Verdict.DIFFERENT if forged else Verdict.INCONCLUSIVE
        return _untrained(verdict, registered.weights_digest, "", [_REGISTERED + error.detail])
    untrue = contradictions(manifest, registered, commitments or {}) if registered else []
    if not untrue:
        inputs, untrue = await asyncio.to_thread(_inputs, manifest, works)
    if untrue:
        claimed, kind = manifest.weights_digest, manifest.reproducibility
        return _untrained(Verdict.DIFFERENT, claimed, kind, untrue)
    try:
        run = await asyncio.to_thread(_repetition, manifest, inputs, base_model, cache_dir, bounds)
    except InvalidRequest as error:
        if registered is None:
            raise
        # The auditor did not write it, and can mend at most what lies beside the works.
        claimed, kind = manifest.weights_digest, manifest.reproducibility
        return _untrained(Verdict.INCONCLUSIVE, claimed, kind, [_REGISTERED + error.detail])
    limits = await asyncio.to_thread(_limits_beyond, manifest, inputs)
    metrics: dict[str, Any] = {}
    process = TrainingProcess(run, directory, goes_on=False)
    async with contextlib.aclosing(process.events()) as events:
        async for event in events:
            metrics = event.values.get("metrics", metrics)
            if progress is not None:
                progress(event)
    return judge(manifest, metrics, unsure=limits)


def contradictions(
    manifest: Manifest, registered: AdapterState, commitments: Mapping[ContentId, Hash32]
) -> list[str]:
    """Return where the manifest contradicts the chain, by which creators are paid."""
    found = []
    if manifest.weights_digest != registered.weights_digest:
        found.append(
            f"the manifest is about weights {hex_of(manifest.weights_digest)}, and the chain has "
            f"{hex_of(registered.weights_digest)}"
        )
    if manifest.trainer != registered.trainer:
        found.append(f"it is {manifest.trainer}'s, and {registered.trainer} registered the adapter")
    if manifest.base_model != registered.base_model:
        found.append(
            f"the manifest names base model {hex_of(manifest.base_model)}, and the chain names "
            f"another base model, {hex_of(registered.base_model)}"
        )
    try:
        shares = shares_by_tokens(manifest.works)
    except InvalidRequest:
        shares = ()
    if tuple(registered.shares) != shares:
        found.append(
            f"its works earn the shares {_spelled(shares) or 'of no tokens at all'}, and the "
            f"chain pays {_spelled(registered.shares)}"
        )
    found += [
        f"the manifest names the commitment {hex_of(work.commitment)} of work {work.content_id}, "
        f"which has another commitment on the chain: {hex_of(commitments[work.content_id])}"
        for work in manifest.works
        if work.content_id in commitments and commitments[work.content_id] != work.commitment
    ]
    return found


def _spelled(shares: Sequence[tuple[ContentId, int]]) -> str:
    return ", ".join(f"{bps} bps for work {content_id}" for content_id, bps in shares)


def judge(
    manifest: Manifest,
    metrics: Mapping[str, Any],
    against_chain: Sequence[str] = (),
    *,
    unsure: Sequence[str] = (),
) -> AuditReport:
    """Compare a repetition's metrics with what the manifest claims.

    ``against_chain`` is what ``contradictions`` found, ``unsure`` what else may be wrong. Raises
    InvalidRequest if the repetition had another base model.
    """
    if metrics["baseModel"] != hex_of(manifest.base_model):
        raise InvalidRequest(
            f"the manifest is about base model {hex_of(manifest.base_model)}, this one is "
            f"{metrics['baseModel']}: give the right base model"
        )
    found = parse_hash(metrics["weightsDigest"])
    settings = settings_from(manifest.settings)
    differences, remarks = compare(manifest.environment, metrics["environment"], settings)
    same_recipe = "recipe" not in differences
    same_rows = same_recipe and not _SPLITTERS & differences.keys()
    rows_match = parse_hash(metrics["rowsDigest"]) == manifest.rows_digest
    untrue, same_bytes = list(against_chain), found == manifest.weights_digest
    # Other rows give other bytes: where the bytes are the same, no library cut the text elsewhere.
    if not rows_match and (same_rows or same_bytes or not same_recipe):
        untrue.append("the works give other training rows than the manifest names")
    if [work.tokens for work in manifest.works] != list(metrics["workTokens"]):
        untrue.append("the works have other sizes in tokens, from which shares are computed")
    claimed_card, card = card_of(manifest.measurements), card_of(metrics)
    # A manifest of an older recipe may have no card; one of this recipe must have one.
    same_card = claimed_card == card or (claimed_card is None and not same_recipe)
    other = _other_measurements(manifest.measurements, metrics) if same_recipe else []
    if same_bytes and not same_card:
        remarks.append(
            "the report card is not what these weights gave in this audit"
            if claimed_card
            else "it has no readable report card, although its training program writes one"
        )
    elif same_bytes and other:
        remarks.append(f"these weights gave other measurements in this audit: {', '.join(other)}")
    if manifest.reproducibility != reproducibility_class(settings.device):
        of = f"its class {manifest.reproducibility[:60]!r}"
        remarks.append(f"{of} is not this version's for {settings.device}")
    remarks += [*_unchecked(manifest, metrics), *unsure]
    if against_chain or (same_recipe and untrue):
        verdict = Verdict.DIFFERENT  # no environment can change these
    elif untrue:
        # An older recipe may have given these rows and sizes. But it is no reproduction either.
        verdict = Verdict.INCONCLUSIVE
    elif same_bytes and same_card and not other:
        sound = same_recipe and not remarks
        verdict = Verdict.REPRODUCED if sound else Verdict.INCONCLUSIVE
    else:
        verdict = Verdict.INCONCLUSIVE if differences else Verdict.DIFFERENT
    return AuditReport(
        verdict=verdict,
        claimed=manifest.weights_digest,
        found=found,
        reproducibility=manifest.reproducibility,
        differences=differences,
        rows_match=rows_match,
        remarks=(*untrue, *remarks),
        claimed_card=claimed_card,
        card=card,
    )


def _unchecked(manifest: Manifest, metrics: Mapping[str, Any]) -> list[str]:
    """Return what the manifest says of its base model's name and its times that is no fact."""
    found = []
    if manifest.base_name != (here := metrics["baseModelName"]):
        found.append(
            f"it calls its base model {manifest.base_name[:60]!r}, and the one of this digest is "
            f"called {here[:60]!r} here: a name follows from no digest. If it is that one, give it "
            "by that name (--base-model)"
        )
    try:
        told = (manifest.started_at, manifest.finished_at)
        times = [time.strptime(each, TIME_FORM) for each in told]
    except ValueError:
        found.append("when the training began and ended is no time")
    else:
        if times != sorted(times):
            found.append("the training ended before it began")
    return found


def _limits_beyond(manifest: Manifest, inputs: Sequence[WorkInput]) -> list[str]:
    """Return the works whose license, as it lies beside them, lets an answer repeat less of them.

    The license may have been another one when the training's grant was acquired. Reads the disk.
    """
    found, limit = [], settings_from(manifest.settings).max_verbatim_tokens
    for each in inputs:
        record = load_record(each.path)
        stated = verbatim_tokens(record.license) if record is not None else None
        if type(stated) is int and max(1, stated) < limit:
            found.append(
                f"its settings let an answer repeat {counted(limit, 'token')} of a work, and the "
                f"license beside work {each.content_id} lets it repeat {stated}"
            )
    return found


def _other_measurements(claimed: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return the names of the measurements that are missing or differ in the repetition.

    The committed questions are not compared here: ``_questions`` has done that.
    """
    names = sorted((claimed.keys() - {"questions"}) | (found.keys() & set(MEASURED)))
    return [
        name[:60] if name in MEASURED else repr(name[:60])
        for name in names
        if name not in MEASURED
        or (name in claimed) is not (name in found)
        or not _alike(claimed[name], found[name])
    ]


def _alike(claimed: Any, found: Any) -> bool:
    """Return whether two JSON values are equal; numbers may differ by ``_ROUNDING``."""
    if isinstance(claimed, Mapping) and isinstance(found, Mapping):
        return claimed.keys() == found.keys() and all(
            _alike(claimed[name], found[name]) for name in found
        )
    if isinstance(claimed, list) and isinstance(found, list):
        return len(claimed) == len(found) and all(map(_alike, claimed, found))
    numbers = [type(each) in (int, float) for each in (claimed, found)]
    if all(numbers):
        return math.isclose(claimed, found, rel_tol=_ROUNDING)
    return type(claimed) is type(found) and bool(claimed == found)


def _untrained(
    verdict: Verdict, claimed: Hash32, reproducibility: str, remarks: Sequence[str]
) -> AuditReport:
    """Return the report of an audit that was decided without a repetition."""
    return AuditReport(verdict, claimed, None, reproducibility, {}, None, tuple(remarks))


def _inputs(
    manifest: Manifest, works: Sequence[Mapping[str, Any]]
) -> tuple[list[WorkInput], list[str]]:
    """Return the works in the manifest's order, and what it says of them that is not true.

    Raises InvalidRequest and CommitmentMismatch if they are not the works that were registered.
    """
    given = {each.content_id: each for each in inputs_of({"works": works})}
    wanted = [int(work.content_id) for work in manifest.works]
    if sorted(given) != sorted(wanted):
        raise InvalidRequest(f"the manifest names the works {wanted}, given are {sorted(given)}")
    inputs, untrue = list[WorkInput](), list[str]()
    for named in manifest.works:
        each = given[int(named.content_id)]
        work = read_input(each)
        salt, creator = parse_hash(each.salt), parse_address(each.creator)
        check_commitment(work, creator, salt, named.commitment)
        if len(work.chunks) != named.chunks:
            untrue.append(
                f"the manifest names {counted(named.chunks, 'chunk')} of work {named.content_id}, "
                f"and the work that the chain commits to has {len(work.chunks)}"
            )
        inputs.append(replace(each, commitment=hex_of(named.commitment)))
    return inputs, untrue


def _repetition(
    manifest: Manifest,
    inputs: Sequence[WorkInput],
    base_model: str,
    cache_dir: Path,
    bounds: Bounds | None,
) -> TrainingRun:
    return TrainingRun(
        name="audit",
        works=tuple(inputs),
        settings=settings_from(manifest.settings),
        base_model=base_model,
        cache_dir=cache_dir,
        bounds=bounds or Bounds(),
        questions=_questions(manifest, inputs),
    )


def _questions(manifest: Manifest, inputs: Sequence[WorkInput]) -> tuple[Question, ...]:
    """Return the run's committed questions; raise InvalidRequest if the files have others."""
    named = manifest.measurements.get("questions")
    if named is None:
        return ()
    here = questions_of(inputs)
    if not here or named != hex_of(digest_of(here)):
        found = f"those here hash to {hex_of(digest_of(here))}" if here else "none are here"
        raise InvalidRequest(
            f"the adapter was chosen by committed questions that hash to {str(named)[:66]}, and "
            f"{found}: put the works' own {QUESTIONS_FILE} beside them"
        )
    return here
