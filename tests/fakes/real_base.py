"""The packaged base model for tests, converted once a machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from viz.basemodel.source import LoadedBase, load_base

CACHE = Path(tempfile.gettempdir()) / "viz-test-models"


def real_base() -> LoadedBase:
    """Return SmolLM2-135M-Instruct; its digest is checked at each load, so the cache is safe."""
    return load_base(cache_dir=CACHE)
