"""Decide where a run trains and whether it fits: its device, its memory, its turn.

Owns the device that a run takes by default, the check of its memory before it starts, and the rule
that a device has one run at a time. Invariant: a run's settings name a real device from the moment
it is requested, and whether activations are computed twice is decided then too, so a run that goes
on later goes on in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from viz.basemodel.policy import DEFAULT_POLICY
from viz.basemodel.shape import DecoderShape
from viz.basemodel.shape_reader import read_shape
from viz.basemodel.source import kept_directory
from viz.domain.work import Work
from viz.errors import InvalidRequest, ModelUnavailable
from viz.training.devices import CudaDevice, cuda_count, cuda_devices, index_of, resolve_device
from viz.training.memory import Memory, memory_of, require_memory
from viz.training.run import Bounds, TrainingSettings

# A run is planned into so much of a device's memory; where it would need more, activations are
# computed twice.
_PLANNED_PERCENT: Final = 90
_CPU: Final = "cpu"


@dataclass(frozen=True, slots=True)
class TrainingResources:
    """What a node gives to runs. ``device`` may be "auto"; a run's own setting replaces it."""

    device: str = _CPU
    bounds: Bounds = field(default_factory=Bounds)
    cache_dir: Path = Path()

    def device_of(self, request: Mapping[str, Any]) -> str:
        """Return the device that a request names, or this node's; "auto" is resolved.

        Imports torch to resolve it. Raises InvalidRequest for a CUDA device that is not here.
        """
        settings = request.get("settings")
        named = settings.get("device") if isinstance(settings, Mapping) else None
        return resolve_device(named if isinstance(named, str) else self.device)

    def waits_for(self, request: Mapping[str, Any]) -> str:
        """Return the device whose turn a run waits for.

        For one that is gone, the CPU's: the run's check says so then.
        """
        try:
            return self.device_of(request)
        except InvalidRequest:
            return _CPU

    def fit(
        self,
        works: Sequence[Work],
        settings: TrainingSettings,
        chosen: Mapping[str, Any],
        *,
        base_model: str = "",
        cuda_index: int | None = None,
    ) -> tuple[TrainingSettings, Memory | None]:
        """Return the settings with ``recompute`` decided, and the memory of the run.

        ``chosen`` are the settings that the request makes; what it says of ``recompute`` holds.
        ``base_model`` is what is trained on, read for its architecture. Without one, or where it
        was not converted yet, nothing is known of a run's memory, and nothing is refused.
        ``cuda_index`` is the device that the run has got, if it has one. Blocks. Raises
        InvalidRequest for a run that does not fit, TrainingError.
        """
        shape = self._shape(base_model)
        if shape is None:
            return settings, None
        from viz.training.estimate import largest_pack

        size = largest_pack(works, settings)
        devices = self._devices(settings.device, cuda_index)
        memory = memory_of(shape, DEFAULT_POLICY, settings, size)
        if "recompute" not in chosen and self._is_tight(memory, devices):
            settings = replace(settings, recompute=True)
            memory = memory_of(shape, DEFAULT_POLICY, settings, size)
        require_memory(
            memory,
            host_bytes=self.bounds.memory_bytes,
            device_bytes=max((each.free for each in devices), default=None),
        )
        return settings, memory

    def _is_tight(self, memory: Memory, devices: Sequence[CudaDevice]) -> bool:
        """Return whether a run is to compute activations twice: by what never changes here."""
        if devices:
            least = min(each.total for each in devices)
            return memory.device_bytes > least * _PLANNED_PERCENT // 100
        return memory.host_bytes > self.bounds.memory_bytes

    def _devices(self, device: str, cuda_index: int | None) -> tuple[CudaDevice, ...]:
        if not device.startswith("cuda"):
            return ()
        wanted = index_of(device) if cuda_index is None else cuda_index
        found = cuda_devices()
        return found if wanted is None else tuple(each for each in found if each.index == wanted)

    def _shape(self, base_model: str) -> DecoderShape | None:
        """Return the base's architecture if it is at hand; read from the cache, as a rule."""
        if not base_model:
            return None
        try:
            directory = kept_directory(base_model, self.cache_dir)
            if directory is None or not directory.is_dir():
                return None
            return read_shape(directory, self.cache_dir)
        except ModelUnavailable:
            return None  # the run itself says what is wrong with its base


class DeviceTurns:
    """Give each run a device of its own; a run waits until one that it may use is free."""

    def __init__(self) -> None:
        self._busy: set[int | str] = set()
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def take(self, device: str) -> AsyncIterator[int | None]:
        """Hold a device: the index of a CUDA device, or None for the CPU.

        "cuda" is any free one.
        """
        places: list[int | str] = [_CPU]
        if device.startswith("cuda"):
            index = index_of(device)
            count = await asyncio.to_thread(cuda_count) if index is None else 0
            places = [index] if index is not None else [*range(max(1, count))]
        async with self._changed:
            await self._changed.wait_for(lambda: any(each not in self._busy for each in places))
            taken = next(each for each in places if each not in self._busy)
            self._busy.add(taken)
        try:
            yield taken if isinstance(taken, int) else None
        finally:
            async with self._changed:
                self._busy.discard(taken)
                self._changed.notify_all()


def as_requested(request: Mapping[str, Any], settings: TrainingSettings) -> dict[str, Any]:
    """Return the request with what was decided for it: its device, and ``recompute``."""
    decided = {"device": settings.device, "recompute": settings.recompute}
    return {**request, "settings": {**(request.get("settings") or {}), **decided}}
