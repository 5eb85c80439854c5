"""Choose the fastest arithmetic for this processor by a short measurement at start.

Every choice computes the same function with the dequantised bf16 weights; float32 sums only round
less than bf16 sums.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from viz.engine.embedded.memory_plan import Widths
from viz.engine.embedded.native import Kernels, NativeUnavailable, fits, pack
from viz.errors import ModelUnavailable

if TYPE_CHECKING:
    import torch

    from viz.basemodel.shape import DecoderShape

_ROWS = (1, 8, 32)
_REPEATS = 12
# How many times as fast as the compiled pass another choice's products must be. The compiled pass
# also takes less time between the products, and it gives a request the same bits whatever other
# requests run beside it, which torch does not.
_LEAD = 1.5


@dataclass(frozen=True, slots=True)
class Backend:
    """An arithmetic: the dtype of activations and caches, and the compiled pass (None: torch)."""

    name: str
    dtype: torch.dtype
    kernels: Kernels | None
    reason: str

    @property
    def adapter_dtype(self) -> torch.dtype:
        """The dtype of adapters in memory."""
        import torch

        return self.dtype if self.kernels is None else torch.float16

    @property
    def widths(self) -> Widths:
        """The bytes per number; the compiled pass reads bf16 weights and does not copy adapters."""
        compiled = self.kernels is not None
        weight = 2 if compiled else self.dtype.itemsize
        adapter = self.adapter_dtype.itemsize
        return Widths(
            weight, self.dtype.itemsize, adapter, lanes=not compiled, embeds_by_head=compiled
        )


def choose_backend(
    shape: DecoderShape,
    wanted: Literal["auto", "float32", "bfloat16", "native"],
    build_directory: Path | None,
    *,
    capacity: int | None = None,
) -> Backend:
    """Choose between torch in float32, torch in bfloat16 and the compiled pass (float32 sums).

    ``build_directory`` None forbids compiling. ``capacity`` is the most tokens of a sequence (None:
    the model's own limit). The compiled pass is chosen unless another is much faster, so that two
    nearly equal measurements do not decide what is served. The reason says what was measured or
    missing. Raises ModelUnavailable if ``wanted`` is "native" and the compiled pass is not
    available.
    """
    import torch

    from viz.engine.embedded.native_check import load_kernels

    kernels, note = None, "compiling is off"
    sized = fits(shape.head_dim, shape.hidden, shape.intermediate)
    if not sized:
        note = "the compiled pass does not support this model's sizes"
    elif not shape.is_llama(capacity or shape.context_tokens):
        note = "the compiled pass supports only models like Llama"
    elif build_directory is not None and wanted != "bfloat16":
        try:
            kernels = load_kernels(build_directory, torch.get_num_threads())
            note = f"compiled as {kernels.name}"
        except NativeUnavailable as error:
            note = str(error)
    if wanted == "native":
        if kernels is None:
            raise ModelUnavailable(
                f'engine.compute is "native", but the compiled pass is not available: {note}'
            )
        return Backend("native_float32", torch.float32, kernels, "set in the configuration")
    choices = [Backend("float32", torch.float32, None, note)]
    if kernels is not None:
        choices.append(Backend("native_float32", torch.float32, kernels, note))
    if wanted != "float32":
        choices.append(Backend("bfloat16", torch.bfloat16, None, note))
    if wanted == "bfloat16":
        choices = choices[-1:]
    taken = _milliseconds(shape, choices)
    weighed = [ms / _LEAD if each.kernels else ms for each, ms in zip(choices, taken, strict=True)]
    best = choices[weighed.index(min(weighed))]
    figures = ", ".join(f"{c.name} {ms:.1f} ms" for c, ms in zip(choices, taken, strict=True))
    reason = f"{note}; an MLP product at {_ROWS} rows: {figures}"
    return Backend(best.name, best.dtype, best.kernels, reason)


def _milliseconds(shape: DecoderShape, choices: list[Backend]) -> list[float]:
    """Return for each choice the sum of its best times of each row count, in milliseconds.

    The choices take turns, so that other load on the machine affects all of them alike.
    """
    import torch

    weight = torch.randn(2 * shape.intermediate, shape.hidden).to(torch.bfloat16)
    products = [_product(weight, choice) for choice in choices]
    totals = [0.0] * len(choices)
    with torch.inference_mode():
        for rows in _ROWS:
            best = [float("inf")] * len(choices)
            for _ in range(_REPEATS):
                for place, (choice, product) in enumerate(zip(choices, products, strict=True)):
                    x = torch.randn(rows, shape.hidden).to(choice.dtype)
                    began = time.perf_counter()
                    product(x)
                    best[place] = min(best[place], time.perf_counter() - began)
            totals = [total + 1000 * ms for total, ms in zip(totals, best, strict=True)]
    return totals


def _product(weight: torch.Tensor, choice: Backend) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    if choice.kernels is not None:
        return partial(choice.kernels.linear, panels=pack(weight))
    return partial(torch.nn.functional.linear, weight=weight.to(choice.dtype))
