"""Keep a linear layer's weights packed in NF4, and compute with what serving dequantises.

Owns one layer type. Does not know models. Import it only to train with ``weights='nf4'``: it
imports bitsandbytes. Why not bitsandbytes' own forward (0.50.2, CPU): with float32 activations it
multiplies by weights that are not rounded to bf16, which is neither what it uses in the backward
pass nor what is served; and in ``eval()`` mode it repacks the weights in place
(docs/adr/0007-training.md, "Never eval()"). Invariant: forward and backward use the same weights,
bf16(dequantise(NF4(w))).
"""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch

from viz.basemodel.nf4 import dequantise, quantise
from viz.basemodel.policy import QuantisationPolicy


class _Product(torch.autograd.Function):
    """x @ W.T with W dequantised anew in each direction, so that it is never kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, state: Any) -> torch.Tensor:
        ctx.state = state
        ctx.save_for_backward(packed)
        return torch.nn.functional.linear(x, dequantise(packed, state).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (packed,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient @ dequantise(packed, ctx.state).to(gradient.dtype), None, None


class ServedLinear4bit(bnb.nn.Linear4bit):  # type: ignore[misc]
    """bitsandbytes' storage, serving's arithmetic."""

    def take(self, weight: torch.Tensor, policy: QuantisationPolicy, device: str) -> None:
        """Quantise a weight (out, in) in bf16 on the host, and keep it packed on ``device``."""
        packed, state = quantise(weight, policy)
        state.to(device)
        self.weight = bnb.nn.Params4bit(
            packed.to(device),
            requires_grad=False,
            quant_state=state,
            blocksize=policy.block_size,
            compress_statistics=policy.double_quantised,
            quant_type="nf4",
            module=self,
            bnb_quantized=True,
        )
        self.quant_state = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product; inputs (..., in), outputs (..., out) in the input's dtype."""
        product: torch.Tensor = _Product.apply(x, self.weight.data, self.weight.quant_state)
        return product if self.bias is None else product + self.bias
