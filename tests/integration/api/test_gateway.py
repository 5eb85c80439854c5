"""Whole blobs are given out chunk by chunk, to a few readers at once, and never half in silence."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.car import car_of
from tests.integration.api.harness import Node, running_node

from viz.api.gateway.gateway import MAX_READERS
from viz.domain.units import Cid
from viz.storage.cid import RAW as LEAF
from viz.storage.cid import codec_of, to_binary
from viz.storage.deny_list import DenyList
from viz.storage.denying import DenyingBlobStore
from viz.storage.unixfs import CHUNK_BYTES, blocks_of, root_of, split

CHUNKS = 8
# More than the buffers of a connection hold.
LONG = bytes(96 * CHUNK_BYTES)
BLOB = b"".join(bytes([number]) * CHUNK_BYTES for number in range(CHUNKS))
BLOCKS = {block.cid: block.data for block in blocks_of(split(BLOB))}


class Counting(MemoryBlobStore):
    """Blocks that count how often they are read, and whose leaves may be held back."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.begun = 0, asyncio.Semaphore(0)
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def _read_block(self, cid: Cid) -> bytes:
        self.reads += 1
        if codec_of(cid) == LEAF and not self.may_read.is_set():
            self.begun.release()
            await self.may_read.wait()
        return await super()._read_block(cid)


@pytest.fixture
def blobs() -> Counting:
    return Counting()


@pytest.fixture
async def node(tmp_path: Path, blobs: Counting) -> AsyncIterator[Node]:
    async with running_node(tmp_path, blobs=blobs) as running:
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


async def test_a_few_read_whole_blobs_at_once_and_the_next_is_told(
    node: Node, blobs: Counting
) -> None:
    """Readers of whole blobs are bounded; single blocks are given out all the same."""
    cid = await blobs.add(BLOB)

    async def whole() -> bytes:
        async with node.http.get(f"{node.url}/ipfs/{cid}") as response:
            return await response.read()

    blobs.may_read.clear()
    readers = [asyncio.create_task(whole()) for _ in range(MAX_READERS)]
    for _ in readers:
        await blobs.begun.acquire()
    async with node.http.get(f"{node.url}/ipfs/{cid}") as refused:
        assert refused.status == 503
        assert (await refused.json(content_type=None))["code"] == "storage-busy"
    async with node.http.get(f"{node.url}/ipfs/{cid}", params={"format": "raw"}) as block:
        assert block.status == 200, "single blocks are always given out"
    blobs.may_read.set()
    assert set(await asyncio.gather(*readers)) == {BLOB}
    assert await whole() == BLOB, "the places are free again"


async def test_who_does_not_read_holds_a_chunk_and_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow reader costs neither the memory of a blob nor anybody else's place for long."""
    monkeypatch.setattr("viz.api.gateway.gateway.MAX_READERS", 1)
    blobs = Counting()
    async with running_node(tmp_path, client_timeout_s=1, blobs=blobs) as node:
        cid = await blobs.add(LONG)
        blobs.may_read.clear()
        lazy = await lazy_reader(node, cid)
        await blobs.begun.acquire()
        blobs.may_read.set()
        async with asyncio.timeout(60):
            status = 503
            while status == 503:
                before = blobs.reads
                await asyncio.sleep(0.05)
                async with node.http.get(f"{node.url}/ipfs/{cid}") as response:
                    status = response.status
        assert status == 200, "the place is free again"
        assert before < len(LONG) // CHUNK_BYTES, "the rest was never read from the store"
        lazy.close()


async def test_a_blob_that_breaks_off_shows_it(node: Node, blobs: Counting) -> None:
    """A block that rots in the midst of a blob is not the blob's end; at its begin it is said."""
    cid = await blobs.add(BLOB)
    names = [block.cid for block in blocks_of(split(BLOB))]
    whole = dict(blobs.blocks)
    blobs.blocks[names[4]] = b"rotten"
    with pytest.raises(aiohttp.ClientError):
        async with node.http.get(f"{node.url}/ipfs/{cid}") as response:
            await response.read()
    blobs.blocks |= whole | {names[0]: b"rotten"}
    async with node.http.get(f"{node.url}/ipfs/{cid}") as response:
        assert response.status == 502
        assert (await response.json(content_type=None))["code"] == "blob-corrupt"


