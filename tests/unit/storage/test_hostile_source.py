"""What a source of blocks that lies can do to a fetch: nothing but fail it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.blobs import MemoryBlobStore

from viz.domain.units import Cid
from viz.errors import BlobCorrupt, BlobNotFound, BlobTooLarge, VizError
from viz.storage.cid import DAG_PB, RAW, cid_of, to_text
from viz.storage.unixfs import CHUNK_BYTES, Child, encode_node

Damage = Callable[[MemoryBlobStore, Cid], Cid]
DATA = bytes(range(256)) * (CHUNK_BYTES // 256) * 2 + b"tail"


def _put(store: MemoryBlobStore, codec: int, data: bytes) -> Cid:
    cid = to_text(cid_of(codec, data))
    store.blocks[cid] = data
    return cid


def _leaf(store: MemoryBlobStore, data: bytes, claimed: int | None = None) -> Child:
    _put(store, RAW, data)
    size = len(data) if claimed is None else claimed
    return Child(cid_of(RAW, data), size, size)


def _other_bytes(store: MemoryBlobStore, root: Cid) -> Cid:
    store.blocks[root] = store.blocks[root][:-1]
    return root


def _damaged_leaf(store: MemoryBlobStore, root: Cid) -> Cid:
    leaf = next(cid for cid in store.blocks if cid.startswith("bafk"))
    store.blocks[leaf] = b"x" + store.blocks[leaf][1:]
    return root


def _lost_leaf(store: MemoryBlobStore, root: Cid) -> Cid:
    del store.blocks[next(cid for cid in store.blocks if cid.startswith("bafk"))]
    return root


def _leaf_larger_than_said(store: MemoryBlobStore, _: Cid) -> Cid:
    return _put(store, DAG_PB, encode_node([_leaf(store, b"abcdef", claimed=3)]))


def _tiny_chunks(store: MemoryBlobStore, _: Cid) -> Cid:
    return _put(store, DAG_PB, encode_node([_leaf(store, b"a"), _leaf(store, b"b")]))


def _empty_children(store: MemoryBlobStore, _: Cid) -> Cid:
    return _put(store, DAG_PB, encode_node([_leaf(store, b"")] * 1000))


def _endless_depth(store: MemoryBlobStore, _: Cid) -> Cid:
    child = _leaf(store, b"a")
    root = Cid("")
    for _level in range(12):
        block = encode_node([child])
        root = _put(store, DAG_PB, block)
        child = Child(cid_of(DAG_PB, block), 1, 1)
    return root


def _huge_leaf(store: MemoryBlobStore, _: Cid) -> Cid:
    return _put(store, RAW, bytes(CHUNK_BYTES + 1))


def _not_a_node(store: MemoryBlobStore, _: Cid) -> Cid:
    return _put(store, DAG_PB, b"not protobuf")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (_other_bytes, BlobCorrupt),
        (_damaged_leaf, BlobCorrupt),
        (_lost_leaf, BlobNotFound),
        (_leaf_larger_than_said, BlobCorrupt),
        (_tiny_chunks, BlobCorrupt),
        (_empty_children, BlobCorrupt),
        (_endless_depth, BlobCorrupt),
        (_huge_leaf, BlobCorrupt),
        (_not_a_node, BlobCorrupt),
    ],
)
async def test_a_lying_source_fails_the_fetch_and_leaves_nothing(
    damage: Damage, error: type[VizError], tmp_path: Path
) -> None:
    """A node serves only bytes that are what the chain registered."""
    store = MemoryBlobStore()
    root = damage(store, await store.add(DATA))
    with pytest.raises(error):
        await store.fetch(root, tmp_path / "out", max_bytes=10 * len(DATA))
    assert list(tmp_path.iterdir()) == []


async def test_a_blob_over_the_bound_is_refused_before_its_leaves_are_read(tmp_path: Path) -> None:
    """The size bound saves the transfer and the disk, not only the result."""
    store = MemoryBlobStore()
    root = await store.add(DATA)
    store.blocks = {root: store.blocks[root]}
    with pytest.raises(BlobTooLarge, match=str(len(DATA))):
        await store.fetch(root, tmp_path / "out", max_bytes=len(DATA) - 1)
    assert list(tmp_path.iterdir()) == []


async def test_a_failed_fetch_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    """Replacing an adapter by a damaged one must not lose the good one."""
    store = MemoryBlobStore()
    root = _damaged_leaf(store, await store.add(DATA))
    target = tmp_path / "adapter.safetensors"
    target.write_bytes(b"good")
    with pytest.raises(BlobCorrupt):
        await store.fetch(root, target, max_bytes=len(DATA))
    assert target.read_bytes() == b"good"


async def test_a_backend_that_names_bytes_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A daemon with another chunker would publish a name that nobody else derives."""
    store = MemoryBlobStore()

    async def other(_source: Path | bytes) -> Cid:
        return to_text(cid_of(RAW, b"something else"))

    monkeypatch.setattr(store, "_store", other)
    with pytest.raises(BlobCorrupt, match="returned the CID"):
        await store.add(DATA)
