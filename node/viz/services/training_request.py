"""A request to train, as plain JSON values, turned into works and settings.

Owns the request's form. Does not know grants or the queue. Invariant: whatever is missing or
malformed raises InvalidRequest naming it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from viz.domain.units import hex_of, parse_address, parse_hash
from viz.domain.work import Work, parse_work
from viz.errors import InvalidRequest, InvalidWork
from viz.services.registration import load_record
from viz.training.run import Settings, WorkInput, default_settings, settings_from

MAX_WORKS: Final = 128


def inputs_of(request: Mapping[str, Any]) -> tuple[WorkInput, ...]:
    """Return the works of a request, completed from their registration records.

    Reads the disk. Raises InvalidRequest. Commitments are left empty: the chain says them.
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
        raise InvalidRequest(
            f"{path.name}: {', '.join(missing)} is not given, and no registration record lies "
            "beside the file"
        )
    if isinstance(given["contentId"], bool) or not isinstance(given["contentId"], int):
        raise InvalidRequest(f"{path.name}: contentId must be a number")
    creator = parse_address(given["creator"])
    salt = hex_of(parse_hash(given["salt"]))
    return WorkInput(given["contentId"], str(given["kind"]), path, creator, salt, "")


def read_input(given: WorkInput) -> Work:
    """Return the parsed work of a file; raise InvalidWork."""
    try:
        return parse_work(given.kind, given.path.read_bytes())
    except OSError as error:
        raise InvalidWork(f"{given.path} cannot be read: {error.strerror}") from error


def settings_of(
    request: Mapping[str, Any], works: Sequence[Work], inputs: Sequence[WorkInput], threads: int
) -> Settings:
    """Return the defaults for the works' size with the request's changes.

    The memorisation limit is the strictest license's. Raises InvalidRequest.
    """
    size = sum(len(chunk.data) for work in works for chunk in work.chunks)
    limits = [limit for given in inputs if (limit := _verbatim_limit(given.path)) is not None]
    changes = request.get("settings") or {}
    if not isinstance(changes, Mapping):
        raise InvalidRequest('"settings" must be an object')
    chosen = settings_from({**asdict(default_settings(size, threads=threads)), **changes})
    bound = min([chosen.max_verbatim_tokens, *limits])
    return replace(chosen, max_verbatim_tokens=bound)


def _verbatim_limit(path: Path) -> int | None:
    """Return the limit in the license that the work was registered under, if it sets one."""
    record = load_record(path)
    limit = record.license.get("max_verbatim_tokens") if record else None
    return limit if isinstance(limit, int) and limit > 0 else None
