"""Which adapters exist, which are in memory, and how they get there.

Owns the register (id -> file), residency with least-recently-used eviction, and loading on a
thread of its own, off the generation thread. Does not know batches. Invariants: a file is checked
whole each time it is loaded and must not have changed since it was registered; adapters in use
are never evicted; memory held by residents stays within the budget unless every one is in use.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from viz.basemodel.adapter_file import AdapterWeights, read_adapter
from viz.domain.units import AdapterId
from viz.errors import EngineError, InvalidAdapterFile

if TYPE_CHECKING:
    import torch

    from viz.basemodel.shape import LlamaShape
    from viz.basemodel.source import LoadedBase

RANK_BUCKETS: Final = (8, 16, 32, 64)
# Linear layers that read the same input are applied together: group -> its layers.
GROUPS: Final = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def bucket_of(rank: int) -> int:
    """Return the smallest rank bucket that holds ``rank``."""
    return next(bucket for bucket in RANK_BUCKETS if rank <= bucket)


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """An adapter in memory, padded to its rank bucket.

    ``down[group]`` is (layers, members * rank, in), ``up[linear]`` (layers, rank, out) with the
    LoRA scaling folded in. In float16 both are scaled to its range, and their product is to be
    multiplied by ``factors[linear]``, a power of two; in other dtypes that is 1.
    """

    adapter_id: AdapterId
    rank: int
    down: dict[str, torch.Tensor]
    up: dict[str, torch.Tensor]
    factors: dict[str, float]

    @property
    def size_bytes(self) -> int:
        tensors = (*self.down.values(), *self.up.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    identity: tuple[int, int, int]


class AdapterStore:
    """The registered adapters of one base. Thread-safe; loads happen on its own thread."""

    def __init__(
        self, base: LoadedBase, dtype: torch.dtype, *, max_resident: int, max_bytes: int
    ) -> None:
        self._base, self._dtype = base, dtype
        self._max_resident, self._max_bytes = max_resident, max_bytes
        self._files: dict[AdapterId, _File] = {}
        self._resident: OrderedDict[AdapterId, Resident] = OrderedDict()
        self._in_use: dict[AdapterId, int] = {}
        self._loading: dict[AdapterId, Future[None]] = {}
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="viz-adapters")
        self.loads = self.evictions = 0

    def register(self, adapter_id: AdapterId, path: Path) -> None:
        """Check the whole file and make it usable; blocking. Raises InvalidAdapterFile."""
        resident = self._build(adapter_id, path)
        with self._lock:
            self._files[adapter_id] = _File(path, _identity(path))
            self._keep(resident)

    def remove(self, adapter_id: AdapterId) -> None:
        """Forget the adapter; sequences that already run with it finish. Idempotent."""
        with self._lock:
            self._files.pop(adapter_id, None)
            self._resident.pop(adapter_id, None)

    def registered(self) -> frozenset[AdapterId]:
        with self._lock:
            return frozenset(self._files)

    @property
    def resident_count(self) -> int:
        return len(self._resident)

    def is_resident(self, adapter_id: AdapterId) -> bool:
        return adapter_id in self._resident

    def acquire(self, adapter_id: AdapterId) -> Resident | None:
        """Return the adapter if it is in memory, marking it in use until ``release``."""
        with self._lock:
            found = self._resident.get(adapter_id)
            if found is not None:
                self._resident.move_to_end(adapter_id)
                self._in_use[adapter_id] = self._in_use.get(adapter_id, 0) + 1
            return found

    def release(self, adapter_id: AdapterId) -> None:
        with self._lock:
            left = self._in_use.get(adapter_id, 1) - 1
            if left:
                self._in_use[adapter_id] = left
            else:
                self._in_use.pop(adapter_id, None)
                self._trim(keep=adapter_id)

    def load(
        self, adapter_id: AdapterId, done: Callable[[AdapterId, EngineError | None], None]
    ) -> None:
        """Bring the adapter into memory on the loader thread, then call ``done`` there."""
        with self._lock:
            if adapter_id not in self._loading:
                self._loading[adapter_id] = self._loader.submit(self._load, adapter_id, done)

    def close(self) -> None:
        self._loader.shutdown(wait=True, cancel_futures=True)

    def _load(
        self, adapter_id: AdapterId, done: Callable[[AdapterId, EngineError | None], None]
    ) -> None:
        error: EngineError | None = None
        try:
            with self._lock:
                file = self._files.get(adapter_id)
            if file is None:
                raise EngineError(f"adapter {adapter_id} was removed while it was asked for")
            if _identity(file.path) != file.identity:
                raise InvalidAdapterFile(f"{file.path.name} changed after it was registered")
            resident = self._build(adapter_id, file.path)
            with self._lock:
                self.loads += 1
                if adapter_id in self._files:
                    self._keep(resident)
        except EngineError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - one bad file must not end the loader
            error = EngineError(f"adapter {adapter_id} cannot be loaded: {type(raised).__name__}")
        with self._lock:
            self._loading.pop(adapter_id, None)
        done(adapter_id, error)

    def _keep(self, resident: Resident) -> None:
        self._resident[resident.adapter_id] = resident
        self._resident.move_to_end(resident.adapter_id)
        self._trim(keep=resident.adapter_id)

    def _trim(self, keep: AdapterId) -> None:
        held = sum(other.size_bytes for other in self._resident.values())
        for adapter_id in list(self._resident):
            if len(self._resident) <= self._max_resident and held <= self._max_bytes:
                return
            if adapter_id not in self._in_use and adapter_id != keep:
                held -= self._resident.pop(adapter_id).size_bytes
                self.evictions += 1

    def _build(self, adapter_id: AdapterId, path: Path) -> Resident:
        base = self._base
        weights = read_adapter(path, base.shape, base.digest, max_rank=RANK_BUCKETS[-1])
        return stack(adapter_id, weights, base.shape, self._dtype)


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidAdapterFile(f"{path.name} cannot be read: {error.strerror}") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def stack(
    adapter_id: AdapterId, weights: AdapterWeights, shape: LlamaShape, dtype: torch.dtype
) -> Resident:
    """Lay out checked weights, padded to their bucket."""
    import torch

    rank = bucket_of(weights.header.rank)
    resident = Resident(adapter_id, rank, {}, {}, {})
    for group, members in GROUPS.items():
        into = shape.linear(members[0])[1]
        down = torch.zeros(shape.layers, len(members) * rank, into, dtype=dtype)
        resident.down[group] = down
        for place, linear in enumerate(members):
            up = torch.zeros(shape.layers, rank, shape.linear(linear)[0], dtype=dtype)
            lower, upper = _by_rank(weights, linear, shape.layers)
            down_lift, up_lift = (_lift(part, dtype) for part in (lower, upper))
            resident.up[linear] = up
            resident.factors[linear] = 1.0 / (down_lift * up_lift)
            for own, (layers, stacked) in lower.items():
                rows = slice(place * rank, place * rank + own)
                down[layers, rows] = stacked if down_lift == 1.0 else stacked * down_lift
            for own, (layers, stacked) in upper.items():
                up[layers, :own] = (stacked if up_lift == 1.0 else stacked * up_lift).transpose(
                    1, 2
                )
    return resident


_Stacks = dict[int, tuple["slice | list[int]", "torch.Tensor"]]


def _by_rank(weights: AdapterWeights, linear: str, layers: int) -> tuple[_Stacks, _Stacks]:
    """Return rank -> (layers, As) and rank -> (layers, Bs times the LoRA scaling) of a linear.

    All layers of one rank together: copying them one by one costs more than reading them.
    """
    import torch

    found: dict[int, list[tuple[int, torch.Tensor, torch.Tensor]]] = {}
    for layer in range(layers):
        if (pair := weights.modules.get(f"model.layers.{layer}.{linear}")) is not None:
            found.setdefault(pair[0].shape[0], []).append((layer, *pair))
    lower: _Stacks = {}
    upper: _Stacks = {}
    for own, parts in found.items():
        # A slice writes in one go where a list of places scatters.
        places = slice(None) if len(parts) == layers else [layer for layer, _, _ in parts]
        lower[own] = places, torch.stack([a for _, a, _ in parts])
        scaled = torch.stack([b for _, _, b in parts]).float()  # rounded once, after scaling
        upper[own] = places, scaled.mul_(weights.header.scaling(own))
    return lower, upper


def _lift(stacks: _Stacks, dtype: torch.dtype) -> float:
    """Return the power of two that brings the largest value into float16's top octaves, else 1.

    float16 then holds 11 significant bits of every value down to a 2**-28th of the largest.
    """
    import torch

    if dtype != torch.float16:
        return 1.0
    bounds = [float(bound) for _, part in stacks.values() for bound in part.aminmax()]
    largest = max((abs(bound) for bound in bounds), default=0.0)
    # Within float32's exponents, whatever the file holds.
    return 2.0 ** (15 - max(-80, min(80, math.frexp(largest)[1])))
