"""Stand in place of an engine where a node serves no model: a custodian, a relay, a gateway.

Such a node offers nothing, trains nothing and loads no model, so it runs on the core install.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from viz.domain.ports.engine import BaseModel, Generation, GenerationRequest
from viz.domain.units import ZERO_HASH, AdapterId

# A model without a name is none (``BaseModel.is_served``).
NO_MODEL: Final = BaseModel("", ZERO_HASH, ZERO_HASH, 0, 0, 0)


class NoEngine:
    """Implements Engine for a node that serves no model."""

    @property
    def model(self) -> BaseModel:
        """No model."""
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
        """Do nothing: there is none."""

    def adapters(self) -> frozenset[AdapterId]:
        """Return that there is none."""
        return frozenset()

    async def generate(self, request: GenerationRequest) -> Generation:
        """Raise ModelUnavailable."""
        _refuse()

    def stats(self) -> Mapping[str, float]:
        """Return no figures."""
        return {}

    async def close(self) -> None:
        """Do nothing: nothing is open."""


def _refuse() -> NoReturn:
    NO_MODEL.require_served("this")
    raise AssertionError
