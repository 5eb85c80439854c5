"""Other people's clients read this gateway: Kubo imports its CARs."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

from tests.fakes.blobs import MemoryBlobStore
from tests.integration.api.harness import running_node

from viz.storage.unixfs import CHUNK_BYTES, MAX_LINKS

# Three levels of blocks, with a repeated one.
DATA = random.Random(3).randbytes(MAX_LINKS * CHUNK_BYTES) + bytes(2 * CHUNK_BYTES) + b"tail"
TIMEOUT_S = 300


async def _run(repository: Path, *words: str | Path) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *map(str, words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"IPFS_PATH": str(repository), "IPFS_TELEMETRY": "off"},
    )
    async with asyncio.timeout(TIMEOUT_S):
        printed, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    return printed


async def test_kubo_imports_our_cars(kubo_binary: Path, tmp_path: Path) -> None:
    """A CAR of this gateway is one for IPFS: imported whole and pinned, it is the file."""
    repository = tmp_path / "repository"
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
