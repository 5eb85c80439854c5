"""How this processor multiplies fastest, measured at start.

Owns one short measurement. Does not know the model beyond its sizes. Every choice computes the
same function, the dequantised bf16 weights; float32 sums merely round less than bf16 ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from viz.engine.native import Kernels, NativeUnavailable, fits, load_kernels, pack
from viz.errors import ModelUnavailable

if TYPE_CHECKING:
    import torch

    from viz.basemodel.shape import LlamaShape

_ROWS = (1, 8, 32)
_REPEATS = 4


@dataclass(frozen=True, slots=True)
class Compute:
    """The chosen arithmetic: the dtype of activations and caches, and the compiled products."""

    name: str
    dtype: torch.dtype
    kernels: Kernels | None
    reason: str


def choose_compute(
    shape: LlamaShape,
    wanted: Literal["auto", "float32", "bfloat16", "native"],
    build_directory: Path | None,
) -> Compute:
    """Choose among torch in float32, torch in bfloat16 and the compiled products (float32 sums).

    ``build_directory`` None forbids compiling. The reason says what was measured or missing.
    Raises ModelUnavailable when ``wanted`` is "native" and cannot be had.
    """
    import torch

    kernels, note = None, "compiling is off"
    sized = fits(shape.head_dim, shape.hidden, shape.intermediate)
    if not sized:
        note = "this model's sizes are not multiples the compiled products take"
    elif build_directory is not None and wanted != "bfloat16":
        try:
            kernels, note = load_kernels(build_directory, torch.get_num_threads()), "compiled"
        except NativeUnavailable as error:
            note = str(error)
    if wanted == "native":
        if kernels is None:
            raise ModelUnavailable(f"the compiled products were asked for: {note}")
        return Compute("native_float32", torch.float32, kernels, "set in the configuration")
    choices = [Compute("float32", torch.float32, None, note)]
    if kernels is not None:
        choices.append(Compute("native_float32", torch.float32, kernels, note))
    if wanted != "float32":
        choices.append(Compute("bfloat16", torch.bfloat16, None, note))
    if wanted == "bfloat16":
        choices = choices[-1:]
    taken = [_milliseconds(shape, choice) for choice in choices]
    best = choices[min(range(len(choices)), key=taken.__getitem__)]
    figures = ", ".join(f"{c.name} {ms:.1f} ms" for c, ms in zip(choices, taken, strict=True))
    reason = f"{note}; an MLP product at {_ROWS} rows: {figures}"
    return Compute(best.name, best.dtype, best.kernels, reason)


def _milliseconds(shape: LlamaShape, choice: Compute) -> float:
    """Return the best time of each row count, added up."""
    import torch

    weight = torch.randn(2 * shape.intermediate, shape.hidden).to(torch.bfloat16)
    run: Callable[[torch.Tensor], torch.Tensor]
    if choice.kernels is not None:
        kernels, panels = choice.kernels, pack(weight)

        def run(x: torch.Tensor) -> torch.Tensor:
            return kernels.linear(x, panels)
    else:
        typed = weight.to(choice.dtype)

        def run(x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, typed)

    total = 0.0
    with torch.inference_mode():
        for rows in _ROWS:
            x = torch.randn(rows, shape.hidden).to(choice.dtype)
            times = []
            for _ in range(_REPEATS):
                began = time.perf_counter()
                run(x)
                times.append(time.perf_counter() - began)
            total += min(times)
    return total * 1000
