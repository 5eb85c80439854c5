"""Define the engine's Protocols, and the values of one generation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from viz.domain.units import ZERO_HASH, AdapterId, Hash32

# The base model that is a package; settings and commands name it where nothing else is named.
DEFAULT_BASE: Final = "SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The frozen model that every adapter belongs to.

    No token has more than ``longest_token_bytes`` of UTF-8 text. ``frame_tokens`` control tokens
    surround every raw prompt; they are not billed. Every message of a chat takes at least
    ``message_tokens``, whatever its text. ``parts_at_spaces``: a token may span a word and the sign
    after it, so that the token count of a growing text is final only up to a space.
    ``layer_weights`` and ``head_weights`` are the numbers of weights in the linear layers and in
    the output layer, 0 if unknown: training time is estimated from them. ``arithmetic`` is the type
    in which the engine computes. ``source`` says where the model was read from, as settings do.
    """

    name: str
    digest: Hash32
    tokenizer_digest: Hash32
    context_tokens: int
    vocabulary: int
    longest_token_bytes: int
    frame_tokens: int = 0
    message_tokens: int = 0
    parts_at_spaces: bool = False
    layer_weights: int = 0
    head_weights: int = 0
    arithmetic: str = ""
    source: str = ""


# What a node that serves no model says of its model.
NO_MODEL: Final = BaseModel("", ZERO_HASH, ZERO_HASH, 0, 0, 0)


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
    """One sequence to continue; ``prompt`` is the token ids from ``render`` or ``encode``.

    ``reuse_key``: what was computed for the beginning of a request may be used again for a later
    one with the same key and adapter, whose first token then comes sooner; never for one with
    another key, to which that time would tell what was asked. Empty: for none.
    """

    request_id: str
    prompt: tuple[int, ...]
    adapter_id: AdapterId
    sampling: Sampling
    reuse_key: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One candidate token with its natural-log probability.

    ``raw`` is its bytes, possibly only a part of a character; None for a control token.
    """

    token: str
    token_id: int
    logprob: float
    raw: bytes | None


FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some new text (empty while a character is incomplete) and its tokens."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()


class Generation(Protocol):
    """A running sequence: an async iterator of its pieces, up to the tokens that it is allowed."""

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    async def __anext__(self) -> Piece: ...

    def allow(self, total_tokens: int) -> None:
        """Allow ``total_tokens`` generated tokens in all; a lower number changes nothing.

        Without any call only max_tokens bounds the sequence. At the bound the sequence pauses. It
        keeps its cache for the engine's grace time; after that others may get its slot, and the
        cache is computed again when it continues.
        """
        ...

    async def cancel(self) -> None:
        """Stop within one step and free the slot; may be called at any time, more than once."""
        ...


class Engine(Protocol):
    """One base model with many adapters."""

    @property
    def model(self) -> BaseModel: ...

    def render(self, messages: Sequence[Mapping[str, str]], so_far: str = "") -> tuple[int, ...]:
        """Return the prompt token ids of a chat by the base model's template.

        ``so_far`` is the beginning of the reply; its canonical ids follow where the reply begins.
        The names of control tokens in a text stay plain text. Raises InvalidRequest.
        """
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a raw prompt, with ``model.frame_tokens`` around the text's own."""
        ...

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens in the canonical tokenisation of ``text``: it is billed."""
        ...

    async def add_adapter(self, adapter_id: AdapterId, weights: Path) -> None:
        """Check an adapter file and make the adapter usable; raise InvalidAdapterFile."""
        ...

    async def remove_adapter(self, adapter_id: AdapterId) -> None: ...

    def adapters(self) -> frozenset[AdapterId]: ...

    async def generate(self, request: GenerationRequest) -> Generation:
        """Admit the request.

        If requests for one adapter hold the same prompt object, as the choices of one answer do,
        the prompt is computed once, as long as one of them still has it in its cache.
        Raises PromptEmpty, PromptTooLong, UnknownAdapter, EngineOverloaded.
        """
        ...

    def stats(self) -> Mapping[str, float]: ...

    async def close(self) -> None: ...