RAW = "application/vnd.ipld.raw"
CAR = "application/vnd.ipld.car"
FILE = "application/octet-stream"
BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "query", "kind"),
    [
        (None, {}, FILE),
        ("*/*", {}, FILE),
        (BROWSER, {}, FILE),
        ("application/*;q=0.1", {}, FILE),
        (RAW, {}, RAW),
        (f"{RAW}, */*;q=0.1", {}, RAW),
        (f"application/json, {RAW.upper()};q=0.9", {}, RAW),
        (f"*/*, {RAW};q=0.5", {}, FILE),
        (f"{FILE};q=0.2, {RAW};q=0.5", {}, RAW),
        (f"{CAR};q=0.5, {RAW};q=0.9", {}, RAW),
        (f"{CAR}, {RAW}", {}, CAR),
        (f"{RAW};q=0, {CAR};version=1;order=dfs;dups=y", {}, CAR),
        (FILE, {"format": "raw"}, RAW),
        (f"{RAW}", {"format": "car"}, CAR),
        ("text/html", {"format": "car"}, CAR),
    ],
)
async def test_what_is_sent_is_what_was_asked_for(
    node: Node, accept: str | None, query: dict[str, str], kind: str
) -> None:
    """Accept is a list with qualities; a name in the query stands above it. HEAD says the same."""
    cid = await node.parts.blobs.add(BLOB)
    url = f"{node.url}/ipfs/{cid}"
    headers = {} if accept is None else {"Accept": accept}
    async with node.http.get(url, headers=headers, params=query) as answer:
        body = await answer.read()
    assert answer.status == 200 and answer.content_type == kind
    assert (body == BLOB) is (kind == FILE)
    if kind == CAR:
        header, blocks = car_of(body)
        assert to_binary(cid) in header
        assert blocks[0].cid == cid, "depth first begins with the root"
        assert {each.cid: each.data for each in blocks} == BLOCKS
    assert answer.headers["Vary"] == "Accept"
    assert answer.headers["X-Ipfs-Roots"] == cid
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "public, max-age=29030400, immutable"
    disposition = answer.headers.get("Content-Disposition", "")
    assert disposition.startswith("attachment") is (kind != FILE)
    place = answer.headers.get("Content-Location", "")
    assert place.startswith(f"/ipfs/{cid}?format=") is (kind != FILE)
    async with node.http.head(url, headers=headers, params=query) as top:
        assert top.status == 200 and top.content_length == len(body)
        for name in ("ETag", "Vary", "Cache-Control", "Content-Type"):
            assert top.headers[name] == answer.headers[name]


@pytest.mark.parametrize(
    ("accept", "query"),
    [
        ("text/html", {}),
        (f"{RAW};q=0", {}),
        ("*/*;q=0", {}),
        ("application/vnd.ipld.dag-json, application/x-tar", {}),
        (None, {"format": "tar"}),
        (None, {"format": "ipns-record"}),
        (RAW, {"format": ""}),
        (f"{CAR};version=2", {}),
        (f"{CAR};order=breadth", {}),
        (None, {"format": "car", "car-dups": "maybe"}),
        (None, {"format": "car", "car-version": "2"}),
    ],
)
async def test_a_form_that_is_not_offered_is_refused(
    node: Node, accept: str | None, query: dict[str, str]
) -> None:
    """A client learns what there is, and is not sent bytes that it cannot read."""
    cid = await node.parts.blobs.add(BLOB)
    headers = {} if accept is None else {"Accept": accept}
    for ask in (node.http.get, node.http.head):
        async with ask(f"{node.url}/ipfs/{cid}", headers=headers, params=query) as answer:
            assert answer.status == 406 and answer.headers["Vary"] == "Accept"
            if ask == node.http.get:
                told = await answer.json(content_type=None)
                assert told["code"] == "not-acceptable" and told["detail"]


async def test_each_body_of_one_url_has_its_own_tag(node: Node) -> None:
    """A cache that has one body is sent another, and is told of one that it has."""
    cid = await node.parts.blobs.add(BLOB)
    url = f"{node.url}/ipfs/{cid}"
    bodies: list[dict[str, str]] = [
        {},
        {"format": "raw"},
        {"format": "car"},
        {"format": "car", "car-dups": "y"},
        {"format": "car", "dag-scope": "entity"},
        {"format": "car", "dag-scope": "block"},
        {"format": "car", "entity-bytes": "0:9"},
        {"format": "car", "entity-bytes": "0:10"},
    ]
    tags = []
    for body in bodies:
        async with node.http.head(url, params=body) as top:
            tags.append(top.headers["ETag"])
    assert len(set(tags)) == len(bodies)
    for body, tag in zip(bodies, tags, strict=True):
        others = ", ".join(each for each in tags if each != tag)
        for kept, status in ((others, 200), (f"{others}, W/{tag}", 304), (tag, 304), ("*", 304)):
            async with node.http.get(url, params=body, headers={"If-None-Match": kept}) as answer:
                assert answer.status == status, (body, kept)
                assert answer.headers["ETag"] == tag and answer.headers["Vary"] == "Accept"
                assert status == 200 or await answer.read() == b""


