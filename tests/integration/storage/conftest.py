"""A real Kubo daemon for this folder's tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from viz.storage.kubo_daemon import KuboDaemon, find_kubo

BUILT = Path(__file__).parents[3] / "scripts" / "kubo" / "bin" / "ipfs"


@pytest.fixture(scope="session")
def kubo_binary() -> Path:
    """What scripts/setup --kubo provides, by its order of preference."""
    configured = os.environ.get("KUBO_BIN")
    if configured:
        return find_kubo(Path(configured))
    return find_kubo(BUILT if BUILT.is_file() else None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemon(
    kubo_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[KuboDaemon]:
    async with KuboDaemon(kubo_binary, tmp_path_factory.mktemp("kubo")) as running:
        yield running
