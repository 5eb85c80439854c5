"""The behaviour suite over the fake engine, and over the embedded one on a tiny random Llama."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.engine_suite import *  # noqa: F403 - the suite's tests
from tests.engine_suite import OPEN
from tests.fakes.engine import FakeEngine, fake_adapter_file
from tests.fakes.tiny_base import make_tiny_base, write_random_adapter

from viz.domain.ports.engine import Engine
from viz.domain.units import AdapterId
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings

NATIVE = pytest.param("native", marks=pytest.mark.compiles)
EXACT = ("fake", "float32", NATIVE)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test over every engine. In bfloat16 a row's last bit depends on how many rows a
    product has, and a token may on that bit: no test that is marked exact runs there."""
    exact = metafunc.definition.get_closest_marker("exact") is not None
    if "engine" in metafunc.fixturenames:
        ways = EXACT if exact else ("fake", "float32", "bfloat16", NATIVE)
        metafunc.parametrize("engine", ways, indirect=True)


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    base = make_tiny_base(root)
    for number in (1, 2):
        write_random_adapter(root / f"{number}.safetensors", base, rank=4 * number, seed=number)
    return root


@pytest.fixture
async def engine(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_root: Path
) -> AsyncIterator[Engine]:
    made: Engine
    if request.param == "fake":
        made = FakeEngine(max_open=OPEN)
        files = [fake_adapter_file(tmp_path / f"{number}.safetensors", number) for number in (1, 2)]
    else:
        settings = EngineSettings(
            max_streams=4,
            max_waiting=OPEN - 4,
            compute=request.param,
            compile=request.param == "native",
            threads=1,
            grace_s=0.01,
        )
        made = await EmbeddedEngine.start(make_tiny_base(tiny_root), settings)
        files = [tiny_root / f"{number}.safetensors" for number in (1, 2)]
    for number, path in enumerate(files, start=1):
        await made.add_adapter(AdapterId(number), path)
    yield made
    await made.close()


@pytest.fixture
def prefilled(engine: Engine) -> Callable[[], float]:
    """Return how many prompt tokens the engine has computed."""
    return lambda: engine.stats()["prefilled_tokens"]
