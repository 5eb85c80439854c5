"""Replace the engine of a node that serves no model: a custodian, a relay, a gateway.

Such a node offers and trains nothing and loads no model, so that the core install is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from viz.domain.ports.engine import BaseModel, Generation, GenerationRequest
from viz.domain.units import ZERO_HASH, AdapterId

# A model without a name stands for no model (``BaseModel.is_served``).
NO_MODEL: Final = BaseModel("", ZERO_HASH, ZERO_HASH, 0, 0, 0)


class NoEngine:
    """Implements Engine for a node that serves no model."""

    @property
    def model(self) -> BaseModel:
        """A placeholder whose ``is_served`` is False."""
        return NO_MODEL

    def render(self, messages: Sequence[Mapping[str, str]], so_far: str = "") -> tuple[int, ...]:
        """Raise ModelUnavailable."""
        _refuse()

    def encode(self, text: str) -> tuple[int, ...]:
        """Raise ModelUnavailable."""
        _refuse()

    def count_tokens(self, text: str) -> int:
        """Raise ModelUnavailable."""
        _refuse()

    async def add_adapter(self, adapter_id: AdapterId, weights: Path) -> None:
        """Raise ModelUnavailable."""
        _refuse()

    async def remove_adapter(self, adapter_id: AdapterId) -> None:
        """Do nothing: there are no adapters."""

    def adapters(self) -> frozenset[AdapterId]:
        """Return the empty set."""
        return frozenset()

    async def generate(self, request: GenerationRequest) -> Generation:
        """Raise ModelUnavailable."""
        _refuse()

    def stats(self) -> Mapping[str, float]:
        """Return no statistics."""
        return {}

    async def close(self) -> None:
        """Do nothing: nothing is open."""


def _refuse() -> NoReturn:
    NO_MODEL.require_served("this")
    raise AssertionError
