"""One behaviour for every blob store: the fake, the folder and a real Kubo daemon."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.fakes.blobs import MemoryBlobStore

from viz.domain.ports.blobs import BlobStore
from viz.domain.units import Cid
from viz.errors import BlobNotFound, BlobTooLarge, InvalidRequest, StorageUnavailable
from viz.storage.base import VerifiedBlobStore
from viz.storage.embedded import EmbeddedBlobStore
from viz.storage.kubo import KuboBlobStore
from viz.storage.kubo_daemon import KuboDaemon
from viz.storage.unixfs import CHUNK_BYTES, MAX_LINKS, blocks_of, root_of, split

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZES = [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, MAX_LINKS * CHUNK_BYTES + 1]
ABSENT = root_of(b"nobody stored these bytes")


@pytest_asyncio.fixture(params=["memory", "embedded", "kubo"], loop_scope="module")
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, daemon: KuboDaemon
) -> AsyncIterator[VerifiedBlobStore]:
    opened: VerifiedBlobStore
    if request.param == "memory":
        opened = MemoryBlobStore()
    elif request.param == "embedded":
        opened = EmbeddedBlobStore(tmp_path / "store")
    else:
        opened = KuboBlobStore(daemon.api, timeout_s=3)
    yield opened
    await opened.close()


def _bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_added_comes_back_under_the_same_name_everywhere(
    store: VerifiedBlobStore, size: int, tmp_path: Path
) -> None:
    """The CID registered on chain does not depend on the backend that stored the bytes."""
    protocol: BlobStore = store
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(_bytes(size))
    cid = await protocol.add(source)
    assert cid == root_of(_bytes(size)) == await protocol.add(_bytes(size))
    assert await protocol.has(cid)
    assert await protocol.fetch(cid, target, max_bytes=size) == size
    assert target.read_bytes() == _bytes(size)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["in", "out"]


async def test_a_missing_blob_is_not_found(store: VerifiedBlobStore, tmp_path: Path) -> None:
    """Missing is one error class, whoever was asked, and leaves no file."""
    assert not await store.has(ABSENT)
    with pytest.raises(BlobNotFound):
        await store.fetch(ABSENT, tmp_path / "out", max_bytes=1)
    with pytest.raises(BlobNotFound):
        await store.pin(ABSENT)
    assert not (tmp_path / "out").exists()


async def test_the_size_bound_holds(store: VerifiedBlobStore, tmp_path: Path) -> None:
    """A stranger's blob never takes more disk than was allowed."""
    cid = await store.add(_bytes(CHUNK_BYTES + 1))
    with pytest.raises(BlobTooLarge):
        await store.fetch(cid, tmp_path / "out", max_bytes=CHUNK_BYTES)
    assert not (tmp_path / "out").exists()


async def test_a_fetch_replaces_its_target_whole_or_leaves_it(
    store: VerifiedBlobStore, tmp_path: Path
) -> None:
    """Weights that are in use are not torn by a fetch that fails, and a good one takes over."""
    target = tmp_path / "out"
    target.write_bytes(b"what was there")
    cid = await store.add(_bytes(CHUNK_BYTES + 1))
    for name, bound, error in ((cid, CHUNK_BYTES, BlobTooLarge), (ABSENT, 10**6, BlobNotFound)):
        with pytest.raises(error):
            await store.fetch(name, target, max_bytes=bound)
        assert target.read_bytes() == b"what was there"
    await store.fetch(cid, target, max_bytes=CHUNK_BYTES + 1)
    assert target.read_bytes() == _bytes(CHUNK_BYTES + 1)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out"]


async def test_single_blocks_are_what_their_names_say(store: VerifiedBlobStore) -> None:
    """The gateway gives out blocks that whoever asked can verify alone."""
    data = _bytes(CHUNK_BYTES + 1)
    await store.add(data)
    for block in blocks_of(split(data)):
        assert await store.block(block.cid) == block.data


async def test_an_erased_blob_is_gone_and_shared_blocks_stay(store: VerifiedBlobStore) -> None:
    """A withdrawn work's blob leaves no block; another pinned blob keeps the ones it has too."""
    first, rest = _bytes(CHUNK_BYTES), b"only of the second"
    kept, gone = await store.add(first), await store.add(first + rest)
    assert kept != gone
    assert await store.erase(gone)
    assert not await store.has(gone) and not await store.has(root_of(rest))
    assert await store.block(kept) == first
    assert not await store.erase(gone), "there is nothing left to erase"


@pytest.mark.parametrize(
    "text", ["", "../../etc/passwd", "QmWATWQ7fVPP2EFGu71UkfnqhYXDYH566qy47CnJ"]
)
async def test_what_is_no_cid_is_bad_input(
    store: VerifiedBlobStore, text: str, tmp_path: Path
) -> None:
    """A name from outside never becomes a path or a daemon's argument."""
    cid = Cid(text)
    for call in (store.has(cid), store.pin(cid), store.unpin(cid), store.block(cid)):
        with pytest.raises(InvalidRequest):
            await call
    with pytest.raises(InvalidRequest):
        await store.fetch(cid, tmp_path / "out", max_bytes=1)


async def test_pinning_twice_and_unpinning_twice_is_fine(store: VerifiedBlobStore) -> None:
    """A restarted node repeats what it may have done already."""
    cid = await store.add(b"pinned")
    await store.pin(cid)
    await store.pin(cid)
    await store.unpin(cid)
    await store.unpin(cid)
    assert await store.has(cid)


async def test_parallel_adds_and_fetches_do_not_mix(
    store: VerifiedBlobStore, tmp_path: Path
) -> None:
    """Adapters are stored and fetched while others are."""
    blobs = [_bytes(CHUNK_BYTES * 2 + number) for number in range(6)]
    cids = await asyncio.gather(*(store.add(blob) for blob in [*blobs, *blobs]))
    targets = [tmp_path / str(number) for number in range(6)]
    await asyncio.gather(
        *(
            store.fetch(cid, target, max_bytes=CHUNK_BYTES * 3)
            for cid, target in zip(cids, targets, strict=False)
        )
    )
    assert [target.read_bytes() for target in targets] == blobs


async def test_a_missing_source_file_is_one_clear_error(
    store: VerifiedBlobStore, tmp_path: Path
) -> None:
    """The operator reads which file, not a traceback."""
    with pytest.raises(StorageUnavailable, match="absent"):
        await store.add(tmp_path / "absent")


async def test_what_is_erased_takes_nothing_from_other_blobs(
    store: VerifiedBlobStore, tmp_path: Path
) -> None:
    """Two blobs share chunks: one goes, the other stays whole, also if nobody has the first."""
    shared = _bytes(3 * CHUNK_BYTES)
    going, staying = await store.add(shared + b"one"), await store.add(shared + b"two")
    assert await store.erase(going)
    assert not await store.erase(going)
    assert not await store.erase(ABSENT)
    size = len(shared) + 3
    assert await store.fetch(staying, tmp_path / "out", max_bytes=size) == size
    assert (tmp_path / "out").read_bytes() == shared + b"two"
    assert not await store.has(going)
    assert await store.add(shared + b"one") == going
