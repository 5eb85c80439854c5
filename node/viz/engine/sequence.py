"""Hold the tokens, the text and the bounds of one sequence, for every engine.

Invariants: a token is delivered exactly once; the delivered text is what the tokenizer decodes from
the delivered tokens, cut at a stop string.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from viz.basemodel.detokenise import Detokeniser
from viz.domain.ports.engine import FinishReason, GenerationRequest, Piece, TokenLogprob
from viz.engine.stop_strings import StopStringFinder
from viz.engine.stream import StreamState

if TYPE_CHECKING:
    from viz.basemodel.source import LoadedBase
    from viz.basemodel.tokenizer import ChatTokenizer


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A chosen token; ``logprob`` and ``top`` (id, logprob) are set only if requested."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False, slots=True)
class TokenSequence:
    """The tokens of one request, from admission to its last piece.

    ``context_tokens`` limits prompt and answer together. ``buffer_tokens`` is how far the sequence
    may be ahead of its reader. ``seed`` is drawn here if the request has none.
    """

    request: GenerationRequest
    state: StreamState
    base: LoadedBase
    context_tokens: int
    buffer_tokens: int
    seed: int = field(init=False)
    max_tokens: int = field(init=False)
    tokenizer: ChatTokenizer = field(init=False)
    end_ids: frozenset[int] = field(init=False)
    tokens: list[int] = field(init=False)
    finished: FinishReason | None = field(init=False, default=None)
    _decoder: Detokeniser = field(init=False)
    _stops: StopStringFinder = field(init=False)

    def __post_init__(self) -> None:
        prompt, rules = self.request.prompt, self.request.sampling
        self.seed = secrets.randbits(63) if rules.seed is None else rules.seed
        self.max_tokens = min(rules.max_tokens, self.context_tokens - len(prompt))
        self.tokenizer = self.base.tokenizer
        self.end_ids = frozenset(self.base.shape.end_ids)
        self.tokens = list(prompt)
        self._decoder = Detokeniser(self.tokenizer.token_bytes)
        self._stops = StopStringFinder(rules.stop)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    def may_run(self) -> bool:
        """Return whether another token may be generated."""
        return self.room() > 0

    def room(self) -> int:
        """Return how many more tokens may be generated now.

        Three limits apply: the tokens paid for, ``buffer_tokens`` ahead of the reader, and
        ``max_tokens``.
        """
        bound = min(self.state.taken_tokens + self.buffer_tokens, self.max_tokens)
        if self.state.allowed_tokens is not None:
            bound = min(bound, self.state.allowed_tokens)
        return bound - self.generated

    def accept(self, choice: SampledToken) -> Piece:
        """Append a chosen token and return the piece to deliver; may end the sequence."""
        token = choice.token_id
        if token in self.end_ids:
            self.finished = "stop"
            return Piece(self._rest(), (), "stop")
        self.tokens.append(token)
        text, stopped = self._stops.push(self._decoder.push((token,)))
        if stopped:
            self.finished = "stop"
        elif self.generated >= self.max_tokens:
            self.finished = "length"
            text += self._rest()
        logprobs, top = self._logprobs(choice)
        return Piece(text, (token,), self.finished, logprobs, top)

    def cancel(self) -> Piece:
        """End the sequence as cancelled."""
        self.finished = "cancelled"
        return Piece("", (), "cancelled")

    def _rest(self) -> str:
        text, stopped = self._stops.push(self._decoder.flush())
        return text if stopped else text + self._stops.flush()

    def _logprobs(
        self, choice: SampledToken
    ) -> tuple[tuple[TokenLogprob, ...], tuple[tuple[TokenLogprob, ...], ...]]:
        if choice.logprob is None:
            return (), ()
        top = tuple(self._spelled(i, value) for i, value in choice.top)
        return (self._spelled(choice.token_id, choice.logprob),), (top,)

    def _spelled(self, token_id: int, logprob: float) -> TokenLogprob:
        tokenizer = self.tokenizer
        raw = tokenizer.token_bytes.get(token_id)
        return TokenLogprob(tokenizer.token_text(token_id), token_id, logprob, raw)
