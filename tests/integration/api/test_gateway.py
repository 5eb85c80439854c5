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
def blobs() -> Counting:
    return Counting()


@pytest.fixture
async def node(tmp_path: Path, blobs: Counting) -> AsyncIterator[Node]:
    async with running_node(tmp_path, client_timeout_s=1, blobs=blobs) as running:
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


async def test_who_does_not_read_holds_a_chunk_and_is_cut_off(node: Node, blobs: Counting) -> None:
    """Slow readers cost neither the memory of a blob each nor anybody else's place for long."""
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


async def test_a_blob_that_breaks_off_shows_it(node: Node, blobs: Counting) -> None:
    """A block that rots in the midst of a blob is not the blob's end; at its begin it is said."""
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


RAW = "application/vnd.ipld.raw"
FILE = "application/octet-stream"


@pytest.mark.parametrize(
    ("headers", "query", "kind"),
    [
        ({}, {}, FILE),
        ({"Accept": "*/*"}, {}, FILE),
        ({"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}, {}, FILE),
        ({"Accept": RAW}, {}, RAW),
        ({"Accept": f"{RAW}, */*;q=0.1"}, {}, RAW),
        ({"Accept": f"application/json, {RAW.upper()};q=0.9"}, {}, RAW),
        ({"Accept": f"*/*, {RAW};q=0.5"}, {}, FILE),
        ({"Accept": f"{RAW};q=0"}, {}, FILE),
        ({"Accept": FILE}, {"format": "raw"}, RAW),
    ],
)
async def test_what_is_sent_is_what_was_asked_for(
    node: Node, headers: dict[str, str], query: dict[str, str], kind: str
) -> None:
    """Accept is a list with qualities; a name in the query stands above it."""
    cid = await node.parts.blobs.add(BLOB)
    url = f"{node.url}/ipfs/{cid}"
    async with node.http.get(url, headers=headers, params=query) as answer:
        body = await answer.read()
    assert answer.status == 200 and answer.content_type == kind
    assert (len(body) == len(BLOB)) is (kind == FILE)
    assert answer.headers["Vary"] == "Accept"
    async with node.http.head(url, headers=headers, params=query) as top:
        assert top.status == 200 and top.content_length == len(body)
        for name in ("ETag", "Vary", "Cache-Control", "Content-Type"):
            assert top.headers[name] == answer.headers[name]


async def test_two_bodies_of_one_url_have_two_tags(node: Node) -> None:
    """Who keeps the file and asks for the block is sent the block, and the other way round."""
    cid = await node.parts.blobs.add(BLOB)
    url, tags = f"{node.url}/ipfs/{cid}", []
    for accept in (FILE, RAW):
        async with node.http.get(url, headers={"Accept": accept}) as answer:
            tags.append(answer.headers["ETag"])
    whole, block = tags
    assert whole != block
    for accept, kept, status in (
        (RAW, whole, 200),
        (FILE, block, 200),
        (RAW, block, 304),
        (FILE, f'"x", W/{whole}', 304),
        (FILE, "*", 304),
        (RAW, f"{whole}, {block}", 304),
    ):
        headers = {"Accept": accept, "If-None-Match": kept}
        async with node.http.get(url, headers=headers) as answer:
            assert answer.status == status, (accept, kept)
            assert answer.headers["ETag"] == (block if accept == RAW else whole)
            assert answer.headers["Vary"] == "Accept"


async def test_another_format_is_refused_by_name(node: Node) -> None:
    cid = await node.parts.blobs.add(BLOB)
    async with node.http.get(f"{node.url}/ipfs/{cid}", params={"format": "car"}) as answer:
        assert answer.status == 400
        assert (await answer.json(content_type=None))["error"]["param"] == "format"
