"""The behaviour suite over a server that computes the tiny base by transformers and PEFT."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.engine_suite import *  # noqa: F403 - the suite's tests
from tests.engine_suite import OPEN
from tests.fakes.openai_server import FakeModelServer
from tests.integration.engine.upstream_parts import export_tiny, upstream

from viz.domain.ports.engine import Engine
from viz.domain.units import AdapterId


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("tiny"), adapters=2)


@pytest.fixture
def server(tiny_root: Path) -> FakeModelServer:
    return FakeModelServer(tiny_root / "out")


@pytest.fixture
async def engine(server: FakeModelServer, tiny_root: Path, tmp_path: Path) -> AsyncIterator[Engine]:
    async with upstream(tiny_root, tmp_path, [server], max_streams=4, max_waiting=OPEN - 4) as made:
        for number in (1, 2):
            await made.add_adapter(AdapterId(number), tiny_root / f"{number}.safetensors")
        yield made


@pytest.fixture
def prefilled(server: FakeModelServer) -> Callable[[], float]:
    """Return how many prompt tokens the server has computed, its prefix cache apart."""
    return lambda: server.prefilled_tokens
