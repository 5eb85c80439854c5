"""Choose the arithmetic that serves: by the processor and the settings, never by a measurement.

Every choice computes the same function with the dequantised bf16 weights; float32 sums only round
less than bf16 sums. Two starts of one node choose alike, since a buyer's answer, its replay by an
auditor and the offer all name what it was computed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from viz.engine.embedded.memory_plan import Widths
from viz.engine.embedded.native.build import Kernels, NativeUnavailable, fits
from viz.errors import ModelUnavailable
from viz.processor import multiplies_bf16, read_processor

if TYPE_CHECKING:
    import torch

    from viz.basemodel.shape import DecoderShape


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

    "auto" and "float32" take the compiled pass where it can be had. It decoded fastest on the
    processors measured (AVX2, and AVX-512 without AMX: docs/engine-log.md), and it gives a request
    the same bits whatever other requests run beside it, which torch does not. Elsewhere "auto"
    takes bfloat16 if the processor multiplies it in hardware, else float32. ``build_directory``
    None forbids compiling. ``capacity`` is the most tokens of a sequence (None: the model's own
    limit). Raises ModelUnavailable if ``wanted`` is "native" and there is no compiled pass.
    """
    import torch

    if wanted == "bfloat16":
        return Backend("bfloat16", torch.bfloat16, None, "set in the configuration")
    kernels, note = _compiled(shape, build_directory, capacity or shape.context_tokens)
    if kernels is not None:
        return Backend("native_float32", torch.float32, kernels, note)
    if wanted == "native":
        raise ModelUnavailable(
            f'engine.compute is "native", but the compiled pass is not available: {note}'
        )
    if wanted == "auto" and multiplies_bf16(read_processor().flags):
        note += "; this processor multiplies bfloat16 in hardware"
        return Backend("bfloat16", torch.bfloat16, None, note)
    return Backend("float32", torch.float32, None, note)


def _compiled(
    shape: DecoderShape, build_directory: Path | None, capacity: int
) -> tuple[Kernels | None, str]:
    """Return the compiled pass and its name, or None and why it cannot be had."""
    import torch

    from viz.engine.embedded.native_check import load_kernels

    if not fits(shape.head_dim, shape.hidden, shape.intermediate):
        return None, "the compiled pass does not support this model's sizes"
    if not shape.is_llama(capacity):
        return None, "the compiled pass supports only models like Llama"
    if build_directory is None:
        return None, "compiling is off"
    try:
        kernels = load_kernels(build_directory, torch.get_num_threads())
    except NativeUnavailable as error:
        return None, str(error)
    return kernels, f"compiled as {kernels.name}"
