"""Hold the place of one sequence in the running batch. Used on the generation thread.

Invariant: ``cached < len(tokens)`` always.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from viz.engine.embedded.prompt_lookup import PromptLookup
from viz.engine.embedded.sampling import TokenDraw
from viz.engine.sequence import TokenSequence

if TYPE_CHECKING:
    from viz.engine.embedded.loaded_adapter import LoadedAdapter


@dataclass(eq=False, slots=True)
class Sequence(TokenSequence):
    """A sequence that this process computes; ``cached`` of its tokens are in its cache slot."""

    slot: int | None = None
    cached: int = 0
    adapter: LoadedAdapter | None = None
    paused_since: float | None = None
    lookup: PromptLookup = field(default_factory=PromptLookup)

    @property
    def decodable(self) -> bool:
        """Whether the cache holds all tokens except the newest."""
        return self.slot is not None and self.cached == len(self.tokens) - 1

    def draw(self) -> TokenDraw:
        return TokenDraw(self.request.sampling, self.seed, self.generated)
