"""A real Kubo daemon for this folder's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from viz.storage.kubo_daemon import KuboDaemon


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemon(
    kubo_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[KuboDaemon]:
    async with KuboDaemon(kubo_binary, tmp_path_factory.mktemp("kubo")) as running:
        yield running
