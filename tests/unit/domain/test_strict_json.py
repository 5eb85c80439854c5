"""Deep nesting is an error, never the end of the process."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viz.domain.strict_json import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_VALUES,
    MemberTwice,
    TooMuchJson,
    load_json,
)
from viz.errors import InvalidRequest
from viz.protocol.wire import parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@pytest.mark.parametrize(
    "raw", [b"[" * 200_000, b'{"a":' * 200_000, b'["\\"[",' * 200_000, "[" * 200_000]
)
def test_deep_nesting_raises_whatever_the_recursion_limit(raw: bytes | str) -> None:
    """Protects the daemon from one small request that would overflow the C stack."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        with pytest.raises(ValueError, match=r"nested|values"):
            load_json(raw)
        with pytest.raises(InvalidRequest):
            parse_json(raw)
    finally:
        sys.setrecursionlimit(before)


def test_the_bound_itself() -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert load_json(deepest) is not None
    with pytest.raises(ValueError, match="nested"):
        load_json(f"[{deepest}]")


def test_brackets_within_strings_are_text() -> None:
    """Protects prompts that hold code from being refused."""
    told = {"content": '[{"' * 10_000 + "\\"}
    assert load_json(json.dumps(told)) == told


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b"0," * MAX_VALUES + b"0]",
        b"[" + b"{}," * MAX_VALUES + b"0]",
        b"[" + b'"",' * MAX_VALUES + b"0]",
        b'["' + b'\\",",\\' * MAX_VALUES + b'"]',
        b"[" + b"[[]]," * MAX_VALUES + b"0]",
        b"{" + b",".join(b'"%d":0' % number for number in range(MAX_VALUES)) + b"}",
    ],
    ids=["numbers", "objects", "strings", "marks after escapes", "lists", "members"],
)
def test_more_values_than_anything_of_ours_has_are_refused_before_they_are_made(raw: bytes) -> None:
    """Protects the node's one loop: the parser does not let go before its last value."""
    with pytest.raises(TooMuchJson, match="values"):
        load_json(raw)
    assert load_json(raw.replace(b"\\", b""), max_values=None) is not None


@pytest.mark.parametrize("text", [",:" * MAX_VALUES, '"' * MAX_VALUES * 3, "\\" * MAX_VALUES * 3])
def test_a_long_text_is_one_value_whatever_is_in_it(text: str) -> None:
    assert load_json(json.dumps({"content": text})) == {"content": text}


def test_a_number_of_many_digits_is_refused() -> None:
    """Protects the loop from thousands of numbers that each take quadratic time."""
    assert load_json("9" * MAX_DIGITS) == int("9" * MAX_DIGITS)
    with pytest.raises(TooMuchJson, match="digits"):
        load_json("9" * (MAX_DIGITS + 1))


@given(VALUES)
def test_values_come_back(value: object) -> None:
    assert load_json(json.dumps(value)) == value


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be"])
def test_bytes_are_utf8_and_nothing_else(encoding: str) -> None:
    """Protects the shape check: U+2200 in UTF-16 holds the byte of a quotation mark, and what
    follows it would be a string to the check and brackets to the parser."""
    for deep in ('{"\u2200":' + "[" * 1_000, '{"\u2200":[0]}'):
        with pytest.raises(ValueError, match=r"utf-8|Expecting"):
            load_json(deep.encode(encoding))
        with pytest.raises(InvalidRequest):
            parse_json(deep.encode(encoding))


def test_a_letter_beyond_ascii_and_a_mark_at_the_beginning_are_utf8() -> None:
    assert load_json('{"\u2200": [0]}'.encode()) == {"\u2200": [0]}
    assert load_json('{"\u2200": [0]}'.encode("utf-8-sig")) == {"\u2200": [0]}


def test_where_the_stack_ends_within_the_parser_it_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Protects callers: they catch ValueError, and what is left of the stack is not theirs."""
    monkeypatch.setattr("viz.domain.strict_json.MAX_DEPTH", 100_000)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)
    try:
        with pytest.raises(TooMuchJson, match="stack"):
            load_json("[" * 5_000 + "]" * 5_000)
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    "raw", ['{"a": 1, "a": 2}', '{"a": 1, "a": 1}', '[{"b": [{"a": 1, "\\u0061": 2}]}]']
)
def test_a_member_twice_is_refused_unless_the_last_one_counts(raw: str) -> None:
    """Protects evidence: another program may take the first value, and show another thing."""
    with pytest.raises(MemberTwice, match="the member 'a' is there twice"):
        load_json(raw)
    with pytest.raises(MemberTwice):
        load_json(raw, object_hook=Members)
    assert load_json(raw, last_counts=True) == json.loads(raw)
    assert load_json(raw, object_pairs_hook=list) == json.loads(raw, object_pairs_hook=list)


class Members(dict[str, object]):
    """An object as a caller's hook makes it."""


def test_a_callers_hook_makes_each_object() -> None:
    for last_counts in (False, True):
        found = load_json('{"a": {"b": 1}}', object_hook=Members, last_counts=last_counts)
        assert type(found) is Members and type(found["a"]) is Members and found["a"] == {"b": 1}


def test_a_request_of_a_stranger_is_read_as_other_servers_read_it() -> None:
    """Clients of OpenAI's API are served what every other server would serve them."""
    assert parse_json('{"n": 1, "n": 2}') == {"n": 2}
