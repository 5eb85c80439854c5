"""Collect what has arrived of one answer, and bound how much of it a node may send.

Owns the text of each choice and the bounds on it. A token spells only so many bytes, so a node that
sends more text than the tokens asked for can spell does not keep to the request.

Invariants: only valid text of a choice that was asked for is kept; whatever a node sends, the buyer
reads a bounded number of bytes, and waits a bounded time for text.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from viz.buyer.terms.counting import Counter, TextCount
from viz.errors import InvalidRequest, NodeNotTrusted, NodeRefused, NodeUnreachable
from viz.protocol.sse import ServerEvent
from viz.protocol.wire import Json, parse_json

AnswerChunk = dict[str, Any]
T = TypeVar("T")

# More than the longest entry of the vocabularies in use (128 bytes), with room for decoding.
MAX_TOKEN_BYTES: Final = 512
# A node may send this many tokens beyond those that can be paid for, because it may give credit.
SPARE_TOKENS: Final = 16
# The size of one token's event with its log-probabilities, and of everything around the tokens.
MAX_TOKEN_EVENT_BYTES: Final = 16 * 1024
MAX_ASIDE_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
STALL_S: Final = 300.0


class ReceivedAnswer:
    """The text of one answer, choice by choice."""

    def __init__(self, choices: int, max_tokens: int, counter: Counter | None = None) -> None:
        """``max_tokens`` bounds the tokens of all choices together; ``counter`` counts them."""
        self._choices = choices
        self._counter = counter or Counter()
        self._counts: dict[int, TextCount] = {}
        self._tokens: dict[int, int] = {}
        self._max_text_bytes = (max_tokens + SPARE_TOKENS) * MAX_TOKEN_BYTES
        self._max_bytes = min(
            MAX_ANSWER_BYTES, MAX_ASIDE_BYTES + max_tokens * MAX_TOKEN_EVENT_BYTES
        )
        self._texts: dict[int, str] = {}
        self._bytes = 0
        self._last_s = time.monotonic()
        self.text_bytes = 0
        self.pieces = 0

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of every choice that has any, in order."""
        return tuple(self._texts[index] for index in sorted(self._texts))

    @property
    def tokens(self) -> int:
        """At most how many tokens arrived in all choices (``TextCount``), for each new chunk."""
        return sum(self._tokens.values())

    def count(self) -> int:
        """Return how many tokens arrived in all choices; a bound if the tokenizer is not known.

        Unlike ``tokens``, which is cheap enough for every chunk, it counts each text anew.
        """
        return sum(map(self._counter.text_tokens, self.texts))

    def recount(self) -> None:
        """Have ``tokens`` be what ``count`` returns, at the end of the answer."""
        for index, whole in self._texts.items():
            self._tokens[index] = self._counter.text_tokens(whole)

    def read(self, size: int) -> None:
        """Count bytes as they are read from the wire.

        Raises NodeRefused if there are too many, NodeUnreachable if no text came for ``STALL_S``.
        """
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise NodeRefused(f"the node's answer has more than {self._max_bytes} bytes")
        if time.monotonic() - self._last_s > STALL_S:
            raise NodeUnreachable(
                f"the node sent no text for {STALL_S:.0f} s: ask again, or elsewhere"
            )

    def take(self, chunk: AnswerChunk) -> bool:
        """Keep the new text of a chunk, chat or completion; return whether there was any.

        Raises NodeRefused if it is not a chunk, NodeNotTrusted if it has more than was asked for.
        """
        choices = chunk.get("choices")
        if choices is not None and not isinstance(choices, list):
            raise NodeRefused("the node sent a chunk whose choices are not a list")
        grew = False
        for choice in choices or ():
            index, text = text_of(choice)
            if not 0 <= index < self._choices:
                raise NodeNotTrusted(f"the node sent choice {index} of {self._choices}")
            if text:
                self._keep(index, text)
                grew = True
        return grew

    def _keep(self, index: int, text: str) -> None:
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise NodeRefused("the node sent text that is not valid Unicode") from error
        self.text_bytes += size
        if self.text_bytes > self._max_text_bytes:
            raise NodeNotTrusted(
                f"the node sent {self.text_bytes} bytes of text, more than the tokens that were "
                "asked for can spell"
            )
        whole = self._texts[index] = self._texts.get(index, "") + text
        count = self._counts.setdefault(index, TextCount(self._counter))
        self._tokens[index] = count.grew(whole, size)
        self.pieces += 1
        self._last_s = time.monotonic()


def text_of(choice: Any) -> tuple[int, str]:
    """Return a choice's number and new text; raise NodeRefused unless every member is readable.

    Whoever gets the chunk next relies on this.
    """
    if isinstance(choice, dict):
        index, delta = choice.get("index", 0), choice.get("delta")
        inside = delta if isinstance(delta, dict) else choice
        text = inside.get("text" if inside is choice else "content")
        readable = (
            type(index) is int
            and isinstance(delta, dict | None)
            and all(isinstance(each, str | None) for each in (text, choice.get("text")))
            and isinstance(choice.get("logprobs"), dict | None)
        )
        if readable:
            return index, text or ""
    raise NodeRefused("the node sent a chunk that cannot be read")


def has_news(chunk: AnswerChunk) -> bool:
    """Return whether a chunk has text, or ends a choice; raise as ``text_of``."""
    return any(
        text_of(choice)[1] or choice.get("finish_reason") for choice in chunk.get("choices") or ()
    )


def said_in(event: ServerEvent, read: Callable[[Json], T]) -> T:
    """Return what an event says, read by ``read``.

    Raises NodeUnreachable if it is nothing that a node sends: the answer broke off there, and a
    server in front of the node may have written into it. It is never an error of the request.
    """
    try:
        return read(parse_json(event.data, max_bytes=len(event.data)))
    except InvalidRequest as error:
        raise NodeUnreachable(
            f"the answer broke off: what came next is not of a node ({error.detail})"
        ) from error
