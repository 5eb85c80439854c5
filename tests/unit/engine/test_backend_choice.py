"""Which arithmetic serves: the same one at every start."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from tests.fakes.tiny_base import make_tiny_directory

from viz.basemodel.source import load_base
from viz.engine.embedded import backend_choice, native_check
from viz.engine.embedded.backend_choice import choose_backend
from viz.engine.embedded.native.build import NativeUnavailable
from viz.processor import Processor

PLAIN = Processor("AuthenticAMD", "", frozenset({"avx2"}))
BF16 = Processor("GenuineIntel", "", frozenset({"avx2", "avx512_bf16", "amx_bf16"}))


@pytest.mark.parametrize(
    ("wanted", "processor", "compiles", "chosen"),
    [
        ("auto", PLAIN, True, "native_float32"),
        ("auto", BF16, True, "native_float32"),
        ("auto", PLAIN, False, "float32"),
        ("auto", BF16, False, "bfloat16"),
        ("float32", BF16, True, "native_float32"),
        ("float32", BF16, False, "float32"),
        ("bfloat16", PLAIN, True, "bfloat16"),
    ],
)
def test_processor_and_settings_alone_choose(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: Literal["auto", "float32", "bfloat16"],
    processor: Processor,
    compiles: bool,
    chosen: str,
) -> None:
    """A restart must not change what a node computes: its offers and audits name it."""
    base = load_base(make_tiny_directory(tmp_path / "tiny"), cache_dir=tmp_path)
    kernels: Any = SimpleNamespace(name="kernels")

    def load(*_: object) -> Any:
        if not compiles:
            raise NativeUnavailable("no compiler")
        return kernels

    monkeypatch.setattr(native_check, "load_kernels", load)
    monkeypatch.setattr(backend_choice, "fits", lambda *_: True)
    monkeypatch.setattr(backend_choice, "read_processor", lambda: processor)
    assert choose_backend(base.shape, wanted, tmp_path / "native").name == chosen
