"""Convert a request to train, given as JSON values, to works and settings.

Owns the form of the request. Invariant: anything missing or malformed raises InvalidRequest, which
names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from viz.domain.ports.engine import BaseModel
from viz.domain.questions import QUESTIONS_FILE, Question, parse_questions
from viz.domain.units import hex_of, parse_address, parse_hash
from viz.domain.work import Work
from viz.errors import InvalidRequest, InvalidWork, ModelUnavailable
from viz.given_file import read_given
from viz.services.work_records import Registration, load_record, read_work, record_path
from viz.training.run import (
    MINIMUM_PROBES,
    TrainingSettings,
    WorkInput,
    default_settings,
    settings_from,
)

MAX_WORKS: Final = 128
# The most committed questions in one run, shared equally between its works.
MOST_QUESTIONS: Final = 48
MAX_QUESTIONS_BYTES: Final = 1024 * 1024


def inputs_of(request: Mapping[str, Any]) -> tuple[WorkInput, ...]:
    """Return the works of a request, completed from their registration records.

    Reads the disk. The commitments stay empty, because they come from the chain. Raises
    InvalidRequest.
    """
    works = request.get("works")
    if not isinstance(works, Sequence) or isinstance(works, str) or not works:
        raise InvalidRequest('"works" must list the works to train on')
    if len(works) > MAX_WORKS:
        raise InvalidRequest(f"an adapter has at most {MAX_WORKS} works")
    inputs = tuple(_input(work) for work in works)
    if len({given.content_id for given in inputs}) != len(inputs):
        raise InvalidRequest("a work is listed twice")
    return inputs


def base_of(request: Mapping[str, Any], bases: Sequence[BaseModel]) -> BaseModel:
    """Return the base model that a request names by name or digest; the first if it names none.

    Raises InvalidRequest, ModelUnavailable if there is no base model.
    """
    if not bases:
        raise ModelUnavailable(
            "training needs a base model, and this node runs without one: ask another node"
        )
    wanted = request.get("base")
    if wanted is None:
        return bases[0]
    for base in bases:
        if wanted in (base.name, hex_of(base.digest)):
            return base
    known = ", ".join(f"{base.name} ({hex_of(base.digest)})" for base in bases)
    raise InvalidRequest(
        f"this node has no base model {str(wanted)[:80]!r} to train on; it has {known}. Another "
        "one needs an [[engine]] entry (docs/engines.md)"
    )


def _input(work: Any) -> WorkInput:
    if not isinstance(work, Mapping) or not isinstance(work.get("path"), str):
        raise InvalidRequest('a work needs its "path"')
    path = Path(work["path"])
    record = load_record(path)
    given: dict[str, Any] = {}
    if record is not None:
        given = {
            "contentId": record.content_id,
            "kind": record.kind,
            "creator": record.creator,
            "salt": hex_of(record.salt),
        }
    given |= {name: work[name] for name in ("contentId", "kind", "creator", "salt") if name in work}
    missing = [n for n in ("contentId", "kind", "creator", "salt") if given.get(n) is None]
    if missing:
        raise InvalidRequest(_unregistered(path, record, missing))
    if isinstance(given["contentId"], bool) or not isinstance(given["contentId"], int):
        raise InvalidRequest(f"{path.name}: contentId must be a number")
    creator = parse_address(given["creator"])
    salt = hex_of(parse_hash(given["salt"]))
    return WorkInput(given["contentId"], str(given["kind"]), path, creator, salt, "")


def _unregistered(path: Path, record: Registration | None, missing: Sequence[str]) -> str:
    """Return the error text for an unregistered work: what is missing, and what to do."""
    if not path.exists():
        return (
            f"there is no work {path}, nor a registration record of one beside it: name the work's "
            "folder, or its file"
        )
    if record is not None and missing == ["contentId"]:
        return (
            f"{path.name} is drafted and not registered: its creator registers it with "
            f"`viz content register {path.parent} --key KEY`"
        )
    return (
        f"{path.name} has no registration record beside it ({record_path(path).name}): if the work "
        "is yours, register it with `viz content register`; else ask its creator for the record, "
        "which holds the salt"
    )


def read_input(given: WorkInput) -> Work:
    """Read and parse the file of a work; raise InvalidWork."""
    return read_work(given.path, given.kind)


def questions_of(inputs: Sequence[WorkInput]) -> tuple[Question, ...]:
    """Return the committed questions in files beside the works, at most ``MOST_QUESTIONS``.

    Reads the disk. Raises InvalidWork if such a file is malformed or too large.
    """
    found: list[tuple[Question, ...]] = []
    for path in dict.fromkeys(given.path.with_name(QUESTIONS_FILE) for given in inputs):
        if path.exists():
            found.append(parse_questions(read_given(path, MAX_QUESTIONS_BYTES, InvalidWork)))
    of_each = max(1, MOST_QUESTIONS // max(1, len(found)))
    drawn = [each for questions in found for each in _drawn(questions, of_each)]
    return tuple(drawn[:MOST_QUESTIONS])


def _drawn(questions: Sequence[Question], most: int) -> list[Question]:
    count = min(most, len(questions))
    return [questions[place * len(questions) // count] for place in range(count)]


def settings_of(
    request: Mapping[str, Any],
    works: Sequence[Work],
    limits: Sequence[int | None],
    defaults: Mapping[str, Any],
) -> TrainingSettings:
    """Return the default settings for these works, with the changes that the request makes.

    ``defaults`` are the node's own: threads, and what its device asks for (``defaults_on``).
    ``limits`` are the licenses' memorisation limits. The limit in the settings is at most the
    strictest of them. If there is one, at least ``MINIMUM_PROBES`` probes measure it. Raises
    InvalidRequest.
    """
    # Imported here: a node without a model may lack the training's libraries.
    from viz.training.facts import facts_of

    facts = sum(fact.reworded for work in works for fact in facts_of(work))
    changes = request.get("settings") or {}
    if not isinstance(changes, Mapping):
        raise InvalidRequest('"settings" must be an object')
    # The device is resolved by then: a request may name "auto".
    made = {**asdict(default_settings(facts, **defaults)), **changes}
    chosen = settings_from(made | {"device": defaults["device"]})
    stated = [limit for limit in limits if limit is not None]
    if not stated:
        return chosen
    return replace(
        chosen,
        # Every answer repeats at least one token. So a license that allows 0 tokens counts as 1.
        max_verbatim_tokens=max(1, min(chosen.max_verbatim_tokens, *stated)),
        probes=max(chosen.probes, MINIMUM_PROBES),
    )
