"""Build OpenAI's answers as JSON: whole, and as the chunks of a stream.

Source: OpenAI's API reference.
"""

from __future__ import annotations

import json
from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from viz.domain.ports.engine import Piece, TokenLogprob
from viz.protocol.sse import sse_event
from viz.protocol.wire import Json

_UTF8 = getincrementaldecoder("utf-8")

Finish = Literal["stop", "length"]


@dataclass(slots=True)
class Choice:
    """Collect what one choice has received so far.

    ``offsets`` are the positions where its tokens begin, counted in characters. If a character
    consists of several tokens, all of them begin where the character begins. A control token has no
    text, so it does not move the position.
    """

    text: str = ""
    offsets: list[int] = field(default_factory=list)
    finish: Finish | None = None
    tokens: list[TokenLogprob] = field(default_factory=list)
    top: list[tuple[TokenLogprob, ...]] = field(default_factory=list)
    _decoded: int = 0
    _decoder: IncrementalDecoder = field(default_factory=lambda: _UTF8(errors="replace"))

    def add(self, piece: Piece) -> None:
        """Add one piece."""
        self.text += piece.text
        self.tokens += piece.logprobs
        for token in piece.logprobs:
            self.offsets.append(self._decoded)
            self._decoded += len(self._decoder.decode(token.raw or b""))
        self.top += piece.top_logprobs
        if piece.finish_reason is not None:
            self.finish = "stop" if piece.finish_reason == "stop" else "length"


@dataclass(frozen=True, slots=True)
class Answer:
    """Build the JSON of one answer; all its parts have the same id, time and model."""

    answer_id: str
    created: int
    model: str
    chat: bool
    logprobs: bool
    with_usage: bool = False
    _around: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    def whole(self, choices: Sequence[Choice], usage: Json) -> Json:
        """Return the answer of a request that does not stream."""
        spelled: list[Json] = []
        for index, choice in enumerate(choices):
            found: Json = {"index": index, "finish_reason": choice.finish or "length"}
            if self.chat:
                found["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
            else:
                found["text"] = choice.text
            found["logprobs"] = self._logprobs(choice.tokens, choice.top, choice.offsets)
            spelled.append(found)
        return {**self._head(stream=False), "choices": spelled, "usage": usage}

    def opening(self, index: int) -> Json:
        """Return the first chunk of a chat's choice, which names the role."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._chunk(index, {"delta": delta, "logprobs": None}, None)

    def piece(self, index: int, piece: Piece, offsets: Sequence[int]) -> Json:
        """Return the chunk of one piece; ``offsets`` are those of its tokens."""
        body: Json = {"delta": {"content": piece.text}} if self.chat else {"text": piece.text}
        body["logprobs"] = self._logprobs(piece.logprobs, piece.top_logprobs, offsets)
        return self._chunk(index, body, None)

    def piece_event(self, index: int, piece: Piece, offsets: Sequence[int]) -> bytes:
        """Return the server-sent event of one piece.

        Only the text differs between pieces, so the rest is encoded once per choice.
        """
        if self.logprobs:
            return sse_event(self.piece(index, piece, offsets))
        around = self._around.get(index)
        if around is None:
            empty = sse_event(self.piece(index, Piece("", ()), ()))
            mark = b'"content":""' if self.chat else b'"text":""'
            before, _, after = empty.partition(mark)
            around = self._around[index] = before + mark[:-2], after
        return around[0] + json.dumps(piece.text).encode() + around[1]

    def closing(self, index: int, finish: Finish) -> Json:
        """Return the chunk that ends a choice."""
        body: Json = {"delta": {}} if self.chat else {"text": ""}
        return self._chunk(index, {**body, "logprobs": None}, finish)

    def usage(self, usage: Json) -> Json:
        """Return the chunk that states the usage."""
        return {**self._head(stream=True), "choices": [], "usage": usage}

    def _chunk(self, index: int, body: Json, finish: Finish | None) -> Json:
        choice = {"index": index, **body, "finish_reason": finish}
        # If the last chunk states the usage, OpenAI sends this member in every chunk.
        told = {"usage": None} if self.with_usage else {}
        return {**self._head(stream=True), "choices": [choice], **told}

    def _head(self, *, stream: bool) -> Json:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if stream else "chat.completion"
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
        }

    def _logprobs(
        self,
        tokens: Sequence[TokenLogprob],
        top: Sequence[Sequence[TokenLogprob]],
        offsets: Sequence[int],
    ) -> Json | None:
        if not self.logprobs:
            return None
        if self.chat:
            content = [
                {
                    **_token(token),
                    "top_logprobs": [_token(each) for each in (top[at] if at < len(top) else ())],
                }
                for at, token in enumerate(tokens)
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": [_name(token) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_by_name(row) for row in top],
            "text_offset": list(offsets),
        }


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """Return OpenAI's usage object, with the billed tokens."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def model_entry(name: str, created: int, owner: str, extra: dict[str, Any]) -> Json:
    """Return one entry of the list of models."""
    return {"id": name, "object": "model", "created": created, "owned_by": owner, **extra}


def _name(token: TokenLogprob) -> str:
    """Return the name of a token as a JSON key: its text, or its bytes if they are not UTF-8."""
    try:
        return token.token if token.raw is None else token.raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.raw or b"")


def _by_name(row: Sequence[TokenLogprob]) -> Json:
    found: Json = {}
    for token in row:
        name = _name(token)
        # Two tokens may have the same text. The likelier one keeps it as its key, and the other one
        # gets its id as a key, so that neither is lost.
        found[f"token_id:{token.token_id}" if name in found else name] = token.logprob
    return found


def _token(token: TokenLogprob) -> Json:
    return {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": None if token.raw is None else list(token.raw),
    }
