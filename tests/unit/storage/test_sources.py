"""A blob comes from whoever has it, block by block, and goes on where it stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.blobs import MemoryBlobStore

from viz.domain.units import Cid
from viz.errors import (
    BlobCorrupt,
    BlobDenied,
    BlobNotFound,
    BlobTooLarge,
    InvalidRequest,
    NodeRefused,
    NodeUnreachable,
    StorageUnavailable,
)
from viz.storage.sources import SourcedBlobs
from viz.storage.unixfs import CHUNK_BYTES, root_of

DATA = b"".join(bytes([number]) * CHUNK_BYTES for number in range(5)) + b"end"
ROOT = root_of(DATA)


@dataclass
class Reply:
    """A whole answer of a node."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Nodes:
    """Other nodes' gateways in memory, each with what a test lets it answer."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Cid], Reply]] = {}
        self.asked: list[tuple[str, str]] = []

    async def call(self, method: str, url: str, **_: Any) -> Reply:
        origin, __, rest = url.partition("/ipfs/")
        cid = Cid(rest.partition("?")[0])
        self.asked.append((origin, cid))
        await asyncio.sleep(0)
        return self.answers[origin](cid)

    async def ask(self, method: str, url: str, **_: Any) -> dict[str, Any]:
        raise AssertionError("a fetch asks for blocks alone")

    async def close(self) -> None:
        """Nothing is open."""

    def of(self, origin: str) -> int:
        return sum(1 for each, _ in self.asked if each == origin)


async def stored(data: bytes = DATA) -> MemoryBlobStore:
    store = MemoryBlobStore()
    await store.add(data)
    return store


def serving(store: MemoryBlobStore) -> Callable[[Cid], Reply]:
    """Return the answers of an honest gateway."""
    return lambda cid: Reply(200, store.blocks[cid]) if cid in store.blocks else Reply(404, b"")


def sourced(nodes: Nodes, folder: Path, own: MemoryBlobStore | None = None) -> SourcedBlobs:
    return SourcedBlobs(own or MemoryBlobStore(), nodes, folder / "incoming")


async def test_this_nodes_own_store_comes_first(tmp_path: Path) -> None:
    """What is here is asked of nobody."""
    nodes = Nodes()
    fetched = sourced(nodes, tmp_path, await stored())
    assert await fetched.fetch(ROOT, tmp_path / "out", urls=["http://a"], max_bytes=len(DATA))
    assert nodes.asked == [] and (tmp_path / "out").read_bytes() == DATA


async def test_a_store_without_the_blob_is_asked_last(tmp_path: Path) -> None:
    """Kubo searches its peers for what it lacks: a fetch from a gateway waited a minute."""

    class Searching(MemoryBlobStore):
        async def block(self, cid: Cid) -> bytes:
            raise AssertionError(f"the daemon searches its peers for {cid}")

    nodes = Nodes()
    nodes.answers["http://good"] = serving(await stored())
    fetched = sourced(nodes, tmp_path, Searching())
    assert await fetched.fetch(ROOT, tmp_path / "out", urls=["http://good"], max_bytes=len(DATA))


class Saying(MemoryBlobStore):
    """A store whose every answer is an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def has(self, cid: Cid) -> bool:
        raise self.error

    async def block(self, cid: Cid) -> bytes:
        raise self.error


async def test_what_this_node_denies_it_fetches_from_nobody(tmp_path: Path) -> None:
    """A destroyed blob would come back from whoever still serves it."""
    nodes = Nodes()
    nodes.answers["http://good"] = serving(await stored())
    fetched = sourced(nodes, tmp_path, Saying(BlobDenied("its use has ended")))
    with pytest.raises(BlobDenied):
        await fetched.fetch(ROOT, tmp_path / "out", urls=["http://good"], max_bytes=len(DATA))
    assert nodes.asked == [] and not (tmp_path / "out").exists()


async def test_a_store_that_cannot_answer_is_asked_last(tmp_path: Path) -> None:
    """A daemon that hangs would cost its timeout twice before a gateway is asked."""
    nodes = Nodes()
    nodes.answers["http://good"] = serving(await stored())
    fetched = sourced(nodes, tmp_path, Saying(StorageUnavailable("the daemon hangs")))
    assert await fetched.fetch(ROOT, tmp_path / "out", urls=["http://good"], max_bytes=len(DATA))


async def test_sources_are_asked_in_order_and_a_bad_one_no_more(tmp_path: Path) -> None:
    """One lie, one refusal, one silence: each ends that source for this blob."""
    nodes, store = Nodes(), await stored()
    nodes.answers["http://liar"] = lambda cid: Reply(200, b"lies")
    nodes.answers["http://broken"] = lambda cid: Reply(500, b"")

    def silent(cid: Cid) -> Reply:
        raise NodeUnreachable("no answer in time")

    def endless(cid: Cid) -> Reply:
        raise NodeRefused("more bytes than a block has")

    nodes.answers |= {"http://silent": silent, "http://endless": endless}
    nodes.answers["http://good"] = serving(store)
    urls = ["http://liar", "http://broken", "http://silent", "ftp://x", "http://endless"]
    fetched = sourced(nodes, tmp_path)
    await fetched.fetch(ROOT, tmp_path / "out", urls=[*urls, "http://good"], max_bytes=len(DATA))
    assert (tmp_path / "out").read_bytes() == DATA
    assert [nodes.of(url) for url in urls] == [1, 1, 1, 0, 1] and nodes.of("http://good") == 7
    assert [path.name for path in tmp_path.iterdir() if path.name != "incoming"] == ["out"]


