"""An operator serves the base model that it accepted, and no other by the same path."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.tiny_base import make_tiny_directory

from viz.basemodel.source import load_base, models_folder
from viz.domain.units import hex_of
from viz.errors import ConfigError, ModelUnavailable
from viz.settings.config import Config, load
from viz.settings.engine_config import EngineConfig
from viz.started_engines import accepted_base


async def test_a_directory_is_served_under_its_digest_alone(tmp_path: Path) -> None:
    """Without the digest the node says which to accept; with it, another model is refused."""
    directory = make_tiny_directory(tmp_path / "tiny")
    digest = hex_of(load_base(directory, cache_dir=tmp_path / "cache").digest)

    def config(pinned: str) -> tuple[Config, EngineConfig]:
        engine = EngineConfig(base_model=str(directory), base_digest=pinned)
        return Config(data_dir=tmp_path, engine=engine), engine

    with pytest.raises(ModelUnavailable, match=f"{digest}.*engine.base_digest"):
        await accepted_base(*config(""))
    assert hex_of((await accepted_base(*config(digest))).digest) == digest
    make_tiny_directory(directory, seed=8)
    with pytest.raises(ModelUnavailable, match="not accepted here") as caught:
        await accepted_base(*config(digest))
    assert "\n" not in caught.value.detail


def test_what_is_no_digest_is_refused_at_once(tmp_path: Path) -> None:
    """A digest with a digit too few is a typing error, not a model that never matches."""
    file = tmp_path / "viz.toml"
    file.write_text('[engine]\nbase_digest = "0x12"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"engine\.base_digest"):
        load(file)


def test_the_model_is_kept_once_for_all_data_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each testnet's folder had a copy of 608 MB; one that has its own goes on with it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shared = tmp_path / "cache" / "viz" / "models"
    assert models_folder(tmp_path / "one") == models_folder(tmp_path / "two") == shared
    (tmp_path / "one" / "models").mkdir(parents=True)
    assert models_folder(tmp_path / "one") == tmp_path / "one" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_folder(tmp_path / "two") == tmp_path / ".cache" / "viz" / "models"
