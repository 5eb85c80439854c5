"""What is particular to a real Kubo daemon: its absence, its end, its own view of our names."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.fakes.blobs import MemoryBlobStore

from viz.errors import BlobCorrupt, ConfigError, StorageError, StorageFull, StorageUnavailable
from viz.local_socket import free_port
from viz.storage.embedded import EmbeddedBlobStore
from viz.storage.kubo import KuboBlobStore
from viz.storage.kubo_daemon import KuboDaemon, find_kubo
from viz.storage.store_check import check_store
from viz.storage.unixfs import CHUNK_BYTES, IpfsBlock, root_of

DATA = bytes(range(256)) * 2048


async def test_no_daemon_is_one_clear_error_for_every_call(tmp_path: Path) -> None:
    """The operator reads what to start, not an HTTP library's traceback."""
    store = KuboBlobStore("/ip4/127.0.0.1/tcp/1", timeout_s=2)
    cid = root_of(DATA)
    for call in (
        store.add(DATA),
        store.has(cid),
        store.pin(cid),
        store.unpin(cid),
        store.fetch(cid, tmp_path / "out", max_bytes=1),
    ):
        with pytest.raises(StorageUnavailable, match="ipfs daemon"):
            await call
    await store.close()


async def test_a_daemon_that_accepts_and_says_nothing_is_bounded_in_time() -> None:
    """A hung daemon costs the configured seconds, not the node."""

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = KuboBlobStore(f"/ip4/127.0.0.1/tcp/{port}", timeout_s=0.2)
    with pytest.raises(StorageUnavailable, match="in time"):
        await store.has(root_of(DATA))
    await store.close()
    server.close()


@pytest.mark.parametrize(
    "address", ["", "localhost:5001", "/ip4/127.0.0.1", "/ip4/127.0.0.1/udp/1"]
)
def test_an_address_that_is_none_is_refused_at_start(address: str) -> None:
    """A typing error in the configuration is found before the first blob."""
    with pytest.raises(ConfigError, match="is not a Kubo RPC address"):
        KuboBlobStore(address)


async def test_the_daemon_keeps_its_blobs_over_a_restart_and_is_gone_after_stop(
    kubo_binary: Path, tmp_path: Path
) -> None:
    """`viz up --kubo` keeps its state, and leaves no process behind."""
    daemon = KuboDaemon(kubo_binary, tmp_path / "repository")
    await daemon.start()
    process_id = daemon.process_id
    assert process_id is not None
    first = KuboBlobStore(daemon.api)
    cid = await first.add(DATA)
    await first.close()
    await daemon.stop()
    await daemon.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)

    async with KuboDaemon(kubo_binary, tmp_path / "repository") as again:
        store = KuboBlobStore(again.api)
        assert await store.has(cid)
        assert await store.fetch(cid, tmp_path / "out", max_bytes=len(DATA)) == len(DATA)
        await store.close()


async def test_a_daemon_killed_under_the_store_is_unavailable(
    kubo_binary: Path, tmp_path: Path
) -> None:
    """A store outage is told apart from a missing blob."""
    daemon = KuboDaemon(kubo_binary, tmp_path / "repository")
    await daemon.start()
    store = KuboBlobStore(daemon.api, timeout_s=3)
    cid = await store.add(DATA)
    assert daemon.process_id is not None
    os.kill(daemon.process_id, 9)
    with pytest.raises(StorageUnavailable):
        await store.fetch(cid, tmp_path / "out", max_bytes=len(DATA))
    await store.close()
    await daemon.stop()


async def test_a_daemon_that_comes_back_is_used_without_a_restart_of_the_node(
    kubo_binary: Path, tmp_path: Path
) -> None:
    """An operator restarts the daemon below a running node."""
    daemon = KuboDaemon(kubo_binary, tmp_path / "repository", api_port=free_port())
    await daemon.start()
    store = KuboBlobStore(daemon.api, timeout_s=5)
    cid = await store.add(DATA)
    await daemon.stop()
    with pytest.raises(StorageUnavailable, match="IPFS_PATH"):
        await store.has(cid)
    await daemon.start()
    assert await store.fetch(cid, tmp_path / "out", max_bytes=len(DATA)) == len(DATA)
    await store.close()
    await daemon.stop()


