"""Whole blobs are given out chunk by chunk, to a few readers at once, and never half in silence."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from tests.fakes.blobs import MemoryBlobStore
from tests.integration.api.harness import Node, running_node

from viz.api.gateway import MAX_WHOLE_READERS
from viz.domain.units import Cid
from viz.storage.unixfs import CHUNK_BYTES, blocks_of, split

CHUNKS = 96
BLOB = b"".join(bytes([number]) * CHUNK_BYTES for number in range(CHUNKS))


class Counting(MemoryBlobStore):
    """Blocks that count how often they are read, and tell when a reading of ``root`` begins."""

    root = Cid("")

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.begun = 0, asyncio.Semaphore(0)

    async def _read_block(self, cid: Cid) -> bytes:
        self.reads += 1
        if cid == self.root:
            self.begun.release()
        return await super()._read_block(cid)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path, client_timeout_s=1, blobs=Counting()) as running:
        yield running


async def lazy_reader(node: Node, cid: Cid) -> asyncio.StreamWriter:
    """Ask for a whole blob, and read nothing of it."""
    where = urlsplit(node.url)
    near = socket.socket()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    near.setblocking(False)
    await asyncio.get_running_loop().sock_connect(near, (where.hostname, where.port))
    _, writer = await asyncio.open_connection(sock=near, limit=1_024)
    writer.write(f"GET /ipfs/{cid} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
    await writer.drain()
    return writer


async def test_who_does_not_read_holds_a_chunk_and_is_cut_off(node: Node) -> None:
    """Slow readers cost neither the memory of a blob each nor anybody else's place for long."""
    blobs = node.parts.blobs
    assert isinstance(blobs, Counting)
    cid = blobs.root = await blobs.add(BLOB)
    async with AsyncExitStack() as ends:
        for _ in range(MAX_WHOLE_READERS):
            ends.callback((await lazy_reader(node, cid)).close)
        for _ in range(MAX_WHOLE_READERS):
            await blobs.begun.acquire()
        async with node.http.get(f"{node.url}/ipfs/{cid}") as refused:
            assert refused.status == 503
            assert (await refused.json(content_type=None))["code"] == "storage-busy"
        async with node.http.get(f"{node.url}/ipfs/{cid}", params={"format": "raw"}) as block:
            assert block.status == 200, "single blocks are always given out"
        async with asyncio.timeout(30):
            while True:
                async with node.http.get(f"{node.url}/ipfs/{cid}") as response:
                    if response.status == 200:
                        assert await response.read() == BLOB
                        break
                await asyncio.sleep(0.05)
    assert blobs.reads < MAX_WHOLE_READERS * CHUNKS, "the rest was never read from the store"


async def test_a_blob_that_breaks_off_shows_it(node: Node) -> None:
    """A block that rots in the midst of a blob is not the blob's end; at its begin it is said."""
    blobs = node.parts.blobs
    assert isinstance(blobs, Counting)
    cid = await blobs.add(BLOB)
    names = [block.cid for block in blocks_of(split(BLOB))]
    whole = dict(blobs.blocks)
    blobs.blocks[names[40]] = b"rotten"
    with pytest.raises(aiohttp.ClientError):
        async with node.http.get(f"{node.url}/ipfs/{cid}") as response:
            await response.read()
    blobs.blocks |= whole | {names[0]: b"rotten"}
    async with node.http.get(f"{node.url}/ipfs/{cid}") as response:
        assert response.status == 502
        assert (await response.json(content_type=None))["code"] == "blob-corrupt"
