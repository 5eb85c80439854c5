"""Read from an OpenAI request what the payment depends on.

Owns the reading of its texts and of the size of its answer, as a node reads them. Does not judge a
request: the node refuses what it cannot serve. Does no I/O.
"""

from __future__ import annotations

import json
from typing import Any, Final

from viz.errors import InvalidRequest
from viz.protocol.payment import CHAT_PATH

# The parameters that name the most tokens of an answer, the newer one first.
LENGTHS: Final = ("max_completion_tokens", "max_tokens")
# OpenAI renamed this role; models know it by the older name.
_SAME_ROLE: Final = {"developer": "system"}


def named_lengths(body: dict[str, Any]) -> dict[str, int]:
    """Return the lengths that a request names, in tokens, the newer parameter first."""
    return {
        name: body[name]
        for name in LENGTHS
        if isinstance(body.get(name), int) and not isinstance(body[name], bool)
    }


class AskedRequest:
    """One request, and its body as it is sent."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        """Encode the body; raise InvalidRequest if UTF-8 cannot carry its text."""
        self.path = path
        self.model: str = body["model"]
        self._body = body
        try:
            self.body = json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                "the request holds a lone surrogate: send valid Unicode"
            ) from error

    def naming(self, model: str) -> AskedRequest:
        """Return the same request with the model's id instead of its name."""
        return (
            self if model == self.model else AskedRequest(self.path, {**self._body, "model": model})
        )

    @property
    def is_chat(self) -> bool:
        """Whether the model's template makes the prompt from messages."""
        return self.path == CHAT_PATH

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        asked = self._body.get("n")
        return asked if isinstance(asked, int) and asked > 0 else 1

    @property
    def max_tokens(self) -> int | None:
        """How many tokens each answer may have; None if the request does not say."""
        lengths = named_lengths(self._body)
        asked = lengths.get("max_tokens", 0)
        if self.is_chat:
            asked = lengths.get("max_completion_tokens") or asked
        return asked if asked > 0 else None

    def texts(self) -> list[str]:
        """Return every text that becomes part of the prompt."""
        if not self.is_chat:
            prompt = self._body.get("prompt", "")
            if isinstance(prompt, list) and len(prompt) == 1:
                prompt = prompt[0]
            return [prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)]
        messages = self._body.get("messages")
        found: list[str] = []
        for message in messages if isinstance(messages, list) else [messages]:
            content = message.get("content") if isinstance(message, dict) else message
            text = _text_of(content)
            found.append(json.dumps(content, ensure_ascii=False) if text is None else text)
        return found

    @property
    def so_far(self) -> str:
        """The beginning of the reply, if the request asks to continue its last message."""
        messages = self._body.get("messages")
        if not self.is_chat or self._body.get("continue_final_message") is not True:
            return ""
        last = messages[-1] if isinstance(messages, list) and messages else None
        return (_text_of(last.get("content")) or "") if isinstance(last, dict) else ""

    def messages(self) -> list[dict[str, str]] | None:
        """Return the messages in the form of the model's template; None if that is impossible.

        The last message is left out if the reply continues it (``so_far``).
        """
        messages = self._body.get("messages")
        if not self.is_chat or not isinstance(messages, list):
            return None
        if self.so_far:
            messages = messages[:-1]
        found: list[dict[str, str]] = []
        for message in messages:
            if not isinstance(message, dict) or not isinstance(role := message.get("role"), str):
                return None
            if (text := _text_of(message.get("content"))) is None:
                return None
            found.append({"role": _SAME_ROLE.get(role, role), "content": text})
        return found


def _text_of(content: Any) -> str | None:
    """Return a message's text, with its parts joined; None if it is not all text."""
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if len(texts) == len(content) else None
    return content if isinstance(content, str) else None
