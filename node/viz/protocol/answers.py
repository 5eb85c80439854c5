"""Read a node's answer: the one place that decides whether it is the node's at all.

A server in front of a node (a TLS proxy, a CDN, a hotel's login page) answers by itself, with any
status and any body, before or after the node saw the request. Such a page says nothing about the
node and nothing about what the node did, so it is NodeUnreachable. JSON that is no answer to the
question is NodeRefused, never an error of the person who asked.

Imports neither pydantic nor an HTTP client, because short commands need this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from viz.domain.strict_json import MAX_VALUES, MemberTwice, load_json
from viz.errors import InputError, NodeRefused, VizError
from viz.protocol.problems import error_of, page_of_another

T = TypeVar("T")


class AnswerObject(dict[str, Any]):
    """A JSON object in an answer. To look up a member that it lacks raises NodeRefused."""

    def __missing__(self, name: str) -> Any:
        raise no_answer(f"it lacks {name!r}")


def value_of(
    raw: bytes,
    status: int,
    *,
    unknown: type[VizError] = NodeRefused,
    max_values: int | None = MAX_VALUES,
    object_hook: type[AnswerObject] | None = None,
) -> Any:
    """Return the JSON value of a successful answer.

    Raises NodeUnreachable for a page of a server in front of the node, NodeRefused for a
    successful answer with a member twice, and for another status what ``error_of`` returns.
    """
    try:
        value = load_json(
            raw, max_values=max_values, object_hook=object_hook, parse_constant=_refuse
        )
    except MemberTwice as error:
        odd = no_answer(str(error)) if 200 <= status < 300 else page_of_another(status)
        raise odd from error
    except ValueError as error:
        raise page_of_another(status) from error
    if not 200 <= status < 300:
        raise error_of(value, status, unknown=unknown)
    return value


def read_as(read: Callable[[Any], T], value: object) -> T:
    """Return what an answer says; raise NodeRefused if it is no answer to the question."""
    if not isinstance(value, dict):
        raise no_answer("it is not a JSON object")
    try:
        return read(value)
    except InputError as error:
        raise no_answer(error.detail) from error


def too_long(status: int, most_bytes: int) -> VizError:
    """Return the error for an answer of more than ``most_bytes``, of which no more was read."""
    if not 200 <= status < 300:
        return page_of_another(status)
    return no_answer(f"it is longer than {most_bytes >> 10} KiB")


def no_answer(why: str) -> NodeRefused:
    """Return the error for an answer that has not the form of a node's."""
    return NodeRefused(
        f"what came back is not the answer of a node ({why}): check the node's URL, or use "
        "another node"
    )


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
