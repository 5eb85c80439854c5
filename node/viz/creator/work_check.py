"""Examine a work before it is signed: size, language, near copies, personal data, rights, facts.

Owns the findings of ``viz content check``. Nothing of the work leaves the machine: listings are
read from a node and compared here. If something could not be examined, the result says so and why,
so that a missing finding is never mistaken for a good one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from viz.creator.intake import importing, rights
from viz.creator.intake.found import OptOut
from viz.creator.languages import guess_language
from viz.creator.likeness import content_code, text_of
from viz.creator.personal_data import UNSEEN, personal_data
from viz.domain.strict_json import MemberTwice, load_json
from viz.domain.work import Work
from viz.errors import InvalidRequest, InvalidWork
from viz.given_file import read_given

_SHOWN: Final = 3
_SHOWN_CHARS: Final = 80
_MAX_RECORD_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Learnable:
    """What training would get from a work: facts, rows, and the chunks without any fact."""

    facts: int
    training_rows: int
    held_out_rows: int
    minutes: int
    silent_chunks: int
    examples: tuple[str, ...]


def check_work(made: importing.Imported, folder: Path) -> dict[str, Any]:
    """Return the findings about a work, as JSON values. Blocks for seconds to minutes.

    ``folder`` may hold the record of an earlier import of the same text, whose reservations of
    rights count as well.
    """
    text = text_of(made.work)
    found = [*made.opt_outs, *(recorded := _recorded(folder, made.sha256)).found]
    barring = rights.in_force(found)
    learnable, unknown = _learnable(made.work)
    return {
        "title": made.title,
        "kind": made.kind,
        "bytes": len(made.raw),
        "words": len(text.split()),
        "chunks": len(made.work.chunks),
        "sha256": made.sha256,
        "languageSaid": made.language,
        "languageGuessed": guess_language(text),
        "iscc": content_code(made.work),
        "personalData": [each.to_json() for each in personal_data(_pieces(made.work))],
        "personalDataUnseen": UNSEEN,
        "optOuts": [each.to_json() for each in found],
        "reserved": bool(barring),
        "rightsSignedBy": recorded.signer,
        "learnable": learnable,
        "learnableUnknown": unknown,
        "leftOut": made.left_out,
    }


def _pieces(work: Work) -> list[str]:
    """Return the text of each chunk, as people read it."""
    if work.kind == "text":
        return [chunk.text for chunk in work.chunks]
    return ["\n".join(m.content for m in chunk.messages) for chunk in work.chunks]


@dataclass(frozen=True, slots=True)
class _Recorded:
    found: tuple[OptOut, ...] = ()
    signer: str = ""


def _recorded(folder: Path, sha256: str) -> _Recorded:
    """Return what an import's record says about this text; nothing if it is about another text.

    Raises InvalidRequest if the record, or its signed statement, is damaged.
    """
    path = folder / importing.RECORD
    if not path.is_file():
        return _Recorded()
    raw = read_given(path, _MAX_RECORD_BYTES)
    try:
        record = load_json(raw)
        if record["sha256"] != sha256:
            return _Recorded()
        found = tuple(OptOut(**each) for each in record["optOuts"])
        signed: Mapping[str, Any] | None = record["rights"]
    except MemberTwice as error:
        raise InvalidRequest(f"{path} is damaged ({error}): import the work again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path} is damaged: import the work again") from error
    return _Recorded(found, rights.signer_of(signed, sha256) if signed else "")


def _learnable(work: Work) -> tuple[dict[str, Any] | None, str]:
    """Return what training would learn, or why that cannot be determined."""
    try:
        from viz.training.estimate import estimate
        from viz.training.facts import facts_of
        from viz.training.run import TrainingSettings
    except ImportError as error:
        return None, (
            f"{error.name} is not installed: scripts/setup --core --intake, or "
            "pip install 'viz-node[intake]'"
        )
    facts = facts_of(work)
    taught = {index for fact in facts for index in fact.chunks}
    pieces = _pieces(work)
    silent = [pieces[chunk.index] for chunk in work.chunks if chunk.index not in taught]
    try:
        cost = estimate([work], TrainingSettings())
    except InvalidWork as error:
        return None, str(error)
    found = Learnable(
        len(facts),
        cost.rows,
        cost.held_out_rows,
        -(-cost.seconds // 60),
        len(silent),
        tuple(" ".join(each.split())[:_SHOWN_CHARS] for each in silent[:_SHOWN]),
    )
    return {
        "facts": found.facts,
        "trainingRows": found.training_rows,
        "heldOutRows": found.held_out_rows,
        "minutes": found.minutes,
        "silentChunks": found.silent_chunks,
        "silentExamples": list(found.examples),
    }, ""
