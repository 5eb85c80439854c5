"""A base model by its name on a hub: fetched once, resumed, verified, and offline afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.fakes.hub import COMMIT, REPOSITORY, SOURCE, FakeHub, served_hub
from tests.fakes.tiny_base import make_tiny_directory

from viz.basemodel.hub import hub_model
from viz.basemodel.preparation import prepared_base
from viz.basemodel.source import load_base
from viz.errors import ModelUnavailable


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The tiny base on a hub of this machine, in two shards, with files that nobody needs."""
    with _served(make_tiny_directory(tmp_path / "tiny"), tmp_path, monkeypatch) as served:
        served.extra = {
            "README.md": b"# Tiny",
            "consolidated.safetensors": b"a second copy",
            "original/params.json": b"{}",
            "modeling_tiny.py": b"import os",
            "pytorch_model.bin": b"\x80\x02}q\x00.",
        }
        yield served


@contextmanager
def _served(directory: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    whole = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    places = {name: names[place % 2] for place, name in enumerate(sorted(whole))}
    for shard in names:
        own = {name: whole[name].clone() for name, place in places.items() if place == shard}
        save_file(own, directory / shard)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with served_hub(directory) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_HOME", str(root / "home"))
        monkeypatch.setenv("HF_TOKEN", "")
        yield served


async def test_a_model_is_fetched_once_with_progress_and_is_that_of_its_directory(
    hub: FakeHub, tmp_path: Path
) -> None:
    """Fetched are the files that are read and no others; after that the hub may be down."""
    told: list[float] = []
    cache = tmp_path / "cache"
    base = await prepared_base(SOURCE, cache_dir=cache, report=told.append)
    assert base.model.name == "Tiny-1M"
    assert base.digest == load_base(hub.directory, cache_dir=tmp_path / "other").digest
    assert told[0] == 0.0 and told[-1] == 1.0 and told == sorted(told) and len(told) > 5
    assert {path.name for path in base.directory.iterdir()} == set(hub.files()) - set(hub.extra)
    requests = len(hub.asked)
    hub.refuses = 503, "ServiceUnavailable"
    again: list[float] = []
    offline = await prepared_base(SOURCE, cache_dir=cache, report=again.append)
    assert offline.digest == base.digest and again == [] and len(hub.asked) == requests
    assert load_base(SOURCE, cache_dir=cache).digest == base.digest


async def test_a_fetch_that_broke_off_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that dies after hours must not cost them again.

    The hub's library keeps whole pieces of 10 MiB; the model has shards of about twice that.
    """
    piece = 10 << 20
    directory = make_tiny_directory(tmp_path / "tiny", intermediate_size=60_000)
    with _served(directory, tmp_path, monkeypatch) as hub:
        hub.cut_after = piece + 50_000
        with pytest.raises(ModelUnavailable, match=r"What arrived is kept"):
            await prepared_base(SOURCE, cache_dir=tmp_path / "cache")
        assert not hub_folder(tmp_path).exists()
        before, hub.cut_after = len(hub.asked), None
        with pytest.raises(ModelUnavailable, match="base_digest"):  # fetched, and not accepted
            await prepared_base(SOURCE, cache_dir=tmp_path / "cache", allowed=())
        ranges = [asked for path, asked in hub.asked[before:] if path.endswith(".safetensors")]
        assert ranges == [f"bytes={piece}-", None]
        weights = [raw for name, raw in hub.files().items() if name.endswith(".safetensors")]
        assert hub.sent == sum(map(len, weights)) + 50_000


def hub_folder(root: Path) -> Path:
    model = hub_model(SOURCE)
    assert model is not None
    return model.folder(root / "cache")


def _damage(name: str) -> Callable[[FakeHub], None]:
    return lambda hub: hub.damaged.add(name)


def _refuse(status: int, code: str) -> Callable[[FakeHub], None]:
    def change(hub: FakeHub) -> None:
        hub.refuses = status, code

    return change


def _pickles(hub: FakeHub) -> None:
    for path in hub.directory.glob("model*"):
        path.unlink()


def _other_commit(hub: FakeHub) -> None:
    hub.sha = "f" * 40


def _no_digests(hub: FakeHub) -> None:
    hub.digests = False


def _lost_shard(hub: FakeHub) -> None:
    (hub.directory / "model-00002-of-00002.safetensors").unlink()


def _escaping_index(hub: FakeHub) -> None:
    told = {"weight_map": {"a": "../../outside.safetensors"}}
    (hub.directory / "model.safetensors.index.json").write_text(json.dumps(told))


def _no_index(hub: FakeHub) -> None:
    (hub.directory / "model.safetensors.index.json").write_text("[]")


def _no_tokenizer(hub: FakeHub) -> None:
    (hub.directory / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_damage("model-00001-of-00002.safetensors"), "another digest"),
        (_damage("tokenizer.json"), "another digest"),
        (_refuse(503, "ServiceUnavailable"), "is the hub reachable"),
        (_refuse(401, "RepoNotFound"), "no such model, or it is private"),
        (_refuse(403, "GatedRepo"), "gated: accept its terms"),
        (_refuse(404, "RevisionNotFound"), "does not have this commit"),
        (_pickles, "only pickles"),
        (_other_commit, "do not use this hub"),
        (_no_digests, "no size or digest"),
        (_lost_shard, "names 'model-00002-of-00002.safetensors', which the commit"),
        (_escaping_index, "outside.safetensors"),
        (_no_index, "not an index of shards"),
        (_no_tokenizer, r"has no tokenizer\.json"),
    ],
)
async def test_what_is_wrong_with_the_hub_or_the_model_is_said(
    hub: FakeHub, tmp_path: Path, change: Callable[[FakeHub], None], says: str
) -> None:
    """And no folder appears that a later start would take for the model."""
    change(hub)
    with pytest.raises(ModelUnavailable, match=says):
        await prepared_base(SOURCE, cache_dir=tmp_path / "cache")
    assert not hub_folder(tmp_path).exists()


async def test_a_hub_that_is_down_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens there."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(ModelUnavailable, match="is the hub reachable"):
        await prepared_base(SOURCE, cache_dir=tmp_path / "cache")


async def test_offline_is_offline(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever set HF_HUB_OFFLINE is told, and nothing is asked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailable, match="HF_HUB_OFFLINE is set"):
        await prepared_base(SOURCE, cache_dir=tmp_path / "cache")
    assert hub.asked == []
    with pytest.raises(ModelUnavailable, match="to fetch it, start the node with"):
        load_base(SOURCE, cache_dir=tmp_path / "cache")


async def test_a_digest_that_is_not_accepted_ends_before_the_weights_are_made(
    hub: FakeHub, tmp_path: Path
) -> None:
    """The node says the digest, and the operator writes it into the configuration."""
    with pytest.raises(ModelUnavailable, match=r"has digest 0x[0-9a-f]{64}.*base_digest"):
        await prepared_base(SOURCE, cache_dir=tmp_path / "cache", allowed=())
    assert not list((tmp_path / "cache").glob("serving/*"))
    assert hub_folder(tmp_path).is_dir()


@pytest.mark.parametrize(
    "source", [REPOSITORY, f"{REPOSITORY}@main", f"{REPOSITORY}@{COMMIT[:12]}", f"{REPOSITORY}@"]
)
async def test_a_revision_that_may_move_is_refused(tmp_path: Path, source: str) -> None:
    """The weights behind a branch are other weights tomorrow."""
    with pytest.raises(ModelUnavailable, match=r"40 digits of a commit|nor a model of a hub"):
        await prepared_base(source, cache_dir=tmp_path / "cache")


def test_a_directory_is_a_directory_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_directory(tmp_path / "tiny-lab" / "Tiny-1M")
    assert hub_model(REPOSITORY) is None
    assert load_base(REPOSITORY, cache_dir=tmp_path / "cache").model.name == "Tiny-1M"