async def test_the_command_line_of_kubo_gives_the_embedded_stores_name(
    kubo_binary: Path, tmp_path: Path
) -> None:
    """Anyone can check an adapter's CID with `ipfs add --cid-version=1` and none of our code."""
    source = tmp_path / "weights"
    source.write_bytes(DATA * 3 + b"tail")
    environment = os.environ | {"IPFS_PATH": str(tmp_path / "repository")}
    subprocess.run(
        [kubo_binary, "init", "--empty-repo"], env=environment, check=True, capture_output=True
    )
    printed = subprocess.run(
        [kubo_binary, "add", "--only-hash", "--quieter", "--cid-version=1", str(source)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert source.stat().st_size > CHUNK_BYTES
    assert await EmbeddedBlobStore(tmp_path / "store").add(source) == printed


async def test_a_daemon_that_cannot_start_says_its_own_words(tmp_path: Path) -> None:
    """A broken repository is shown with the daemon's message, not a bare timeout."""
    broken = tmp_path / "ipfs"
    broken.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = init ]; then\n'
        '  echo \'{"Addresses": {}}\' > "$IPFS_PATH/config"; exit 0\n'
        "fi\n"
        "echo 'Error: the repository is from the future'; exit 1\n"
    )
    broken.chmod(0o755)
    with pytest.raises(StorageUnavailable, match="from the future"):
        await KuboDaemon(broken, tmp_path / "repository").start(timeout_s=10)


def test_a_missing_binary_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh machine has no Kubo: the message says how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageUnavailable, match="scripts/setup --kubo"):
        find_kubo()
    with pytest.raises(StorageUnavailable, match="KUBO_BIN"):
        find_kubo(tmp_path / "absent")


async def test_a_daemon_whose_bytes_are_wrong_is_caught(kubo_binary: Path, tmp_path: Path) -> None:
    """Kubo's own disk may rot; its answer is hashed like a stranger's."""
    async with KuboDaemon(kubo_binary, tmp_path / "repository") as daemon:
        store = KuboBlobStore(daemon.api)
        cid = await store.add(b"the weights that were registered")
        blocks = tmp_path / "repository" / "blocks"
        damaged = 0
        for path in blocks.rglob("*.data"):
            if path.read_bytes() == b"the weights that were registered":
                path.chmod(0o644)
                path.write_bytes(b"the weights that were exchanged!")
                damaged += 1
        assert damaged == 1
        with pytest.raises((BlobCorrupt, StorageUnavailable)):
            await store.fetch(cid, tmp_path / "out", max_bytes=100)
        assert not (tmp_path / "out").exists()
        await store.close()


async def test_kubo_frees_what_no_pin_needs(kubo_binary: Path, tmp_path: Path) -> None:
    """`viz storage gc` means the same in both stores: pinned blobs stay, the rest goes."""
    async with KuboDaemon(kubo_binary, tmp_path / "repository") as daemon:
        store = KuboBlobStore(daemon.api)
        kept, gone = await store.add(DATA), await store.add(DATA[:CHUNK_BYTES] + b"tail")
        await store.unpin(gone)
        assert kept in await store.pinned() and gone not in await store.pinned()
        freed = await store.gc()
        assert freed.blocks >= 2 and freed.kept_bytes
        assert not await store.has(gone)
        assert await store.fetch(kept, tmp_path / "out", max_bytes=len(DATA)) == len(DATA)
        await store.close()


def _files_with(repository: Path, data: bytes) -> list[Path]:
    return [path for path in (repository / "blocks").rglob("*.data") if path.read_bytes() == data]


async def test_a_damaged_block_of_kubo_is_named_and_a_lost_one_comes_back(
    kubo_binary: Path, tmp_path: Path
) -> None:
    """What rots below the daemon is found by hashing. The daemon never replaces a block that it
    has; once the rotten file is gone, the block comes from a source."""
    repository, leaf = tmp_path / "repository", root_of(DATA[:CHUNK_BYTES])
    whole = MemoryBlobStore()
    root = await whole.add(DATA)
    rot = b"rot" + DATA[3:CHUNK_BYTES]
    async with KuboDaemon(kubo_binary, repository) as daemon:
        store = KuboBlobStore(daemon.api, timeout_s=5)
        await store.add(DATA)
        assert (await check_store(store)).lost == {}
        (path,) = _files_with(repository, DATA[:CHUNK_BYTES])
        path.chmod(0o644)
        path.write_bytes(rot)
        found = await check_store(store, [whole])
        assert (found.repaired, found.lost) == ([], {root: [leaf]})
        await store.close()
    path.unlink()
    async with KuboDaemon(kubo_binary, repository) as daemon:
        store = KuboBlobStore(daemon.api, timeout_s=5)
        found = await check_store(store, [MemoryBlobStore(), whole])
        assert (found.repaired, found.lost) == ([leaf], {})
        assert await store.fetch(root, tmp_path / "out", max_bytes=len(DATA)) == len(DATA)
        await store.close()


