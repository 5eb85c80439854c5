"""Measure how fast this machine multiplies matrices now, to estimate the time of a run.

A step spends most of its time in matrix products. So the time of one product of a layer's size
shows the difference between machines, and between a busy and an idle machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from viz.domain.ports.engine import BaseModel
from viz.training.devices import cuda_devices, index_of

# A pack of rows by a layer's weights: (rows, into) by (into, out).
_ROWS, _INTO, _OUT = 512, 768, 2_048
_MEASURED_S: Final = 0.6
_LEAST_PRODUCTS: Final = 3
# Measured on two cores, in float32, of the machine of docs/training-log.md.
REFERENCE_SECONDS_A_PRODUCT: Final = 1.3e-11
# The default base: 30 layers with seven linear layers, and its output layer.
_REFERENCE_LAYERS, _REFERENCE_HEAD = 106_168_320, 28_311_552


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds for one multiplication with its addition, with all threads of a run.

    ``layer_weights`` and ``head_weights`` are the multiplications per token in the base's linear
    layers and in its output layer.
    """

    seconds_a_product: float = REFERENCE_SECONDS_A_PRODUCT
    layer_weights: int = _REFERENCE_LAYERS
    head_weights: int = _REFERENCE_HEAD


def pace_of(base: BaseModel | None, threads: int, device: str = "cpu") -> Pace:
    """Return the pace of a run with ``threads`` on ``base``, measured now; takes about a second.

    Without torch, or for a base of unknown size, the reference machine's values are used. On CUDA
    a child process measures it, in bfloat16. Raises TrainingError if that fails.
    """
    known = Pace()
    sizes = (known.layer_weights, known.head_weights)
    if base is not None and base.layer_weights:
        sizes = (base.layer_weights, base.head_weights)
    if device.startswith("cuda"):
        wanted = index_of(device) or 0
        found = {each.index: each.seconds_a_product for each in cuda_devices()}
        return Pace(found.get(wanted, known.seconds_a_product), *sizes)
    try:
        import torch
    except ImportError:
        return Pace(known.seconds_a_product, *sizes)
    left, right = torch.ones(_ROWS, _INTO), torch.ones(_INTO, _OUT)
    left @ right  # the first product also allocates memory
    began, made = time.perf_counter(), 0
    while made < _LEAST_PRODUCTS or time.perf_counter() - began < _MEASURED_S:
        left @ right
        made += 1
    here = (time.perf_counter() - began) / (made * _ROWS * _INTO * _OUT)
    return Pace(here * torch.get_num_threads() / min(threads, 16), *sizes)
