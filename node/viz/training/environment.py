"""Name what else decides an adapter's bytes: versions, threads, CPU class and flags.

Owns the deterministic set-up of a worker process and the description that a manifest records.
Does not know runs. Invariant: two environments with equal ``describe`` are expected to give the
same bytes for the same recipe; that is the reproducibility class, ``bitwise-same-cpu-class`` or
``bitwise-same-gpu-model`` (processor, GPU model, CUDA version and packages alike). An entry is
added or renamed together with a new RECIPE: audits hold a manifest to this list.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from viz.errors import TrainingError
from viz.processor import multiplies_bf16, read_processor

if TYPE_CHECKING:
    import torch

    from viz.training.run import TrainingSettings

# Those that decide a row, a token or a product.
PACKAGES: Final = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "safetensors",
    "numpy",
    "regex",
    "sentencex",
    "tokenizers",
)
_CPU_CLASS: Final = "bitwise-same-cpu-class"
# By PyTorch's deterministic kernels. No GPU has shown it yet (docs/training.md, "Device").
_CUDA_CLASS: Final = "bitwise-same-gpu-model"
# Raised whenever the same works and settings would train other bytes (the conversion to rows, the
# arithmetic of a step): an audit by another recipe is inconclusive, not an accusation.
RECIPE: Final = 5
_VECTOR_FLAGS: Final = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "sve", "bf16", "i8mm")


def reproducibility_class(device: str) -> str:
    """Return the name of what must be alike for a run on ``device`` to give the same bytes."""
    return _CUDA_CLASS if device.startswith("cuda") else _CPU_CLASS


def child_environment(settings: TrainingSettings) -> dict[str, str]:
    """Return the environment variables that must be set before torch is imported."""
    threads = str(settings.threads)
    return {
        "OMP_NUM_THREADS": threads,
        # A thread that waits for the others sleeps at once: even a short spin keeps the core that
        # they need, where there is other work.
        "GOMP_SPINCOUNT": "0",
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # Less of the device's memory is lost between blocks of different sizes.
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONHASHSEED": "0",
    }


def make_deterministic(settings: TrainingSettings) -> None:
    """Set thread count, seeds and deterministic kernels for this process.

    Uninitialised memory is not filled: no kernel here reads it, and the fill cost 17 % of a step.
    """
    import torch

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def require_device(settings: TrainingSettings) -> None:
    """Raise TrainingError if this machine does not have the device in the settings."""
    import torch

    if settings.device == "cpu":
        return
    place = torch.device(settings.device).index or 0
    if not torch.cuda.is_available() or place >= torch.cuda.device_count():
        raise TrainingError(
            f"the run's device is {settings.device}, and this machine has none that torch can use: "
            "run it on a machine that has; another device gives other weights"
        )


def compute_dtype(settings: TrainingSettings) -> torch.dtype:
    """Return what activations and products are computed in.

    ``auto``: bfloat16 on CUDA, else float32. A processor with AMX multiplies bfloat16 faster, but a
    step there is not: what lies between the products takes as long (docs/training-log.md).
    """
    import torch

    if settings.compute != "auto":
        return torch.float32 if settings.compute == "float32" else torch.bfloat16
    return torch.bfloat16 if settings.device.startswith("cuda") else torch.float32


def describe(settings: TrainingSettings) -> dict[str, Any]:
    """Return the environment as JSON values.

    The vendor and the vector instructions are in it because the libraries choose their kernels,
    and so the order of sums, by them; PyTorch's class does not tell AMX from AVX-512.
    """
    import torch

    processor = read_processor()
    return {
        "recipe": RECIPE,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "system": f"{platform.system()}-{platform.machine()}",
        "threads": settings.threads,
        "device": settings.device,
        "cpuCapability": os.environ.get("ATEN_CPU_CAPABILITY")
        or torch.backends.cpu.get_cpu_capability(),
        "onednnMaxCpuIsa": os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL"),
        "cpuVendor": processor.vendor,
        "cpuFlags": sorted(filter(is_vector_flag, processor.flags)),
        "bf16Hardware": multiplies_bf16(processor.flags),
        "compute": str(compute_dtype(settings)).removeprefix("torch."),
        "deterministicAlgorithms": True,
        **(_cuda(settings.device) if settings.device.startswith("cuda") else {}),
    }


def _cuda(device: str) -> dict[str, Any]:
    import torch

    return {
        "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name(device),
        "gpuCapability": list(torch.cuda.get_device_capability(device)),
    }


def is_vector_flag(flag: str) -> bool:
    """Return whether a processor's flag is one by which the libraries choose their kernels."""
    return flag.startswith(_VECTOR_FLAGS)