@pytest.mark.parametrize("damage", ["torn", "lost", "another bit"])
async def test_kubo_deletes_nothing_that_a_damaged_blob_may_need(
    kubo_binary: Path, tmp_path: Path, damage: str
) -> None:
    """Protects the leaves of a pinned blob whose inner block is damaged, and whoever was told that
    a blob is erased: the daemon itself keeps all, waits for peers, or believes a wrong link."""
    repository, part = tmp_path / "repository", DATA[:CHUNK_BYTES]
    async with KuboDaemon(kubo_binary, repository) as daemon:
        store = KuboBlobStore(daemon.api, timeout_s=10)
        kept, gone = await store.add(part + b"tail"), await store.add(part + b"other")
        whole = await store.block(kept)
        (path,) = _files_with(repository, whole)
        path.chmod(0o644)
        if damage == "lost":
            path.unlink()
        else:
            path.write_bytes(whole[:50] if damage == "torn" else whole[:10] + b"\xff" + whole[11:])
        for call in (store.erase(gone), store.gc()):
            with pytest.raises(BlobCorrupt, match=f"{kept} is pinned.*viz storage verify"):
                await call
        assert await store.has(root_of(part)) and await store.has(gone)
        if damage == "lost":
            await store.put_block(IpfsBlock(kept, whole))
        else:
            path.write_bytes(whole)
        assert await store.erase(gone)
        assert not await store.has(gone) and not await store.has(root_of(b"other"))
        size = len(part) + 4
        assert await store.fetch(kept, tmp_path / "out", max_bytes=size) == size
        await store.close()


async def test_what_the_daemon_keeps_is_not_called_erased() -> None:
    """Protects certificates of destruction: the daemon answers 200, and names what it kept."""
    cid = root_of(b"one block")
    answers = {
        "version": {"Version": "0.39.0"},
        "pin/rm": {"Pins": [cid]},
        "pin/ls": {"Keys": {}},
        "block/stat": {"Key": cid, "Size": 9},
        "block/rm": {"Hash": cid, "Error": "pin check failed: unexpected EOF"},
    }

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(answers[request.match_info["method"]])

    application = web.Application()
    application.router.add_post("/api/v0/{method:.*}", handle)
    async with TestServer(application) as server:
        store = KuboBlobStore(f"/ip4/127.0.0.1/tcp/{server.port}", timeout_s=5)
        with pytest.raises(StorageError, match="kept 1 block: pin check failed"):
            await store.erase(cid)
        await store.close()


async def _daemon_that(answer: web.Response | float) -> AsyncIterator[int]:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return web.json_response({})
        return answer

    application = web.Application(client_max_size=2**30)
    application.router.add_post("/api/v0/{method:.*}", handle)
    async with TestServer(application) as server:
        assert server.port is not None
        yield server.port


async def test_a_full_daemon_says_what_to_do_and_nothing_is_lost(tmp_path: Path) -> None:
    """Protects the operator: a full disk below Kubo is no mystery, and the source stays."""
    source = tmp_path / "weights"
    source.write_bytes(DATA)
    for text in ("write /blocks/X: no space left on device", "disk quota exceeded"):
        told = web.json_response({"Message": text, "Code": 0, "Type": "error"}, status=500)
        async for port in _daemon_that(told):
            store = KuboBlobStore(f"/ip4/127.0.0.1/tcp/{port}", timeout_s=5)
            with pytest.raises(StorageFull, match="viz storage gc"):
                await store.add(source)
            await store.close()
    assert source.read_bytes() == DATA