@pytest.mark.parametrize("form", [{}, {"format": "raw"}])
async def test_a_part_is_sent_where_one_is_asked_for(node: Node, form: dict[str, str]) -> None:
    """Protects a client that goes on where it stopped; what is no range at all is not one."""
    cid = await node.parts.blobs.add(BLOB)
    url = f"{node.url}/ipfs/{cid}"
    whole = BLOCKS[cid] if form else BLOB
    size = len(whole)
    for header, first, last in (
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        (f"bytes={size - 3}-", size - 3, size - 1),
        (f"bytes={size // 2}-{size * 2}", size // 2, size - 1),
        ("bytes=-5", size - 5, size - 1),
        (f"bytes=-{size + 1}", 0, size - 1),
        *(
            ()
            if form
            else ((f"bytes={CHUNK_BYTES - 1}-{CHUNK_BYTES}", CHUNK_BYTES - 1, CHUNK_BYTES),)
        ),
    ):
        async with node.http.get(url, params=form, headers={"Range": header}) as answer:
            assert answer.status == 206, header
            assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
            assert answer.content_length == last + 1 - first
            assert await answer.read() == whole[first : last + 1]
            tag = answer.headers["ETag"]
    for header in ("bytes=5-1", "bytes=-", "bytes=0-1,5-6", "pages=1-2", "bytes=x-1", "bytes=1e3-"):
        async with node.http.get(url, params=form, headers={"Range": header}) as answer:
            assert answer.status == 200 and await answer.read() == whole, header
    for header in (f"bytes={size}-", f"bytes={size}-{size + 5}", "bytes=-0"):
        async with node.http.get(url, params=form, headers={"Range": header}) as answer:
            assert answer.status == 416, header
            assert answer.headers["Content-Range"] == f"bytes */{size}"
            assert (await answer.json(content_type=None))["code"] == "range-not-satisfiable"
    for given, status in ((tag, 206), ('"another"', 200), ("Sat, 29 Oct 1994 19:43:31 GMT", 200)):
        headers = {"Range": "bytes=0-1", "If-Range": given}
        async with node.http.get(url, params=form, headers=headers) as answer:
            assert answer.status == status, given
    async with node.http.head(url, params=form, headers={"Range": "bytes=0-1"}) as top:
        assert top.status == 200 and top.content_length == size


async def test_a_part_reads_no_more_than_it_needs(node: Node, blobs: Counting) -> None:
    """A range of a large blob costs the tree and its leaves, and no place of the whole."""
    cid = await blobs.add(BLOB)
    before = blobs.reads
    headers = {"Range": f"bytes={5 * CHUNK_BYTES}-{5 * CHUNK_BYTES + 9}"}
    async with node.http.get(f"{node.url}/ipfs/{cid}", headers=headers) as answer:
        assert await answer.read() == bytes([5]) * 10
    assert blobs.reads == before + 2, "the root, and one leaf"


@pytest.mark.parametrize(
    ("query", "leaves"),
    [
        ({"dag-scope": "all"}, range(CHUNKS)),
        ({"dag-scope": "entity"}, range(CHUNKS)),
        ({"dag-scope": "block"}, range(0)),
        ({"entity-bytes": "0:*"}, range(CHUNKS)),
        ({"entity-bytes": "0:0"}, range(1)),
        ({"entity-bytes": f"{CHUNK_BYTES - 1}:{CHUNK_BYTES}"}, range(2)),
        ({"entity-bytes": "-1:*"}, range(CHUNKS - 1, CHUNKS)),
        ({"entity-bytes": f"{CHUNK_BYTES}:-{(CHUNKS - 2) * CHUNK_BYTES + 1}"}, range(1, 2)),
        ({"entity-bytes": f"0:{len(BLOB) * 9}"}, range(CHUNKS)),
        ({"entity-bytes": "9:5"}, range(0)),
        ({"entity-bytes": "0:-99999999999"}, range(0)),
        ({"entity-bytes": "5:7", "dag-scope": "block"}, range(0)),
    ],
)
async def test_a_car_has_the_blocks_that_verify_what_was_asked_for(
    node: Node, query: dict[str, str], leaves: range
) -> None:
    """A light client gets the least set of blocks that proves the bytes it wants."""
    cid = await node.parts.blobs.add(BLOB)
    params = {"format": "car", **query}
    async with node.http.get(f"{node.url}/ipfs/{cid}", params=params) as answer:
        assert answer.status == 200
        _, blocks = car_of(await answer.read())
    names = [block.cid for block in blocks_of(split(BLOB))]
    assert [each.cid for each in blocks] == [cid, *(names[number] for number in leaves)]


async def test_repeated_blocks_come_once_or_each_time(node: Node) -> None:
    """Protects both kinds of client: who keeps blocks, and who reads a stream without keeping."""
    data = bytes(3 * CHUNK_BYTES)
    cid = await node.parts.blobs.add(data)
    for dups, count in (("n", 2), ("y", 4)):
        accept = {"Accept": f"{CAR};version=1;order=dfs;dups={dups}"}
        async with node.http.get(f"{node.url}/ipfs/{cid}", headers=accept) as answer:
            assert answer.headers["Content-Type"] == f"{CAR}; version=1; order=dfs; dups={dups}"
            _, blocks = car_of(await answer.read())
        assert len(blocks) == count
        assert b"".join(each.data for each in blocks[1:]) == data[: (count - 1) * CHUNK_BYTES]


@pytest.mark.parametrize(
    "query",
    [
        {"dag-scope": "everything"},
        {"entity-bytes": ""},
        {"entity-bytes": "*:5"},
        {"entity-bytes": "1-5"},
        {"entity-bytes": "0:9999999999999999999999"},
        {"entity-bytes": f"{len(BLOB)}:*"},
    ],
)
async def test_a_malformed_part_of_a_car_is_named(node: Node, query: dict[str, str]) -> None:
    cid = await node.parts.blobs.add(BLOB)
    params = {"format": "car", **query}
    async with node.http.get(f"{node.url}/ipfs/{cid}", params=params) as answer:
        assert answer.status == 400
        assert (await answer.json(content_type=None))["error"]["param"] == next(iter(query))


@pytest.mark.parametrize("form", [{}, {"format": "raw"}, {"format": "car"}])
async def test_no_form_of_a_withdrawn_blob_is_given_out(
    node: Node, tmp_path: Path, form: dict[str, str]
) -> None:
    """Protects an owner who withdrew: no Accept, part or cached tag gets around the deny list."""
    denied = DenyingBlobStore(node.parts.blobs, DenyList(tmp_path / "withdrawn.deny"))
    object.__setattr__(node.parts, "blobs", denied)
    cid, other = await denied.add(BLOB[:CHUNK_BYTES]), await denied.add(BLOB[: 2 * CHUNK_BYTES])
    await denied.deny(cid, "a work in it ended")
    url = f"{node.url}/ipfs/{cid}"
    for headers in (
        {},
        {"Range": "bytes=0-1"},
        {"If-None-Match": "*"},
        {"Cache-Control": "only-if-cached"},
    ):
        async with node.http.get(url, params=form, headers=headers) as answer:
            assert answer.status == 451
            assert (await answer.json(content_type=None))["code"] == "blob-denied"
        async with node.http.head(url, params=form, headers=headers) as top:
            assert top.status == 451
    # Its only block is a leaf of another blob too, which stays, and gives nothing of it away.
    if form.get("format") != "raw":
        try:
            async with node.http.get(f"{node.url}/ipfs/{other}", params=form) as answer:
                assert answer.status == 451 or BLOB[:CHUNK_BYTES] not in await answer.read()
        except aiohttp.ClientError:
            pass


async def test_a_blob_that_is_not_here_is_not_found_and_not_cached(node: Node) -> None:
    url = f"{node.url}/ipfs/{root_of(b'nobody stored these bytes')}"
    for headers, status, code in (
        ({}, 404, "blob-not-found"),
        ({"Cache-Control": "only-if-cached"}, 412, "blob-not-cached"),
    ):
        async with node.http.get(url, headers=headers) as answer:
            assert answer.status == status
            assert (await answer.json(content_type=None))["code"] == code


async def test_a_client_finds_out_that_this_is_a_trustless_gateway(node: Node) -> None:
    """Clients ask for the empty identity CID before they use a gateway."""
    url = f"{node.url}/ipfs/bafkqaaa"
    async with node.http.get(url, params={"format": "raw"}) as answer:
        assert (answer.status, answer.content_type, await answer.read()) == (200, RAW, b"")
    async with node.http.get(url, params={"format": "car"}) as answer:
        assert answer.status == 200 and car_of(await answer.read())[0].count(b"\x01\x55\x00\x00")
    async with node.http.head(url, headers={"Accept": RAW}) as top:
        assert top.status == 200


async def test_a_script_that_registers_itself_is_refused(node: Node) -> None:
    """A blob must not take over the pages of its host, by the Path Gateway specification."""
    cid = await node.parts.blobs.add(b"self.onfetch = () => {}")
    headers = {"Service-Worker": "script"}
    async with node.http.get(f"{node.url}/ipfs/{cid}", headers=headers) as answer:
        assert answer.status == 400
