"""A local chain with the contracts, for every integration test that asks for ``net``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from tests.integration.chain.testnet import Testnet


@pytest_asyncio.fixture
async def net(tmp_path: Path) -> AsyncIterator[Testnet]:
    async with Testnet.running(tmp_path) as running:
        yield running
