"""Hold the engines of one node, one for each base model, and find the right one.

Owns the look-up by base digest and by model name. Does not start or close engines. Invariants: no
two engines have the same base model; no two base models are sold under one name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from viz.domain.ports.engine import NO_MODEL, BaseModel, Engine
from viz.domain.units import AdapterId, Hash32, hex_of
from viz.errors import AdapterNotServable, ConfigError, ModelUnavailable


class Engines:
    """The engines of one node, in the order of its settings; a node may have none."""

    def __init__(self, engines: Iterable[Engine] = ()) -> None:
        """Raise ConfigError if two have the same base model, or the same name for it."""
        self._engines = tuple(engines)
        require_distinct(engine.model for engine in self._engines)
        self._of_base = {engine.model.digest: engine for engine in self._engines}
        self._named = {engine.model.name: engine for engine in self._engines}

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._engines)

    @property
    def first_model(self) -> BaseModel:
        """The first base model; ``NO_MODEL`` on a node that serves none."""
        return self._engines[0].model if self._engines else NO_MODEL

    def of_base(self, digest: Hash32) -> Engine | None:
        """Return the engine of the base model with this digest; None if no engine serves it."""
        return self._of_base.get(digest)

    def named(self, model: str) -> Engine | None:
        """Return the engine whose base model has this name; None if there is none."""
        return self._named.get(model)

    def count_tokens(self, base: Hash32, text: str) -> int:
        """Return how many tokens a text has for a base model; raise ModelUnavailable."""
        if (engine := self._of_base.get(base)) is None:
            raise ModelUnavailable(f"this node serves no base model {hex_of(base)}")
        return engine.count_tokens(text)

    def require_any(self, what: str) -> Engine:
        """Return the first engine; raise ModelUnavailable, where ``what`` names what needs one."""
        if not self._engines:
            raise ModelUnavailable(
                f"{what} needs a model, and this node runs without one: set engine.backend to "
                '"embedded" or "upstream", on an install with the model stack (scripts/setup)'
            )
        return self._engines[0]

    def require_for(self, adapter_id: AdapterId, base: Hash32) -> Engine:
        """Return the engine of an adapter's base; raise ModelUnavailable, AdapterNotServable."""
        self.require_any("serving an adapter")
        if (found := self.of_base(base)) is None:
            raise AdapterNotServable(
                f"adapter {adapter_id} belongs to base model {hex_of(base)}, and this node serves "
                f"{self._spelled()}: to serve it here, add an [[engine]] entry whose base_digest "
                f"is {hex_of(base)} (docs/engines.md)"
            )
        return found

    def _spelled(self) -> str:
        return ", ".join(f"{each.model.name} ({hex_of(each.model.digest)})" for each in self)


def require_distinct(models: Iterable[BaseModel]) -> None:
    """Raise ConfigError if two models have the same digest or the same name."""
    before: list[BaseModel] = []
    for model in models:
        for other in before:
            if other.digest == model.digest:
                raise ConfigError(
                    f"two [[engine]] entries have the same base model, {hex_of(model.digest)} "
                    f"({model.name}): keep one of them"
                )
            if other.name == model.name:
                raise ConfigError(
                    f"two [[engine]] entries would sell their base models under the name "
                    f"{model.name!r}: set engine.name of one of them"
                )
        before.append(model)
