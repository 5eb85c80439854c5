"""What a client asks of a model, as it was read from its HTTP body; nothing is checked or priced.

Owns no rule: ``viz.api`` reads it strictly, and admission (``viz.services.serving``) turns it into
a ``PaidRequest``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from viz.domain.ports.engine import Sampling


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A request for text; ``chat`` tells the two kinds apart in the answer's shape.

    ``prompt`` is the chat's messages, or plain text. ``max_tokens`` bounds each of the ``choices``;
    None leaves it to the node, and ``sampling.max_tokens`` is not used then. Where it
    ``names_temperature`` not, an adapter's own default stands in for OpenAI's.
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
