"""Define a client's request for text, as read from its HTTP body.

``viz.api`` parses it, and admission (``viz.services.serving``) checks and prices it, and makes a
``PaidRequest`` of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from viz.domain.ports.engine import Sampling


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A request for text; ``chat`` distinguishes a chat from a plain completion.

    ``prompt`` is the chat's messages, or plain text. ``max_tokens`` bounds each of the ``choices``.
    If it is None, the node chooses the bound, and ``sampling.max_tokens`` is not used. If
    ``names_temperature`` is False, an adapter's own default is used instead of OpenAI's.
    ``so_far`` is the beginning of a chat's reply, which the answer continues; it is part of the
    prompt.
    """

    chat: bool
    model: str
    prompt: str | Sequence[Mapping[str, str]]
    sampling: Sampling
    max_tokens: int | None
    choices: int
    stream: bool
    include_usage: bool
    names_temperature: bool = True
    so_far: str = ""
