"""The model that serves: what is asked of it, what it gives back, and the sequence that runs.

Owns the values of one generation and the Protocols of ``viz.engine``. Does not know money: an
allowance is a number of tokens, without regard to payment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from viz.domain.units import AdapterId, Hash32


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The frozen model that every adapter belongs to.

    No token stands for more than ``longest_token_bytes`` of UTF-8 text. Around every raw prompt
    stand ``frame_tokens`` control tokens, which are not billed.
    """

    name: str
    digest: Hash32
    tokenizer_digest: Hash32
    context_tokens: int
    vocabulary: int
    longest_token_bytes: int
    frame_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; ``temperature`` 0 is greedy."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to continue. ``prompt`` is token ids, made by ``render`` or ``encode``."""

    request_id: str
    prompt: tuple[int, ...]
    adapter_id: AdapterId
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One candidate token with its natural-log probability.

    ``raw`` is its bytes, perhaps part of a character; None for a control token, which has none.
    """

    token: str
    token_id: int
    logprob: float
    raw: bytes | None


FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some new text (possibly empty while a character is incomplete) and the tokens behind it."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()


class Generation(Protocol):
    """A running sequence: an async iterator of pieces, held to an allowance of tokens."""

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    async def __anext__(self) -> Piece: ...

    def allow(self, total_tokens: int) -> None:
        """Let the sequence reach ``total_tokens`` generated tokens; never lowers it.

        Without any call there is no bound but max_tokens. At the bound the sequence pauses: its
        cache stays for the engine's grace time, then its slot goes to others and the cache is
        rebuilt when it is allowed on.
        """
        ...

    async def cancel(self) -> None:
        """Stop within one step and free the slot; safe to call at any time, more than once."""
        ...


class Engine(Protocol):
    """One base model, many adapters; knows nothing of money."""

    @property
    def model(self) -> BaseModel: ...

    def render(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Return the prompt token ids of a chat by the base model's template.

        Control tokens spelled in the content stay plain text. Raises InvalidRequest.
        """
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a raw prompt, with ``model.frame_tokens`` around the text's own."""
        ...

    def count_tokens(self, text: str) -> int:
        """Return how many tokens the canonical tokenisation of ``text`` has: what is billed."""
        ...

    async def add_adapter(self, adapter_id: AdapterId, weights: Path) -> None:
        """Check the safetensors file and make the adapter usable. Raises InvalidAdapterFile."""
        ...

    async def remove_adapter(self, adapter_id: AdapterId) -> None: ...

    def adapters(self) -> frozenset[AdapterId]: ...

    async def generate(self, request: GenerationRequest) -> Generation:
        """Admit the request.

        Requests that hold one prompt object, as the choices of one answer do, have it computed
        once for an adapter, as long as one of them still holds what was computed.
        Raises PromptEmpty, PromptTooLong, UnknownAdapter, EngineOverloaded.
        """
        ...

    def stats(self) -> Mapping[str, float]: ...

    async def close(self) -> None: ...
