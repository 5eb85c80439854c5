"""The folder store against a kill and a bad disk."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from viz.domain.units import Cid
from viz.errors import BlobCorrupt, BlobNotFound, StorageUnavailable
from viz.storage.embedded import EmbeddedBlobStore
from viz.storage.unixfs import CHUNK_BYTES, blocks_of, root_of, split

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
