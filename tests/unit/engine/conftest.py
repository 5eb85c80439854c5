"""The tiny random Llama that the engine's tests run on."""

from __future__ import annotations

import pytest
from tests.fakes.tiny_base import make_tiny_base

from viz.basemodel.source import LoadedBase


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return make_tiny_base(tmp_path_factory.mktemp("tiny"))
