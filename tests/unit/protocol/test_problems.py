"""A refusal that came over HTTP fails as if it had happened here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from viz import errors
from viz.errors import NodeRefused, NodeUnreachable, VizError
from viz.protocol.problems import CODE_URI, MAX_DETAIL_CHARS, error_of


@pytest.mark.parametrize(
    ("content", "kind", "detail"),
    [
        ({"code": "no-live-grant", "detail": "buy one"}, errors.NoLiveGrant, "buy one"),
        ({"error": {"code": "prompt-empty", "message": "say"}}, errors.PromptEmpty, "say"),
        ({"type": CODE_URI + "new", "code": "new", "detail": "x"}, NodeRefused, "x"),
    ],
)
def test_a_nodes_refusal_is_the_error_that_it_names(
    content: object, kind: type[VizError], detail: str
) -> None:
    """Protects exit codes over HTTP: what the node refused fails as if it had happened here."""
    found = error_of(content, 500)
    assert type(found) is kind and found.detail == detail


NO_PROBLEMS: list[object] = [
    {"code": "of-nobody", "detail": "HTTP"},
    {"code": ["a", "list"], "detail": None},
    ["no problem"],
    None,
]


@pytest.mark.parametrize("status", [302, 403, 404, 429, 500, 502])
@pytest.mark.parametrize("content", NO_PROBLEMS)
def test_what_is_no_nodes_problem_tells_nothing_of_the_node(content: object, status: int) -> None:
    """A server in front of a node answers by itself, after the node began or without asking it."""
    assert type(error_of(content, status)) is NodeUnreachable
    assert type(error_of(content, 200)) is NodeRefused, "an error within an answer is the node's"


def test_extensions_come_along_and_cannot_stand_for_the_detail() -> None:
    """A buyer follows the numbers of a refusal; its names are a stranger's and may be any."""
    body = {"code": "stale-voucher", "detail": "d", "base": "5", "self": 1, "title": "t"}
    assert error_of(body, 409).extensions == {"base": "5", "self": 1}


def test_a_callers_class_stands_for_unknown_codes() -> None:
    """The command line tells a refusal of another version from one that it knows."""
    assert type(error_of({"type": CODE_URI + "new"}, 500, unknown=VizError)) is VizError


def test_a_strangers_words_are_short_and_command_nothing() -> None:
    """A node's reason ends on a terminal: one line of letters, of a bounded length."""
    told = error_of(
        {"type": CODE_URI, "detail": "a\nb\x1b]0;t\x07\u202e" + "x" * 10**6}, 400
    ).detail
    assert told.startswith("a b]0;t") and told.isprintable() and len(told) <= MAX_DETAIL_CHARS


def test_the_codes_of_a_sender_are_known_to_who_sends_nothing() -> None:
    """A buyer's program loads no sender: it must know these as failed transactions all the same."""
    code = (
        "from viz.errors import TransactionFailed\n"
        "from viz.protocol.problems import class_of\n"
        "for code in ('too-much-gas', 'insufficient-funds'):\n"
        "    assert issubclass(class_of(code), TransactionFailed), code\n"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "node"}, timeout=60, check=True)