async def test_strangers_do_not_fill_the_error(tmp_path: Path) -> None:
    """Whoever is in the directory is asked, but the error stays one that its reader can use."""
    urls = [f"https://n{number}.test" for number in range(12)]
    nodes = Nodes()
    for url in urls:
        nodes.answers[url] = lambda cid: Reply(404, b"")
    with pytest.raises(BlobNotFound) as caught:
        await sourced(nodes, tmp_path).fetch(ROOT, tmp_path / "out", urls=urls, max_bytes=len(DATA))
    said = caught.value.detail
    assert urls[0] in said and urls[8] not in said and "and 9 more" in said
    assert all(nodes.of(url) == 1 for url in urls)


async def test_a_fetch_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Blocks that arrived are not asked for again, also by another process; damaged ones are."""
    nodes, store = Nodes(), await stored()

    def dying(cid: Cid) -> Reply:
        if nodes.of("http://dying") > 4:
            raise NodeUnreachable("gone")
        return Reply(200, store.blocks[cid])

    nodes.answers |= {"http://dying": dying, "http://good": serving(store)}
    with pytest.raises(BlobNotFound, match="gone"):
        await sourced(nodes, tmp_path).fetch(
            ROOT, tmp_path / "out", urls=["http://dying"], max_bytes=len(DATA)
        )
    assert not (tmp_path / "out").exists()
    arrived = sorted((tmp_path / "incoming" / ROOT).iterdir())
    assert len(arrived) == 4
    next(path for path in arrived if path.name != ROOT).write_bytes(b"rot")
    await sourced(nodes, tmp_path).fetch(
        ROOT, tmp_path / "out", urls=["http://good"], max_bytes=len(DATA)
    )
    assert nodes.of("http://good") == 7 - 3
    assert (tmp_path / "out").read_bytes() == DATA
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_a_source_that_dies_in_the_middle_is_replaced(tmp_path: Path) -> None:
    """The second node sends the rest, and nothing twice."""
    nodes, store = Nodes(), await stored()

    def dying(cid: Cid) -> Reply:
        if nodes.of("http://dying") > 3:
            return Reply(503, b"")
        return Reply(200, store.blocks[cid])

    nodes.answers |= {"http://dying": dying, "http://good": serving(store)}
    await sourced(nodes, tmp_path).fetch(
        ROOT, tmp_path / "out", urls=["http://dying", "http://good"], max_bytes=len(DATA)
    )
    assert (nodes.of("http://dying"), nodes.of("http://good")) == (4, 4)


async def test_no_more_is_fetched_than_was_stated(tmp_path: Path) -> None:
    """A root that claims two gigabytes is refused before its parts are asked for."""
    nodes = Nodes()
    nodes.answers["http://good"] = serving(await stored())
    with pytest.raises(BlobTooLarge):
        await sourced(nodes, tmp_path).fetch(
            ROOT, tmp_path / "out", urls=["http://good"], max_bytes=len(DATA) - 1
        )
    assert len(nodes.asked) == 1 and not (tmp_path / "out").exists()
    with pytest.raises(InvalidRequest):
        await sourced(nodes, tmp_path).fetch(
            Cid("../out"), tmp_path / "out", urls=["http://good"], max_bytes=1
        )


async def test_two_fetches_of_one_blob_do_not_disturb_each_other(tmp_path: Path) -> None:
    """The second finds the blob's parts, or fetches them again: both are whole."""
    nodes = Nodes()
    nodes.answers["http://good"] = serving(await stored())
    fetched = sourced(nodes, tmp_path)
    targets = [tmp_path / "one", tmp_path / "two"]
    await asyncio.gather(
        *(fetched.fetch(ROOT, each, urls=["http://good"], max_bytes=10**7) for each in targets)
    )
    assert [each.read_bytes() for each in targets] == [DATA, DATA]


async def test_a_fault_of_the_own_disk_is_mended_by_others_or_said(tmp_path: Path) -> None:
    """A rotten block comes from another node; if there is none, the operator learns of the rot."""
    nodes, own = Nodes(), await stored()
    leaf = next(cid for cid in own.blocks if cid != ROOT)
    own.blocks[leaf] = b"rot"
    nodes.answers |= {
        "http://good": serving(await stored()),
        "http://none": lambda _: Reply(404, b""),
    }
    fetched = sourced(nodes, tmp_path, own)
    with pytest.raises(BlobCorrupt, match="this node's store"):
        await fetched.fetch(ROOT, tmp_path / "out", urls=["http://none"], max_bytes=len(DATA))
    await fetched.fetch(ROOT, tmp_path / "out", urls=["http://good"], max_bytes=len(DATA))
    assert (tmp_path / "out").read_bytes() == DATA
