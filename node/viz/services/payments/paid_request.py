"""Hold one admitted request for paid text: what to generate, and at which price.

Admission (``viz.services.serving.admission``) makes the value once. The stream, the meter and the
receipt read it, and nothing changes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from viz.domain.ports.engine import Engine, Sampling
from viz.domain.pricing import Price
from viz.domain.units import AdapterId, Hash32


@dataclass(frozen=True, slots=True)
class PaidRequest:
    """A request whose adapter is served here, whose prompt fits and whose price is agreed.

    ``engine``: the one of the adapter's base model, which generates and counts the tokens.
    ``prompt``: the token ids that the engine reads. ``prompt_tokens``: how many of them are billed;
    the control tokens around a raw prompt are free. ``sampling.max_tokens`` limits each of the
    ``choices``. ``body``: the HTTP body as sent; the receipt states its salted hash.
    ``quote_hash``: zero if the list price was agreed. ``reuse_key``: the signer's, for the engine.
    ``name``: what the buyer calls the request, if it does; its receipt shows that to the buyer.
    """

    request_id: str
    adapter_id: AdapterId
    engine: Engine
    price: Price
    quote_hash: Hash32
    body: bytes
    prompt: tuple[int, ...]
    prompt_tokens: int
    sampling: Sampling
    choices: int
    stream: bool
    reuse_key: str = ""
    name: str | None = None

    @property
    def max_tokens(self) -> int:
        """The maximum number of tokens of each choice."""
        return self.sampling.max_tokens
