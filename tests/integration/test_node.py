"""A whole node on a real chain behind an endpoint that answers nonsense: it stays in business."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.fakes.json_rpc import endpoint
from tests.fakes.tiny_base import make_tiny_directory
from tests.integration.chain.testnet import Testnet

from viz.basemodel.source import load_base
from viz.chain import watcher
from viz.chain.keys import create_key_file, development_account
from viz.domain.units import hex_of
from viz.local_socket import free_port
from viz.node import Node, run_node
from viz.protocol.payment import NODE_PATH
from viz.settings.config import ApiConfig, ChainConfig, Config, SettlementConfig
from viz.settings.engine_config import EngineConfig

PASSWORD = "a password of this test"
ODD: tuple[Any, ...] = (
    {"result": None},
    {"result": {}},
    {"result": []},
    {"result": True},
    {"result": "0x" + "f" * 64},
    {"result": 10**400},
    {"result": "latest"},
    {"error": {"code": -32005, "message": "request rate limited"}},
    {"error": None},
    [],
    "[" * 200_000,
    "not JSON",
    429,
    503,
)


def settings(folder: Path, rpc_url: str) -> Config:
    """Return those of a node with a model of a few thousand weights."""
    base = make_tiny_directory(folder / "tiny")
    create_key_file(
        folder / "operator.key.json", PASSWORD, account=development_account(3), scrypt_n=2
    )
    return Config(
        data_dir=folder,
        key_password=PASSWORD,  # type: ignore[arg-type]
        chain=ChainConfig(rpc_url=rpc_url, timeout_s=5),
        api=ApiConfig(port=free_port(), shutdown_grace_s=1),
        engine=EngineConfig(
            base_model=str(base),
            base_digest=hex_of(load_base(base, cache_dir=folder / "models").digest),
            context_tokens=256,
            max_streams=2,
            max_memory_mib=2_000,
            compute="float32",
            compile=False,
        ),
        settlement=SettlementConfig(claim_age_s=900, interval_s=1, compare_interval_s=1),
    )


async def test_no_odd_answer_ends_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every odd answer to each method that the loops ask: the node answers then as before."""
    monkeypatch.setattr(watcher, "_LONGEST_PAUSE_S", 0.01)
    defaults = watcher.Watcher.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "interval_s", 0.01)
    async with Testnet.running(tmp_path) as net, endpoint(net.anvil.url) as served:
        ready: asyncio.Future[Node] = asyncio.get_running_loop().create_future()

        async def answers(node: Node) -> None:
            ready.set_result(node)

        running = asyncio.create_task(run_node(settings(tmp_path, served.url), answers))
        running.add_done_callback(lambda _: ready.cancel())
        url = (await ready).url
        async with aiohttp.ClientSession() as http:

            async def status(path: str) -> int:
                async with http.get(url + path) as response:
                    return response.status

            assert (await status("/healthz"), await status(NODE_PATH)) == (200, 200)
            for method in ("eth_blockNumber", "eth_getBlockByNumber", "eth_getLogs"):
                left = list(ODD)
                served.told[method] = lambda _, left=left: left.pop() if left else None
                for _ in range(3_000):
                    if not left or running.done():
                        break
                    await net.anvil.mine()
                    await asyncio.sleep(0.02)
                assert (method, left, running.done()) == (method, [], False)
            found = (0, 0)
            for _ in range(300):
                found = await status("/healthz"), await status(NODE_PATH)
                if found == (200, 200):
                    break
                await asyncio.sleep(0.1)
            assert found == (200, 200)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
