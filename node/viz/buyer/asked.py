"""What a program asked for, as far as paying for it depends on it.

Owns the reading of an OpenAI request for its texts and the size of its answer, as a node reads it.
Does not judge a request: the node refuses what it cannot serve. No I/O.
"""

from __future__ import annotations

import json
from typing import Any

from viz.domain.payment import CHAT_PATH
from viz.errors import InvalidRequest


class Asked:
    """One request, and its body as it is sent."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        """Raise InvalidRequest for text that UTF-8 cannot carry."""
        self.path = path
        self.model: str = body["model"]
        self._body = body
        try:
            self.body = json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                "the request holds a lone surrogate: send valid Unicode"
            ) from error

    def naming(self, model: str) -> Asked:
        """Return the same request with the model's id instead of its name."""
        return self if model == self.model else Asked(self.path, {**self._body, "model": model})

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        asked = self._body.get("n")
        return asked if isinstance(asked, int) and asked > 0 else 1

    @property
    def max_tokens(self) -> int | None:
        """How long each may be; None where the request leaves it open."""
        asked = self._body.get("max_tokens")
        if self.path == CHAT_PATH:
            asked = self._body.get("max_completion_tokens") or asked
        return asked if isinstance(asked, int) and asked > 0 else None

    def texts(self) -> list[str]:
        """Return every text that becomes part of the prompt."""
        messages = self._body.get("messages")
        if not isinstance(messages, list):
            prompt = self._body.get("prompt", "")
            return [prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)]
        found: list[str] = []
        for message in messages:
            content = message.get("content") if isinstance(message, dict) else message
            found.append(content if isinstance(content, str) else json.dumps(content))
        return found
