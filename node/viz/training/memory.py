"""How much memory a run will need, on the host and on a CUDA device, before it runs.

Owns a count of what is in memory at the peak of a step: by the base's architecture, the settings
and the size of a pack. It follows what PyTorch keeps for the backward pass of each operation of
transformers' layers with PEFT's LoRA. Constants of the program and of the libraries were measured
on CPUs (docs/training.md, "Memory"). Does not know files or devices. An estimate, printed as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from viz.errors import InvalidRequest
from viz.training.evaluate import PROMPTS_PER_BATCH, TOKENS_PER_BATCH
from viz.training.recompute import SLICE

if TYPE_CHECKING:
    from viz.basemodel.policy import QuantisationPolicy
    from viz.basemodel.shape import DecoderShape
    from viz.training.run import TrainingSettings

MIB: Final = 1 << 20
# Interpreter, torch, transformers, PEFT and bitsandbytes, with the works' rows: resident.
_PROGRAM: Final = 870 * MIB
# The same with the CUDA libraries, and the context that they keep on the device. Not measured.
_CUDA_PROGRAM: Final = 2_048 * MIB
_CUDA_CONTEXT: Final = 640 * MIB
# Memory that allocators hold beyond what is in use at the peak: malloc's heap (measured), and
# CUDA's caching allocator (not measured).
_HELD_BY_MALLOC: Final = 0.3
_HELD_BY_CUDA: Final = 0.1
# Statistics of blocks are quantised again, in blocks of this size (bitsandbytes).
_STATISTICS_BLOCK: Final = 256
# Quantising on the host takes so many bytes for each value of one weight, beyond the weight.
_QUANTISING_BYTES: Final = 16
# Of an answer to a question.
_ANSWER_TOKENS: Final = 64
# Weights, their gradients, two moments, and the best state so far; all in float32.
_COPIES: Final = 5


@dataclass(frozen=True, slots=True)
class PackSize:
    """The largest pack: ``rows`` rows of at most ``longest`` tokens behind ``common`` shared ones.

    ``tokens`` counts all, the shared ones once; ``learned`` are the positions that have a loss.
    """

    rows: int
    tokens: int
    longest: int
    common: int
    learned: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak, by what they are for. ``device`` is empty for a run on the CPU."""

    host: Mapping[str, int]
    device: Mapping[str, int]

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())


def memory_of(
    shape: DecoderShape, policy: QuantisationPolicy, settings: TrainingSettings, size: PackSize
) -> Memory:
    """Return the memory of a run whose largest pack is ``size``."""
    width = 2 if _computes_bf16(settings) else 4
    model = {
        "weights": _weights(shape, policy, settings, width),
        "embeddings and norms": _embeddings(shape, width),
        "adapter and optimiser": adapter_parameters(shape, settings) * 4 * _COPIES,
        "activations": kept_activations(shape, settings, size),
        "logits": _logits(shape, settings, size, width),
        "workspace": _workspace(shape, settings, size, width),
    }
    passing = model["activations"] + model["logits"] + model["workspace"]
    model["answers"] = max(0, _answers(shape, size, width) - passing)
    held = _HELD_BY_CUDA if settings.device.startswith("cuda") else _HELD_BY_MALLOC
    model["held by the allocator"] = int(held * sum(model.values()))
    largest = max(out * into for _, out, into in shape.linears)
    loading = max(largest * _QUANTISING_BYTES, 4 * shape.vocabulary * shape.hidden)
    if not settings.device.startswith("cuda"):
        # What loading needs is free again before the first step.
        more = {"loading": max(0, loading - passing)} if settings.weights == "nf4" else {}
        return Memory(host={"program": _PROGRAM, **model, **more}, device={})
    host = {"program": _CUDA_PROGRAM, "loading": loading}
    return Memory(host=host, device={"context": _CUDA_CONTEXT, **model})


def require_memory(memory: Memory, *, host_bytes: int, device_bytes: int | None = None) -> None:
    """Raise InvalidRequest, with what to lower, if a run needs more than there is.

    ``host_bytes`` is the bound of a run; ``device_bytes`` what is free on its device, if known.
    """
    if memory.host_bytes > host_bytes:
        raise InvalidRequest(
            f"the run needs about {memory.host_bytes // MIB} MiB of memory, and "
            f"training.max_memory_mib allows {host_bytes // MIB}: {_advice(memory)}, or raise "
            "the bound"
        )
    if device_bytes is not None and memory.device_bytes > device_bytes:
        raise InvalidRequest(
            f"the run needs about {memory.device_bytes // MIB} MiB on its device, where "
            f"{device_bytes // MIB} are free: {_advice(memory)}, or end what else uses the device"
        )


