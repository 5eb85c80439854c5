"""The folder store against a kill and a bad disk."""

from __future__ import annotations

import errno
import fcntl
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fakes.blobs import MemoryBlobStore

from viz.domain.units import Cid
from viz.errors import BlobCorrupt, BlobNotFound, StorageBusy, StorageFull, StorageUnavailable
from viz.storage.embedded import EmbeddedBlobStore
from viz.storage.store_check import Freed, check_store
from viz.storage.unixfs import CHUNK_BYTES, IpfsBlock, blocks_of, root_of, split

DATA = random.Random(7).randbytes(40 * CHUNK_BYTES + 5)

# Adds a file and kills its own process at the n-th rename, before or after it.
_WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
from viz.storage.embedded import EmbeddedBlobStore

left = int(sys.argv[3])
rename = Path.replace

def rename_or_die(self, target):
    global left
    left -= 1
    if left == 0 and sys.argv[4] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(self, target)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

Path.replace = rename_or_die
asyncio.run(EmbeddedBlobStore(Path(sys.argv[1])).add(Path(sys.argv[2])))
"""


def _block_files(folder: Path) -> list[Path]:
    return [path for path in (folder / "blocks").rglob("*") if path.is_file()]


@pytest.mark.parametrize("moment", ["before", "after"])
# 41 leaves, the root, the pin: the first leaf, one in the middle, the root, the pin.
@pytest.mark.parametrize("rename", [1, 20, 42, 43])
async def test_a_killed_writer_leaves_a_store_that_is_whole(
    rename: int, moment: str, tmp_path: Path
) -> None:
    """After kill -9 at any step: what is there is right, the root only if all is, add repairs."""
    source, folder = tmp_path / "in", tmp_path / "store"
    source.write_bytes(DATA)
    root = root_of(DATA)
    writer = subprocess.run(
        [sys.executable, "-c", _WRITER, str(folder), str(source), str(rename), moment],
        check=False,
        timeout=60,
    )
    assert writer.returncode == -signal.SIGKILL

    store = EmbeddedBlobStore(folder)
    for path in _block_files(folder):
        await store.block(Cid(path.name))
    root_is_there = rename > 42 or (rename == 42 and moment == "after")
    assert await store.has(root) == root_is_there
    if root_is_there:
        await store.fetch(root, tmp_path / "out", max_bytes=len(DATA))
    assert await store.add(source) == root
    assert await store.fetch(root, tmp_path / "out", max_bytes=len(DATA)) == len(DATA)
    assert (tmp_path / "out").read_bytes() == DATA


async def test_a_flipped_bit_on_disk_is_found_and_adding_again_repairs_it(tmp_path: Path) -> None:
    """A bad disk never changes an answer that buyers pay for."""
    store = EmbeddedBlobStore(tmp_path / "store")
    root = await store.add(DATA)
    victim = next(path for path in _block_files(tmp_path / "store") if path.name != root)
    damaged = bytearray(victim.read_bytes())
    damaged[100] ^= 1
    victim.write_bytes(damaged)
    with pytest.raises(BlobCorrupt, match=victim.name):
        await store.fetch(root, tmp_path / "out", max_bytes=len(DATA))
    assert not (tmp_path / "out").exists()
    assert await store.add(DATA) == root
    assert await store.fetch(root, tmp_path / "out", max_bytes=len(DATA)) == len(DATA)


async def test_a_lost_block_is_named(tmp_path: Path) -> None:
    """The operator reads which block is gone."""
    store = EmbeddedBlobStore(tmp_path / "store")
    root = await store.add(DATA)
    leaf = next(blocks_of(split(DATA))).cid
    next(path for path in _block_files(tmp_path / "store") if path.name == leaf).unlink()
    with pytest.raises(BlobNotFound, match=leaf):
        await store.fetch(root, tmp_path / "out", max_bytes=len(DATA))


async def test_pins_outlive_the_process(tmp_path: Path) -> None:
    """A restarted node still knows what it promised to keep."""
    first = EmbeddedBlobStore(tmp_path / "store")
    kept, dropped = await first.add(b"kept"), await first.add(b"dropped")
    await first.unpin(dropped)
    await first.close()
    assert await EmbeddedBlobStore(tmp_path / "store").pinned() == {kept}


def test_a_folder_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    """A wrong path in the configuration is refused at start."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailable, match="cannot hold blobs"):
        EmbeddedBlobStore(tmp_path / "file")


