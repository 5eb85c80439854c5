"""One request for paid text, as admission made it: what is generated, at which price.

Owns no rule. Admission (``viz.services.serving.admission``) makes the value once; the stream, the
meter and the receipt read it, and nobody changes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from viz.domain.ports.engine import Sampling
from viz.domain.pricing import Price
from viz.domain.units import AdapterId, Hash32


@dataclass(frozen=True, slots=True)
class PaidRequest:
    """A request whose adapter is served here, whose prompt fits and whose price is agreed.

    ``prompt`` is the token ids that the engine reads; ``prompt_tokens`` is how many of them are
    billed, since nobody pays for the control tokens around a raw prompt. ``sampling.max_tokens``
    bounds each of the ``choices``. ``body`` is the HTTP body as sent: the receipt states its salted
    hash. ``quote_hash`` is zero where the list price was agreed.
    """

    request_id: str
    adapter_id: AdapterId
    price: Price
    quote_hash: Hash32
    body: bytes
    prompt: tuple[int, ...]
    prompt_tokens: int
    sampling: Sampling
    choices: int
    stream: bool

    @property
    def max_tokens(self) -> int:
        """The most tokens of each choice."""
        return self.sampling.max_tokens
