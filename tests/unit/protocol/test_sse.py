"""Server-sent events, however a network or a node cuts them."""

from __future__ import annotations

import json

import pytest

from viz.errors import NodeRefused
from viz.protocol.sse import (
    DONE,
    MAX_EVENT_BYTES,
    ServerEvent,
    SseReader,
    json_line,
    sse_comment,
    sse_event,
)


def test_events_are_read_however_they_are_cut() -> None:
    """A network that cuts anywhere, and either line ending, gives the same events."""
    raw = b": note\n\ndata: {}\r\n\r\nevent: x\ndata: a\ndata: \xc3\xa9\n\ndata: [DONE]\n\n"
    expected = [ServerEvent("", "{}"), ServerEvent("x", "a\né"), ServerEvent("", "[DONE]")]
    for size in range(1, len(raw) + 1):
        reader = SseReader()
        pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
        assert [event for piece in pieces for event in reader.feed(piece)] == expected


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: x\n" * 8_192], ids=["line", "lines"])
def test_an_endless_event_is_refused(piece: bytes) -> None:
    """A node cannot fill the buyer's memory, by one line nor by many without an end."""
    reader = SseReader()
    with pytest.raises(NodeRefused):
        for _ in range(MAX_EVENT_BYTES // len(piece) + 1):
            reader.feed(piece)


@pytest.mark.timeout(40)
def test_the_longest_line_may_come_byte_by_byte() -> None:
    """A node cannot hold a buyer by drops: what came before is not copied again at each of them.

    Where it is, this line alone has the reader copy half a terabyte, and never gets to its end.
    """
    reader, text = SseReader(), b"data: ".ljust(MAX_EVENT_BYTES - 2, b"x")
    for at in range(len(text)):
        assert reader.feed(text[at : at + 1]) == []
    assert reader.feed(b"\n\n") == [ServerEvent("", text[6:].decode())]
    assert reader.feed(b"data: next\n\n") == [ServerEvent("", "next")]


def test_a_comment_is_an_event_only_if_it_is_asked_for() -> None:
    """A node writes payment events as comments if a server took out the header that asks for them.

    Any other comment is skipped, and the event around it stays whole.
    """
    raw = b'data: 1\n: payment-receipt {"a":1}\n: other {}\n\n'
    assert SseReader().feed(raw) == [ServerEvent("", "1")]
    asked = SseReader(commented=frozenset(("payment-receipt",)))
    assert asked.feed(raw) == [ServerEvent("payment-receipt", '{"a":1}'), ServerEvent("", "1")]


def test_what_is_written_is_read_as_it_was() -> None:
    """Text with line breaks ends no event early, in an event or in a comment."""
    data = {"text": "a\n\nevent: x\r\u2028data: é"}
    raw = sse_event(data) + sse_event(data, "x") + sse_comment(f"y {json_line(data)}") + DONE
    read = SseReader(commented=frozenset({"y"})).feed(raw)
    assert [event.name for event in read] == ["", "x", "y", ""]
    assert [json.loads(event.data) for event in read[:3]] == [data] * 3
    assert read[3].data == "[DONE]"
