"""Write server-sent events, and read them from a byte stream within bounds.

Owns the form of an event and of a comment, and the split of a stream into (event, data) pairs
(WHATWG HTML, section 9.2).
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from viz.errors import NodeRefused, VizError

EVENT_STREAM: Final = "text/event-stream"
MAX_EVENT_BYTES: Final = 1024 * 1024
DONE: Final = b"data: [DONE]\n\n"
"""The event that ends a stream in OpenAI's interface."""


def sse_event(data: Any, name: str = "") -> bytes:
    """Return an event with ``data`` as JSON; without a name it is a plain data event."""
    named = f"event: {name}\n" if name else ""
    return f"{named}data: {json_line(data)}\n\n".encode()


def sse_comment(text: str) -> bytes:
    """Return a comment of one line, which only clients that look for its first word read."""
    return f": {text}\n\n".encode()


def json_line(data: Any) -> str:
    """Return ``data`` as compact JSON, which has no line break."""
    return json.dumps(data, separators=(",", ":"))


class ServerEvent(NamedTuple):
    """One event; ``name`` is empty for a plain data event."""

    name: str
    data: str


class SseReader:
    """Collects bytes and returns complete events of at most ``max_event_bytes``.

    ``refusal`` is the error class for a larger event, ``sender`` names the sender in its message.
    A comment is skipped, unless its first word is in ``commented``: then it is the event of this
    name, and the rest of the line is its data.
    """

    def __init__(
        self,
        max_event_bytes: int = MAX_EVENT_BYTES,
        *,
        refusal: type[VizError] = NodeRefused,
        sender: str = "the node",
        commented: frozenset[str] = frozenset(),
    ) -> None:
        self._commented = commented
        self._max_event_bytes = max_event_bytes
        self._refusal, self._sender = refusal, sender
        self._rest: list[bytes] = []
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Return the events that ``chunk`` completes; raise ``refusal`` if one is too large."""
        self._size += len(chunk)
        if self._size > self._max_event_bytes:
            raise self._refusal(
                f"{self._sender} sent an event of more than {self._max_event_bytes} bytes"
            )
        if b"\n" not in chunk:
            # Join the parts only once: a line that comes byte by byte must not be copied each time.
            self._rest.append(chunk)
            return []
        lines = b"".join((*self._rest, chunk)).split(b"\n")
        rest = lines.pop()
        self._rest = [rest]
        found: list[ServerEvent] = []
        for raw in lines:
            line = raw.rstrip(b"\r").decode("utf-8", "replace")
            if not line:
                if self._data:
                    found.append(ServerEvent(self._name, "\n".join(self._data)))
                self._name, self._data, self._size = "", [], len(rest)
                continue
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not field:
                name, _, data = value.partition(" ")
                if name in self._commented:
                    found.append(ServerEvent(name, data))
            elif field == "event":
                # "message" is what an event without a name is (WHATWG HTML, section 9.2.6).
                self._name = "" if value == "message" else value
            elif field == "data":
                self._data.append(value)
        return found
