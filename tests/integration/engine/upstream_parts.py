"""Parts of the upstream engine's tests: an exported tiny base, and an engine over fake servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.fakes.openai_server import FakeModelServer
from tests.fakes.tiny_base import make_tiny_base, write_random_adapter

from viz.basemodel.export import export_base
from viz.engine.upstream.engine import UpstreamEngine
from viz.engine.upstream.settings import UpstreamSettings


def export_tiny(root: Path, *, adapters: int) -> Path:
    """Write the tiny base, its exported checkpoint (``out``) and adapters; return ``root``."""
    base = make_tiny_base(root, quantised=True)
    export_base(base, root / "out")
    for number in range(1, adapters + 1):
        path = root / f"{number}.safetensors"
        write_random_adapter(path, base, rank=4 * (1 + number % 3), seed=number)
    return root


@asynccontextmanager
async def upstream(
    root: Path, folder: Path, servers: Sequence[FakeModelServer], **changes: Any
) -> AsyncIterator[UpstreamEngine]:
    """Start the servers and an engine over them; stop all at the end."""
    urls = tuple([await each.start() for each in servers])
    given: dict[str, Any] = {
        "folder": folder / "shared",
        "arithmetic": "float32",
        "max_rank": 64,
        "timeout_s": 20.0,
        "watch_s": 0.1,
        "return_s": 1.0,
        "canary_interval_s": 3_600.0,
    }
    settings = UpstreamSettings(urls=urls, **(given | changes))
    engine = await UpstreamEngine.start(make_tiny_base(root, quantised=True), settings)
    try:
        yield engine
    finally:
        await engine.close()
        for each in servers:
            await each.stop()
