"""`viz storage` on a folder that a node left: free, find what is torn, get it again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.fakes.blobs import MemoryBlobStore

from viz.domain.units import Cid
from viz.storage.embedded import EmbeddedBlobStore
from viz.storage.unixfs import CHUNK_BYTES

DATA = bytes(range(256)) * 4 * 1024 + b"tail"


def _viz(folder: Path, *words: str) -> tuple[int, dict[str, object]]:
    ended = _run(folder, *words, "--json")
    return ended.returncode, json.loads(ended.stdout)


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "viz", "storage", *words, "--data-dir", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def torn(tmp_path: Path) -> tuple[Path, Cid]:
    """A data folder with one blob, of which the root is torn, and one that nobody pinned."""

    async def fill() -> Cid:
        store = EmbeddedBlobStore(tmp_path / "blobs")
        await store.unpin(await store.add(b"nobody needs this"))
        return await store.add(DATA)

    root = asyncio.run(fill())
    (path,) = (tmp_path / "blobs" / "blocks").rglob(root)
    path.write_bytes(path.read_bytes()[:20])
    return tmp_path, root


def test_a_torn_blob_is_named_repaired_and_only_then_the_rest_is_freed(
    torn: tuple[Path, Cid],
) -> None:
    """Protects the operator after a power failure: each step says what is lost and what to do."""
    folder, root = torn
    assert _viz(folder, "verify") == (
        8,
        {
            "blobs": 1,
            "blocks": 1,
            "repaired": [],
            "lost": {root: [root]},
            "givenUp": [],
            "kept": [],
        },
    )
    refused = _run(folder, "gc")
    assert refused.returncode == 8 and "viz storage verify" in refused.stderr.replace("\n", " ")

    async def repaired() -> tuple[int, dict[str, object]]:
        other = MemoryBlobStore()
        await other.add(DATA)

        async def block(request: web.Request) -> web.Response:
            return web.Response(body=await other.block(Cid(request.match_info["cid"])))

        application = web.Application()
        application.router.add_get("/ipfs/{cid}", block)
        async with TestServer(application) as server:
            url = str(server.make_url("/")).rstrip("/")
            return await asyncio.to_thread(_viz, folder, "verify", "--source", url)

    code, found = asyncio.run(repaired())
    assert (code, found["repaired"], found["lost"]) == (0, [root], {})
    code, freed = _viz(folder, "gc")
    assert (code, freed["blocks"], freed["freedBytes"]) == (0, 1, len(b"nobody needs this"))
    assert isinstance(freed["keptBytes"], int) and freed["keptBytes"] > CHUNK_BYTES


def test_a_blob_that_nobody_has_is_given_up_by_name(torn: tuple[Path, Cid]) -> None:
    """Protects the operator from a store in which one lost blob keeps all garbage for ever; a blob
    that is whole is not given up, nor one that is not here, and both are said."""
    folder, root = torn
    store = EmbeddedBlobStore(folder / "blobs")
    whole = asyncio.run(store.add(b"whole"))
    unknown = Cid("b" + "a" * 58)
    names = [word for cid in (whole, unknown) for word in ("--give-up", cid)]
    said = " ".join(_run(folder, "verify", *names).stderr.split())
    assert f"did not give up {whole}: every block of it is here" in said
    assert f"did not give up {unknown}: this store pins no such blob" in said
    code, found = _viz(folder, "verify", *names, "--give-up", root)
    assert (code, found["lost"], found["givenUp"]) == (0, {}, [root])
    assert found["kept"] == [whole, unknown]
    assert asyncio.run(store.pinned()) == {whole}
    code, freed = _viz(folder, "gc")
    assert (code, freed["keptBytes"]) == (0, len(b"whole"))