async def test_erasing_frees_the_disk_and_says_where_damage_hides_blocks(tmp_path: Path) -> None:
    """Every block of the blob goes; nobody is told so if blocks may be left below a damaged one."""
    store = EmbeddedBlobStore(tmp_path)
    cid = await store.add(DATA)
    await store.erase(cid)
    assert _block_files(tmp_path) == [] and await store.pinned() == frozenset()
    await store.add(DATA)
    (root,) = (path for path in _block_files(tmp_path) if path.name == cid)
    root.write_bytes(b"rot")
    with pytest.raises(BlobCorrupt):
        await store.erase(cid)
    await store.add(DATA)
    assert await store.erase(cid) and _block_files(tmp_path) == []


def _torn(folder: Path, cid: Cid) -> None:
    """Leave half of a block's file, as a disk that lost power may."""
    (path,) = (each for each in _block_files(folder) if each.name == cid)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


async def test_nothing_is_erased_that_a_damaged_blob_may_need(tmp_path: Path) -> None:
    """Protects the leaves of a pinned blob whose inner block is torn: another blob that shares them
    is erased once they are known again, and not before."""
    store = EmbeddedBlobStore(tmp_path / "store")
    kept = await store.add(DATA[: 5 * CHUNK_BYTES])
    gone = await store.add(DATA[: 4 * CHUNK_BYTES] + b"only of the second")
    (whole,) = (path.read_bytes() for path in _block_files(tmp_path / "store") if path.name == kept)
    _torn(tmp_path / "store", kept)
    files = sorted(_block_files(tmp_path / "store"))
    with pytest.raises(BlobCorrupt, match=f"{kept} is pinned.*viz storage verify"):
        await store.erase(gone)
    assert sorted(_block_files(tmp_path / "store")) == files
    await store.put_block(IpfsBlock(kept, whole))
    assert await store.erase(gone), "what was not erased is erased by the next try"
    assert not await store.has(gone)
    assert not await store.has(root_of(b"only of the second"))
    assert await store.fetch(kept, tmp_path / "out", max_bytes=len(DATA)) == 5 * CHUNK_BYTES


async def test_garbage_is_what_no_pin_needs(tmp_path: Path) -> None:
    """Protects pinned blobs: the rest is freed, shared blocks stay, and it says how much."""
    store = EmbeddedBlobStore(tmp_path / "store")
    kept = await store.add(DATA[: 3 * CHUNK_BYTES])
    gone = await store.add(DATA[: 2 * CHUNK_BYTES] + b"only of the second")
    await store.unpin(gone)
    before = sum(path.stat().st_size for path in _block_files(tmp_path / "store"))
    freed = await store.gc()
    left = sum(path.stat().st_size for path in _block_files(tmp_path / "store"))
    assert freed == Freed(2, before - left, left)
    assert not await store.has(gone)
    assert await store.fetch(kept, tmp_path / "out", max_bytes=len(DATA)) == 3 * CHUNK_BYTES
    assert await store.gc() == Freed(0, 0, left)


async def test_nothing_is_collected_while_a_pinned_blob_is_damaged(tmp_path: Path) -> None:
    """Protects the leaves of a blob whose root is torn: they look like garbage, and are not."""
    store = EmbeddedBlobStore(tmp_path / "store")
    root = await store.add(DATA)
    files = len(_block_files(tmp_path / "store"))
    _torn(tmp_path / "store", root)
    with pytest.raises(BlobCorrupt, match="viz storage verify"):
        await store.gc()
    assert len(_block_files(tmp_path / "store")) == files