async def test_a_daemon_may_take_longer_for_its_whole_store() -> None:
    """Protects `viz storage gc` of a large store, which is silent for longer than other calls."""
    said = {"pin/ls": {"Keys": {}}, "repo/stat": {"RepoSize": 7}, "version": {"Version": "1"}}

    async def handle(request: web.Request) -> web.Response:
        method = request.match_info["method"]
        await asyncio.sleep(0.8 if method != "version" else 0)
        return web.Response(text="") if method == "repo/gc" else web.json_response(said[method])

    application = web.Application()
    application.router.add_post("/api/v0/{method:.*}", handle)
    async with TestServer(application) as server:
        store = KuboBlobStore(f"/ip4/127.0.0.1/tcp/{server.port}", timeout_s=0.2)
        assert (await store.gc()).kept_bytes == 7
        await store.close()


def test_what_a_library_deprecates_is_not_printed_to_the_operator() -> None:
    """Each command would begin with two lines about an argument of urllib3."""
    program = (
        "import asyncio; from viz.storage.kubo import KuboBlobStore\n"
        "try: asyncio.run(KuboBlobStore('/ip4/127.0.0.1/tcp/1', timeout_s=2).version())\n"
        "except Exception as error: print(type(error).__name__)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("StorageUnavailable", "")


def test_the_daemon_of_the_containers_is_as_alone_as_that_of_viz_up(
    kubo_binary: Path, tmp_path: Path
) -> None:
    """`scripts/kubo/serve` contacts no other host: no peers, no lookups, and no telemetry."""
    only = tmp_path / "ipfs"
    only.write_text(f'#!/bin/sh\n[ "$1" = daemon ] || exec "{kubo_binary}" "$@"\n')
    only.chmod(0o755)
    repository = tmp_path / "repository"
    repository.mkdir()
    told = os.environ | {"IPFS_PATH": str(repository), "KUBO_BIN": str(only)}
    serve = Path(__file__).parents[3] / "scripts" / "kubo" / "serve"
    for _ in range(2):
        subprocess.run(["/bin/sh", serve], env=told, check=True, capture_output=True)
    config = json.loads((repository / "config").read_text(encoding="utf-8"))
    assert config["Addresses"]["API"].startswith("/ip4/127.0.0.1/")
    assert (config["Addresses"]["Swarm"], config["Bootstrap"]) == ([], [])
    assert config["Plugins"]["Plugins"]["telemetry"]["Disabled"] is True
    for section in ("AutoConf", "AutoTLS", "Provide"):
        assert config[section]["Enabled"] is False
    assert config["Discovery"]["MDNS"]["Enabled"] is False
    assert config["Swarm"]["DisableNatPortMap"] is True
    assert config["Version"]["SwarmCheckEnabled"] is False
    assert (config["Routing"]["Type"], config["DNS"]["Resolvers"]) == ("none", {})


async def test_a_block_that_kubo_dropped_as_damaged_comes_back_from_a_source(
    kubo_binary: Path, tmp_path: Path
) -> None:
    """The way that `viz storage verify` names: `ipfs repo verify --drop`, while the daemon runs."""
    repository, whole = tmp_path / "repository", MemoryBlobStore()
    root = await whole.add(DATA)
    async with KuboDaemon(kubo_binary, repository) as daemon:
        store = KuboBlobStore(daemon.api, timeout_s=5)
        await store.add(DATA)
        (path,) = _files_with(repository, DATA[:CHUNK_BYTES])
        path.chmod(0o644)
        path.write_bytes(b"rot" + DATA[3:CHUNK_BYTES])
        assert (await check_store(store, [whole])).lost
        command = [str(kubo_binary), "--api", daemon.api, "repo", "verify", "--drop"]
        told = os.environ | {"IPFS_PATH": str(repository)}
        done = subprocess.run(command, env=told, check=True, capture_output=True, text=True)
        assert "1 removed" in done.stdout
        found = await check_store(store, [whole])
        assert (len(found.repaired), found.lost) == (1, {})
        assert await store.fetch(root, tmp_path / "out", max_bytes=len(DATA)) == len(DATA)
        await store.close()


async def test_every_call_to_a_slow_daemon_ends(tmp_path: Path) -> None:
    """A daemon that takes every request and answers none holds no call beyond its bound."""
    async for port in _daemon_that(60.0):
        store = KuboBlobStore(f"/ip4/127.0.0.1/tcp/{port}", timeout_s=0.1)
        cid = root_of(DATA)
        for call in (
            store.add(DATA),
            store.has(cid),
            store.pin(cid),
            store.unpin(cid),
            store.block(cid),
            store.pinned(),
            store.gc(),
        ):
            with pytest.raises(StorageUnavailable, match="in time"):
                await call
        await store.close()
