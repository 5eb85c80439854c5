"""Which number format this processor multiplies fastest, measured at start.

Owns one short measurement. Does not know the model beyond its sizes. Either choice computes the
same function, the dequantised bf16 weights; float32 merely rounds less on the way.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from viz.basemodel.shape import LlamaShape

_ROWS = (1, 8, 32)


def choose_compute(
    shape: LlamaShape, wanted: Literal["auto", "float32", "bfloat16"]
) -> tuple[torch.dtype, str]:
    """Return the compute dtype and a sentence that says why."""
    import torch

    if wanted != "auto":
        return (
            torch.float32 if wanted == "float32" else torch.bfloat16
        ), "set in the configuration"
    taken = {
        dtype: sum(_best_ms(shape, dtype, rows) for rows in _ROWS)
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = min(taken, key=lambda dtype: taken[dtype])
    figures = ", ".join(
        f"{str(dtype).removeprefix('torch.')} {ms:.1f} ms" for dtype, ms in taken.items()
    )
    return best, f"one MLP at {_ROWS} rows: {figures}"


def _best_ms(shape: LlamaShape, dtype: torch.dtype, rows: int) -> float:
    import torch

    with torch.inference_mode():
        up = torch.randn(2 * shape.intermediate, shape.hidden).to(dtype)
        x = torch.randn(rows, shape.hidden).to(dtype)
        best = float("inf")
        for _ in range(4):
            began = time.perf_counter()
            torch.nn.functional.linear(x, up)
            best = min(best, time.perf_counter() - began)
    return best * 1000