async def test_damaged_blocks_come_back_from_the_first_source_that_has_them(tmp_path: Path) -> None:
    """A torn leaf, a lost leaf and a torn root are got again; a liar and an absent source do not
    hinder it, and what nobody has is named with its blob."""
    folder = tmp_path / "store"
    store, whole, liar = EmbeddedBlobStore(folder), MemoryBlobStore(), MemoryBlobStore()
    root = await store.add(DATA)
    await whole.add(DATA)
    await liar.add(DATA)
    names = [block.cid for block in blocks_of(split(DATA))]
    liar.blocks[root] = b"not the root"
    _torn(folder, root)
    _torn(folder, names[3])
    next(path for path in _block_files(folder) if path.name == names[5]).unlink()
    lost = await check_store(store)
    assert lost.lost == {root: [root]}, "without its root nobody knows what else a blob needs"
    found = await check_store(store, [MemoryBlobStore(), liar, whole])
    assert (found.blobs, found.blocks, found.lost) == (1, len(names), {})
    assert set(found.repaired) == {root, names[3], names[5]}
    await store.fetch(root, tmp_path / "out", max_bytes=len(DATA))
    assert (tmp_path / "out").read_bytes() == DATA
    _torn(folder, names[7])
    del whole.blocks[names[7]]
    assert (await check_store(store, [whole])).lost == {root: [names[7]]}


async def test_a_full_quota_refuses_and_leaves_all_as_it_was(tmp_path: Path) -> None:
    """Protects the operator's disk, and what is stored already; garbage goes before a refusal."""
    folder, part = tmp_path / "store", 4 * CHUNK_BYTES
    store = EmbeddedBlobStore(folder, max_bytes=3 * part)
    first, second = await store.add(DATA[:part]), await store.add(DATA[part : 2 * part])
    before = sorted(_block_files(folder))
    with pytest.raises(StorageFull, match=r"storage\.max_bytes"):
        await store.add(DATA[2 * part : 3 * part + CHUNK_BYTES])
    assert sorted(_block_files(folder)) == before and not list((folder / "partial").iterdir())
    assert await store.add(DATA[:part]) == first, "what is here takes no room"
    await store.unpin(second)
    third = await store.add(DATA[2 * part : 3 * part + CHUNK_BYTES])
    assert await store.pinned() == {first, third} and not await store.has(second)


async def test_a_full_disk_is_said_and_what_was_begun_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects a node whose disk fills up in mid-blob: what was begun is given back."""
    store = EmbeddedBlobStore(tmp_path / "store")
    kept = await store.add(b"kept")
    rename, left = Path.replace, 30

    def full(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageFull, match="full"):
        await store.add(DATA)
    assert [path.name for path in _block_files(tmp_path / "store")] == [kept]
    assert not list((tmp_path / "store" / "partial").iterdir())
    assert await store.add(DATA) == root_of(DATA)


# Adds and unpins blobs that share blocks, and collects garbage, over and over.
_NEIGHBOUR = """
import asyncio, sys
from pathlib import Path
from viz.storage.embedded import EmbeddedBlobStore

async def main():
    store = EmbeddedBlobStore(Path(sys.argv[1]), max_bytes=int(sys.argv[3]))
    data = Path(sys.argv[2]).read_bytes()
    for turn in range(12):
        cid = await store.add(data + bytes([turn]))
        await store.unpin(cid)
        await store.gc()

asyncio.run(main())
"""


@pytest.mark.parametrize("quota", [0, 10**9])
async def test_two_processes_share_a_folder(tmp_path: Path, quota: int) -> None:
    """Two nodes, or a node and a command: what one adds, the other's collecting never takes."""
    source, folder = tmp_path / "in", tmp_path / "store"
    data = DATA[: 6 * CHUNK_BYTES]
    source.write_bytes(data)
    store = EmbeddedBlobStore(folder, max_bytes=quota)
    neighbour = subprocess.Popen(
        [sys.executable, "-c", _NEIGHBOUR, str(folder), str(source), str(quota)]
    )
    turn = 0
    while neighbour.poll() is None:
        mine = data + b"mine" + turn.to_bytes(4, "big")
        cid = await store.add(mine)
        assert await store.fetch(cid, tmp_path / "out", max_bytes=len(mine)) == len(mine)
        await store.unpin(cid)
        await store.gc()
        turn += 1
    assert neighbour.returncode == 0
    assert (await check_store(store)).lost == {}


async def test_a_folder_that_another_process_holds_is_said_in_time(tmp_path: Path) -> None:
    """A hung neighbour costs the configured seconds, not the node."""
    store = EmbeddedBlobStore(tmp_path, lock_timeout_s=0.2)
    cid = await store.add(b"here")
    with (tmp_path / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for call in (store.add(b"new"), store.gc(), store.pin(cid), store.erase(cid)):
            with pytest.raises(StorageBusy, match="another process"):
                await call
    await store.add(b"new")