def _advice(memory: Memory) -> str:
    """Return what to change, by what takes most."""
    parts = memory.device or memory.host
    passing = parts["activations"] + parts["logits"] + parts["workspace"]
    if passing > parts["weights"] + parts["embeddings and norms"]:
        return "set recompute=true, lower rows_per_step or max_row_tokens"
    return "set weights=nf4 and recompute=true, lower rows_per_step, or train on a smaller base"


def adapter_parameters(shape: DecoderShape, settings: TrainingSettings) -> int:
    """Return how many numbers the adapter has."""
    a_layer = sum(settings.rank * (out + into) for _, out, into in shape.linears)
    return a_layer * _trained(shape, settings)


def _trained(shape: DecoderShape, settings: TrainingSettings) -> int:
    return max(1, round(shape.layers * settings.trained_layers))


def _computes_bf16(settings: TrainingSettings) -> bool:
    if settings.compute == "auto":
        return settings.device.startswith("cuda")
    return settings.compute == "bfloat16"


def _weights(
    shape: DecoderShape, policy: QuantisationPolicy, settings: TrainingSettings, width: int
) -> int:
    """Return the bytes of the linear layers: four bits and statistics, or whole."""
    block = policy.block_size
    # A block's statistic is one byte, and four for each block of statistics.
    statistic = 1 + 4 / _STATISTICS_BLOCK if policy.double_quantised else 4
    packed = 0.5 + statistic / block
    total = 0.0
    for module, (out, into) in shape.modules():
        is_packed = settings.weights == "nf4" and policy.quantises(module)
        total += out * into * (packed if is_packed else width)
    return int(total)


def _embeddings(shape: DecoderShape, width: int) -> int:
    tables = 1 if shape.tied else 2
    return width * shape.hidden * (tables * shape.vocabulary + 4 * shape.layers)


def kept_activations(shape: DecoderShape, settings: TrainingSettings, size: PackSize) -> int:
    """Return the bytes kept for the backward pass: of every layer that learns, or of one."""
    width = 2 if _computes_bf16(settings) else 4
    layer, layers = _layer(shape, settings, size, width), _trained(shape, settings)
    if settings.recompute:
        return layer + layers * size.tokens * shape.hidden * width
    return layer * layers


def _layer(shape: DecoderShape, settings: TrainingSettings, size: PackSize, width: int) -> int:
    """Return what one layer keeps for its backward pass.

    The adapter computes in float32. In bfloat16 each LoRA module keeps its own float32 copy of its
    input; in float32 those with the same input share it.
    """
    hidden, inner = shape.hidden, shape.intermediate
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * hidden + (queries + keys if shape.head_norms else 0)
    norms += 2 * hidden if shape.output_norms else 0
    inputs = (2 * hidden if width == 4 else 5 * hidden) + queries + inner
    a_token = 4 * (norms + inputs + settings.rank * len(shape.linears)) + width * 3 * inner
    seen = size.common + size.longest
    padded = (size.rows + 1) * size.longest
    attention = padded * 2 * queries + (size.rows + 1) * seen * 2 * keys
    scores = padded * seen * shape.heads
    total = a_token * size.tokens + width * attention
    if shape.attention_cap:  # tanh and softmax in float32, or softmax twice and tanh in bfloat16
        return total + 8 * scores
    mask = scores // shape.kv_heads
    return total + width * mask


def _logits(shape: DecoderShape, settings: TrainingSettings, size: PackSize, width: int) -> int:
    """Return the bytes of logits, their logarithms and gradients, where the head runs."""
    positions = min(size.learned, SLICE) if settings.recompute else size.learned
    # float32: logits, logarithms, gradients of both losses; in bfloat16 the product and its
    # gradient besides.
    a_logit = 16 if width == 4 else 20
    return a_logit * positions * shape.vocabulary


def _workspace(shape: DecoderShape, settings: TrainingSettings, size: PackSize, width: int) -> int:
    """Return what is in use for a moment: gradients of a layer, a weight, answers of a batch."""
    largest = max(out * into for _, out, into in shape.linears)
    weight = largest * (2 + (4 if width == 4 else 0)) if settings.weights == "nf4" else 0
    gradients = 3 * 4 * size.tokens * shape.intermediate
    return weight + gradients


def _answers(shape: DecoderShape, size: PackSize, width: int) -> int:
    """Return what is needed while a batch of questions is answered: caches and logits."""
    keys = shape.kv_heads * shape.head_dim
    tokens = PROMPTS_PER_BATCH * (size.common + size.longest + _ANSWER_TOKENS)
    caches = 2 * min(tokens, TOKENS_PER_BATCH) * shape.layers * keys * width
    return caches + PROMPTS_PER_BATCH * shape.vocabulary * (width + 4)
