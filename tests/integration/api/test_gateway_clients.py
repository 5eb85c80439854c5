"""Other people's clients read this gateway: Kubo imports its CARs, Helia fetches files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any, Final

import pytest_asyncio
from tests.fakes.blobs import MemoryBlobStore
from tests.integration.api.harness import running_node

from viz.domain.units import Cid
from viz.storage.embedded import EmbeddedBlobStore
from viz.storage.unixfs import CHUNK_BYTES, MAX_LINKS, root_of

# Three levels of blocks, with a repeated one.
DATA = random.Random(3).randbytes(MAX_LINKS * CHUNK_BYTES) + bytes(2 * CHUNK_BYTES) + b"tail"
TIMEOUT_S = 300
HELIA: Final = Path(__file__).with_name("helia")
# Kept between runs, as the peers' environments of the benchmarks are.
BUILT: Final = Path(__file__).parents[3] / "build" / "helia"


async def _run(folder: Path, *words: str | Path) -> bytes:
    """Run a command in a folder, which is Kubo's repository too; return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *map(str, words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=os.environ | {"IPFS_PATH": str(folder), "IPFS_TELEMETRY": "off"},
    )
    async with asyncio.timeout(TIMEOUT_S):
        printed, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    return printed


async def test_kubo_imports_our_cars(kubo_binary: Path, tmp_path: Path) -> None:
    """A CAR of this gateway is one for IPFS: imported whole and pinned, it is the file."""
    repository = tmp_path / "repository"
    repository.mkdir()
    await _run(repository, kubo_binary, "init", "--empty-repo")
    async with running_node(tmp_path, blobs=MemoryBlobStore()) as node:
        cid = await node.parts.blobs.add(DATA)
        bodies = ({"car-dups": "y"}, {"car-dups": "n"}, {"entity-bytes": "0:9"})
        for number, query in enumerate(bodies):
            car = tmp_path / f"{number}.car"
            params = {"format": "car", **query}
            async with node.http.get(f"{node.url}/ipfs/{cid}", params=params) as answer:
                assert answer.status == 200
                car.write_bytes(await answer.read())
            # Pinning fails unless every block below the root is there.
            pin = f"--pin-roots={'false' if 'entity-bytes' in query else 'true'}"
            printed = await _run(repository, kubo_binary, "dag", "import", "--stats", pin, car)
            assert b"Imported" in printed
            if "entity-bytes" not in query:
                assert await _run(repository, kubo_binary, "cat", cid) == DATA
                await _run(repository, kubo_binary, "pin", "rm", cid)
                await _run(repository, kubo_binary, "repo", "gc", "--quiet")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def helia() -> Path:
    """Return the script that reads with Helia; install what it needs, exactly as locked."""
    BUILT.mkdir(parents=True, exist_ok=True)
    names = ("package.json", "package-lock.json", "client.mjs")
    lock = (HELIA / "package-lock.json").read_bytes()
    is_made = (BUILT / "made").is_file() and (BUILT / "made").read_bytes() == lock
    for name in names:
        shutil.copy(HELIA / name, BUILT)
    if not is_made:
        # Not `npm ci`, as in scripts/setup: the same versions and hashes, and the lock stays.
        quiet = ("--no-save", "--no-audit", "--no-fund", "--loglevel=error")
        await _run(BUILT, "npm", "install", "--ignore-scripts", *quiet)
        (BUILT / "made").write_bytes(lock)
    return BUILT / "client.mjs"


async def test_helia_reads_files_and_takes_nothing_else(helia: Path, tmp_path: Path) -> None:
    """The IPFS client of browsers fetches a file of many blocks from a node alone; of a blob that
    is not there, or is damaged on the node's disk, it gets an error and no byte."""
    blobs = EmbeddedBlobStore(tmp_path / "blobs")
    whole, small = DATA[-13 * CHUNK_BYTES - 4 :], b"one block"
    absent, damaged = root_of(b"not here"), b"damaged " * CHUNK_BYTES
    async with running_node(tmp_path, blobs=blobs) as node:
        cids = [await blobs.add(data) for data in (whole, small, damaged)]
        leaf = root_of(damaged[:CHUNK_BYTES])
        (path,) = (tmp_path / "blobs" / "blocks").rglob(leaf)
        path.write_bytes(b"x" + damaged[1:CHUNK_BYTES])
        read = await _read_by_helia(helia, node.url, *cids, absent)
    for data, found in zip((whole, small), read[:2], strict=True):
        assert found == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for found in read[2:]:
        assert "from any gateway" in found["error"], found


async def _read_by_helia(script: Path, url: str, *cids: Cid) -> list[dict[str, Any]]:
    printed = await _run(script.parent, "node", script.name, url, *cids)
    return [json.loads(line) for line in printed.splitlines()]
