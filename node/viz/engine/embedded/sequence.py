"""Hold one sequence's state on the generation thread: tokens, text, and how far it may run.

Invariants: ``cached < len(tokens)`` always; a token is delivered exactly once; the delivered text
is what the tokenizer decodes from the delivered tokens, cut at a stop string.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from viz.basemodel.detokenise import Detokeniser
from viz.domain.ports.engine import FinishReason, GenerationRequest, Piece, TokenLogprob
from viz.engine.embedded.sampling import SampledToken, TokenDraw
from viz.engine.embedded.stop_strings import StopStringFinder
from viz.engine.embedded.stream import StreamState

if TYPE_CHECKING:
    from viz.basemodel.tokenizer import ChatTokenizer
    from viz.engine.embedded.loaded_adapter import LoadedAdapter


@dataclass(eq=False, slots=True)
class Sequence:
    """A sequence from admission to its last piece."""

    request: GenerationRequest
    state: StreamState
    seed: int
    max_tokens: int
    buffer_tokens: int
    tokenizer: ChatTokenizer
    end_ids: frozenset[int]
    tokens: list[int] = field(init=False)
    slot: int | None = None
    cached: int = 0
    adapter: LoadedAdapter | None = None
    paused_since: float | None = None
    finished: FinishReason | None = None
    _decoder: Detokeniser = field(init=False)
    _stops: StopStringFinder = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        self._decoder = Detokeniser(self.tokenizer.token_bytes)
        self._stops = StopStringFinder(self.request.sampling.stop)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def decodable(self) -> bool:
        """Whether the cache holds all tokens except the newest."""
        return self.slot is not None and self.cached == len(self.tokens) - 1

    def may_run(self) -> bool:
        """Return whether another token may be generated.

        Two bounds: the paid allowance, and ``buffer_tokens`` ahead of what the reader has taken.
        """
        bound = self.state.taken_tokens + self.buffer_tokens
        if self.state.allowance is not None:
            bound = min(bound, self.state.allowance)
        return self.generated < bound

    def draw(self) -> TokenDraw:
        return TokenDraw(self.request.sampling, self.seed, self.generated)

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
