"""A local chain with the contracts for tests that ask for ``net``, and where Kubo's binary is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration.chain.testnet import Testnet

from viz.storage.kubo_daemon import find_kubo

BUILT = Path(__file__).parents[2] / "scripts" / "kubo" / "bin" / "ipfs"


@pytest.fixture(scope="session")
def kubo_binary() -> Path:
    """What scripts/setup --kubo provides, by its order of preference."""
    configured = os.environ.get("KUBO_BIN")
    if configured:
        return find_kubo(Path(configured))
    return find_kubo(BUILT if BUILT.is_file() else None)


@pytest_asyncio.fixture
async def net(tmp_path: Path) -> AsyncIterator[Testnet]:
    async with Testnet.running(tmp_path) as running:
        yield running
