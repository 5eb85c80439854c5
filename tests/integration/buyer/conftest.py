"""A buyer with its own files at a node over HTTP; the node's chain and model are invented."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.integration.api.harness import DEPOSIT, ORIGIN, PAYER_KEY, Node, running_node

from viz.buyer.client import BuyerClient
from viz.domain.eip712 import public_address

PASSWORD = "correct horse"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    (tmp_path / "node").mkdir()
    async with running_node(tmp_path / "node") as running:
        running.chain.balances[public_address(PAYER_KEY)] = 10**9
        yield running


@asynccontextmanager
async def buying(node: Node, home: Path, **changes: Any) -> AsyncIterator[BuyerClient]:
    """Connect a buyer to the node; it has no channel yet."""
    settings: dict[str, Any] = {
        "home": home,
        "password": PASSWORD,
        "expected": DEPLOYMENT,
        "clock": node.clock,
        "origin": ORIGIN,
        "scrypt_n": 2,
    }
    async with aiohttp.ClientSession() as http:
        client = await BuyerClient.connect(http, node.url, **{**settings, **changes})
        try:
            yield client
        finally:
            await client.aclose()


@pytest.fixture
async def buyer(node: Node, tmp_path: Path) -> AsyncIterator[BuyerClient]:
    async with buying(node, tmp_path / "buyer") as client:
        await client.open_channel(PAYER_KEY, DEPOSIT)
        yield client
