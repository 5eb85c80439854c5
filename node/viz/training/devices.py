"""Which devices a run can train on, and which one it takes.

Owns the choice of a device and of the settings that follow from it. Invariant: a setting names a
real device, never "auto". The memory of a device is asked for in a child process, because a process
that asks keeps some hundred MiB of the device for itself:
``python -m viz.training.devices`` prints it as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from viz import errors
from viz.errors import InvalidRequest, TrainingError

AUTO: Final = "auto"
_ASKING_S: Final = 120.0
# A pack of tokens by a layer's weights, so often.
_SIZES: Final = ((1_024, 4_096), (4_096, 4_096))
_PRODUCTS: Final = 50


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One CUDA device; ``free`` and ``total`` are bytes.

    ``seconds_a_product`` is the time of one multiplication with its addition, in bfloat16.
    """

    index: int
    name: str
    free: int
    total: int
    seconds_a_product: float


def cuda_count() -> int:
    """Return how many CUDA devices torch can use here; 0 without torch. Imports torch."""
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def resolve_device(wanted: str) -> str:
    """Return a real device: "auto" is cuda where torch can use it, else cpu.

    Raises InvalidRequest for a CUDA device that is not here.
    """
    if wanted != AUTO and not wanted.startswith("cuda"):
        return wanted
    count = cuda_count()
    if wanted == AUTO:
        return "cuda" if count else "cpu"
    place = index_of(wanted)
    if (0 if place is None else place) >= count:
        raise InvalidRequest(
            f"the device {wanted} is not here (torch can use {count} CUDA devices): set "
            'training.device, or the run\'s own device, to "cpu" or to one that is'
        )
    return wanted


def index_of(device: str) -> int | None:
    """Return N of ``cuda:N``; None for "cuda", which is any of them, and for "cpu"."""
    _, colon, place = device.partition(":")
    return int(place) if colon and place.isdecimal() else None


def defaults_on(device: str) -> Mapping[str, Any]:
    """Return the settings that a device's runs have by default."""
    if not device.startswith("cuda"):
        return {"device": device}
    return {"device": device, "weights": "nf4", "optimizer": "paged_adamw"}


def cuda_devices() -> tuple[CudaDevice, ...]:
    """Return the CUDA devices with their memory as it is now. Blocks for seconds.

    Raises TrainingError if the child process cannot tell it.
    """
    source = str(Path(errors.__file__).parent.parent)
    try:
        told = subprocess.run(
            [sys.executable, "-c", _ASK.format(source=source)],
            capture_output=True,
            check=True,
            timeout=_ASKING_S,
        ).stdout
        return tuple(CudaDevice(**each) for each in json.loads(told))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        raise TrainingError(
            f"the memory of the CUDA devices cannot be read ({type(error).__name__}): see that "
            "torch finds them (python -c 'import torch; print(torch.cuda.mem_get_info())')"
        ) from error


_ASK: Final = (
    "import sys; sys.path.insert(0, {source!r}); from viz.training.devices import main; main()"
)


def _seconds_a_product(index: int) -> float:
    """Time products of a pack of rows and a layer's weights."""
    import torch

    left, right = (torch.ones(s, device=f"cuda:{index}", dtype=torch.bfloat16) for s in _SIZES)
    for _ in range(_PRODUCTS):  # the first ones choose a kernel
        left @ right
    torch.cuda.synchronize(index)
    began = time.perf_counter()
    for _ in range(_PRODUCTS):
        left @ right
    torch.cuda.synchronize(index)
    products = _PRODUCTS * left.shape[0] * right.numel()
    return (time.perf_counter() - began) / products


def main() -> None:
    """Print the CUDA devices of this process as JSON."""
    import torch

    found = []
    for index in range(cuda_count()):
        free, total = torch.cuda.mem_get_info(index)
        pace = _seconds_a_product(index)
        found.append(CudaDevice(index, torch.cuda.get_device_name(index), free, total, pace))
    sys.stdout.write(json.dumps([asdict(each) for each in found]))


if __name__ == "__main__":
    main()
