"""Several base models in one node: each entry's own, all or none, within one machine's memory."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.tiny_base import make_tiny_directory

from viz import started_engines
from viz.basemodel.source import DEFAULT_BASE_DIGEST, LoadedBase, load_base
from viz.domain.engines import Engines
from viz.domain.pricing import Price
from viz.domain.units import Hash32, hex_of
from viz.engine.embedded import memory_plan
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings
from viz.errors import ConfigError, ModelUnavailable
from viz.settings.config import Config
from viz.settings.engine_config import EngineConfig

MIB = 1 << 20


class Starts:
    """The engines that a test started, with their settings; ``open`` are those not closed yet."""

    def __init__(self) -> None:
        self.settings: list[EngineSettings] = []
        self.open = 0
        self.fails = ""

    async def start(self, base: Any, settings: EngineSettings) -> Any:
        if base.model.name == self.fails:
            raise ModelUnavailable("the engine needs 900 MiB and has 1")
        starts = self

        class Started:
            model = base.model

            async def close(self) -> None:
                starts.open -= 1

        self.settings.append(settings)
        self.open += 1
        return Started()


async def loaded(source: str, *, cache_dir: Path, allowed: Any, report: Any) -> LoadedBase:
    """Load a base without the child process that quantises it, which these engines do not need."""
    return load_base(source, cache_dir=cache_dir, allowed=allowed)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    made = Starts()
    monkeypatch.setattr(EmbeddedEngine, "start", made.start)
    monkeypatch.setattr(started_engines, "prepared_base", loaded)
    monkeypatch.setattr(memory_plan, "available_bytes", lambda: 1_000 * MIB)
    return made


def entry(folder: Path, of: str, seed: int, **more: Any) -> EngineConfig:
    directory = make_tiny_directory(folder / of, seed=seed)
    digest = hex_of(load_base(directory, cache_dir=folder / "models").digest)
    return EngineConfig(base_model=str(directory), base_digest=digest, **more)


async def started(folder: Path, *entries: EngineConfig) -> Engines:
    config = Config(data_dir=folder, engine=entries)
    async with AsyncExitStack() as ends:
        return await started_engines.start_engines(config, lambda done: None, ends)


async def test_each_entry_is_an_engine_and_they_share_the_memory(
    tmp_path: Path, starts: Starts
) -> None:
    """Two engines that each took 60 % of what is free would need more than there is."""
    (tmp_path / "models").mkdir()
    engines = await started(
        tmp_path,
        entry(tmp_path, "one", 1),
        entry(tmp_path, "two", 2, max_memory_mib=200, name="larger"),
        entry(tmp_path, "three", 3),
        entry(tmp_path, "off", 4, backend="none"),
    )
    assert [each.model.name for each in engines] == ["one", "larger", "three"]
    assert [each.memory_bytes // MIB for each in starts.settings] == [200, 200, 200]
    assert starts.open == 0, "each is closed at the end"
    (single,) = await started(tmp_path, entry(tmp_path, "one", 1))
    assert starts.settings[-1].memory_bytes == 0, "one engine measures what is free itself"
    assert single.model.source == str(tmp_path / "one")


async def test_a_base_that_cannot_be_served_stops_the_start_and_is_named(
    tmp_path: Path, starts: Starts
) -> None:
    """Nobody finds out from buyers that half of what was to be sold is not there."""
    (tmp_path / "models").mkdir()
    one, two = entry(tmp_path, "one", 1), entry(tmp_path, "two", 2)
    gone = two.model_copy(update={"base_model": str(tmp_path / "gone")})
    with pytest.raises(ModelUnavailable, match=r"\[\[engine\]\] entry 2 .*gone.*\"none\""):
        await started(tmp_path, one, gone)
    assert not starts.settings, "no engine starts before all bases are there"
    starts.fails = "two"
    with pytest.raises(ModelUnavailable, match=r"entry 2 .*needs 900 MiB"):
        await started(tmp_path, one, two)
    assert (len(starts.settings), starts.open) == (1, 0), "what had started is closed"
    with pytest.raises(ModelUnavailable) as caught:
        await started(tmp_path, two)
    assert "[[engine]]" not in caught.value.detail, "there is one entry only"


async def test_names_under_which_a_base_cannot_be_sold_are_refused(
    tmp_path: Path, starts: Starts
) -> None:
    """A name decides what is asked for, and who is paid."""
    (tmp_path / "models").mkdir()
    one, two = entry(tmp_path, "one", 1), entry(tmp_path, "two", 2, name="one")
    with pytest.raises(ConfigError, match=r"'one': set engine\.name"):
        await started(tmp_path, one, two)
    named = one.model_copy(update={"name": "viz-adapter-00000000007"})
    with pytest.raises(ConfigError, match=r"is no name for a base model: set engine\.name"):
        await started(tmp_path, named)
    for folder in ("Viz-Adapter-x", "modèle", "llama@a6f21e3ab5c4"):
        with pytest.raises(ConfigError, match=r"is no name for a base model: set engine\.name"):
            await started(tmp_path, entry(tmp_path, folder, 3))
    copy = entry(tmp_path, "copy", 1)
    unpinned = copy.model_copy(update={"base_digest": one.base_digest.upper().replace("X", "x")})
    assert unpinned.base_digest != one.base_digest
    with pytest.raises(ConfigError, match="the same base model"):
        await started(tmp_path, one, unpinned)
    assert not starts.settings


def test_a_base_has_its_entrys_prices_where_it_names_them() -> None:
    """One list price for a small and a large model would give one of them away."""
    one, two = "0x" + "01" * 32, "0x" + "02" * 32
    config = Config(
        engine=(
            EngineConfig(prompt_units_per_million=5),
            EngineConfig(base_digest=one, base_model="one"),
            EngineConfig(
                base_digest=two,
                base_model="two",
                prompt_units_per_million=0,
                completion_units_per_million=7,
            ),
        )
    )
    usual = config.prices.completion_units_per_million
    assert started_engines.base_prices(config) == {
        Hash32(bytes.fromhex(DEFAULT_BASE_DIGEST)): Price(5, usual),
        Hash32(b"\2" * 32): Price(0, 7),
    }
