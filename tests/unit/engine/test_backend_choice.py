"""Which arithmetic serves, when the measurement at start is close."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes.tiny_base import make_tiny_directory

from viz.basemodel.source import load_base
from viz.engine.embedded import backend_choice, native_check
from viz.engine.embedded.backend_choice import choose_backend


@pytest.mark.parametrize(
    ("milliseconds", "chosen"),
    [
        ((2.8, 1.5, 1.4), "native_float32"),
        ((2.8, 1.4, 1.5), "native_float32"),
        ((1.2, 1.5, 9.0), "native_float32"),
        ((9.0, 1.5, 0.9), "bfloat16"),
        ((0.9, 1.5, 9.0), "float32"),
    ],
)
def test_only_a_clear_lead_turns_the_compiled_pass_down(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    milliseconds: tuple[float, ...],
    chosen: str,
) -> None:
    """A restart must not change what a node computes because two times were nearly equal."""
    base = load_base(make_tiny_directory(tmp_path / "tiny"), cache_dir=tmp_path)
    kernels: Any = SimpleNamespace(name="kernels")
    monkeypatch.setattr(native_check, "load_kernels", lambda *_: kernels)
    monkeypatch.setattr(backend_choice, "fits", lambda *_: True)
    monkeypatch.setattr(backend_choice, "_milliseconds", lambda *_: list(milliseconds))
    choice = choose_backend(base.shape, "auto", tmp_path / "native")
    assert choice.name == chosen
    assert "bfloat16 " in choice.reason
