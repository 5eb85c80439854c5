"""A node's engines are found by base digest and by name, and no two of them are alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes.engine import FakeEngine

from viz.domain.engines import Engines
from viz.domain.ports.engine import NO_MODEL
from viz.domain.units import AdapterId, Hash32, hex_of
from viz.errors import AdapterNotServable, ConfigError, ModelUnavailable

OTHER = Hash32(b"\7" * 32)


def engine(name: str = "fake", digest: Hash32 | None = None) -> FakeEngine:
    made = FakeEngine()
    made._model = replace(made.model, name=name, digest=digest or made.model.digest)
    return made


def test_an_adapter_finds_the_engine_of_its_base_and_no_other() -> None:
    """Weights on another base than theirs would answer nonsense, which is paid for."""
    first, second = engine(), engine("larger", OTHER)
    engines = Engines([first, second])
    assert engines.require_for(AdapterId(7), OTHER) is second is engines.named("larger")
    assert engines.of_base(first.model.digest) is first
    assert engines.require_any("training") is first and engines.first_model is first.model
    missing = Hash32(b"\1" * 32)
    assert engines.of_base(missing) is None
    with pytest.raises(AdapterNotServable) as caught:
        engines.require_for(AdapterId(7), missing)
    for told in (hex_of(missing), "fake", "larger", "[[engine]]", "base_digest"):
        assert told in caught.value.detail


def test_a_node_without_a_model_says_what_to_set() -> None:
    """A custodian refuses what needs a model, and names the setting, not a base."""
    none = Engines()
    assert none.first_model is NO_MODEL and list(none) == []
    with pytest.raises(ModelUnavailable, match=r"engine\.backend"):
        none.require_any("x")
    with pytest.raises(ModelUnavailable, match=r"engine\.backend"):
        none.require_for(AdapterId(1), OTHER)


def test_two_entries_of_one_base_or_one_name_are_refused() -> None:
    """Else one of them would be started and never asked."""
    with pytest.raises(ConfigError, match="have the same base model"):
        Engines([engine(), engine("alias")])
    with pytest.raises(ConfigError, match=r"name 'fake': set engine\.name"):
        Engines([engine(), engine("fake", OTHER)])
