"""Run the decoder through the compiled forward pass: one call a step, for all layers.

Owns the weights in the library's layout, and the addresses that it gets. Invariant: every tensor
whose address the library gets is kept alive during the call, here or by the caller of ``run``.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from viz.engine.embedded.loaded_adapter import GROUPS
from viz.engine.embedded.native.build import pack

if TYPE_CHECKING:
    import torch

    from viz.basemodel.shape import DecoderShape
    from viz.engine.embedded.kv_cache import KvCache
    from viz.engine.embedded.loaded_adapter import LoadedAdapter
    from viz.engine.embedded.native.build import Kernels

_Fields = Sequence[tuple[str, Any]]


class _LayerStruct(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        (name, ctypes.c_void_p) for name in ("norm", "mlp_norm", "qkv", "o", "gate_up", "down")
    ]


class _ModelStruct(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        *(
            (name, ctypes.c_long)
            for name in (
                "layers",
                "hidden",
                "intermediate",
                "heads",
                "kv_heads",
                "dim",
                "vocabulary",
                "capacity",
                "slots",
            )
        ),
        ("epsilon", ctypes.c_float),
        *(
            (name, ctypes.c_void_p)
            for name in ("layer", "norm", "head", "cosines", "sines", "keys", "values")
        ),
    ]


class _AdapterStruct(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("rank", ctypes.c_long),
        ("down", ctypes.c_void_p * 4),
        ("up", ctypes.c_void_p * 7),
        ("factor", ctypes.c_float * 7),
    ]


class _BatchStruct(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        ("rows", ctypes.c_long),
        ("wanted", ctypes.c_long),
        *(
            (name, ctypes.c_void_p)
            for name in ("slots", "positions", "last", "adapters", "x", "logits", "room")
        ),
    ]


class _Arena:
    """Holds the weights in huge pages, if the system has them: far fewer address look-ups."""

    def __init__(self, size_bytes: int) -> None:
        import torch

        # Private memory, because most systems do not give huge pages for shared memory.
        memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes, self._used = torch.frombuffer(memory, dtype=torch.uint8), 0

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a contiguous tensor to the next free place; return the copy."""

        size = tensor.numel() * tensor.itemsize
        target = self._bytes[self._used : self._used + size].view(tensor.dtype).view(tensor.shape)
        self._used += size + -size % 64
        target.copy_(tensor)
        return target


def _rows_of(panels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rows of the weight that ``pack`` made panels of: (rows, depth)."""
    # Word w of a panel holds its columns w and w + 8.
    return panels[rows // 16, :, rows % 8, rows // 8 % 2]


class NativeModel:
    """The base model and its slot cache in the compiled library's layout."""

    def __init__(
        self,
        kernels: Kernels,
        weights: Mapping[str, torch.Tensor],
        shape: DecoderShape,
        cache: KvCache,
        angles: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        import torch

        self._kernels, self._shape = kernels, shape
        self._kept: list[Any] = [cache]
        # Weak keys, so that this table does not keep an evicted adapter in memory.
        self._structs: WeakKeyDictionary[LoadedAdapter, _AdapterStruct] = WeakKeyDictionary()
        self._room = torch.empty(0)

        def hold(tensor: torch.Tensor) -> int:
            self._kept.append(tensor)
            return tensor.data_ptr()

        def norm(name: str) -> int:
            return hold(weights[f"{name}.weight"].float().contiguous())

        numbers = sum(math.prod(size) + 16 * size[-1] for size in shape.tensors().values())
        arena = _Arena(2 * numbers)
        self._kept.append(arena)

        def packed(*names: str) -> torch.Tensor:
            return arena.place(pack(torch.cat([weights[f"{name}.weight"] for name in names])).words)

        def panels(*names: str) -> int:
            return packed(*names).data_ptr()

        layers = (_LayerStruct * shape.layers)()
        for index in range(shape.layers):
            stem = f"model.layers.{index}."
            layers[index] = _LayerStruct(
                norm(f"{stem}input_layernorm"),
                norm(f"{stem}post_attention_layernorm"),
                *(panels(*(f"{stem}{name}" for name in names)) for names in GROUPS.values()),
            )
        self._kept.append(layers)
        # The same weights twice would be a fifth of the default model more.
        self._embedding = None if shape.tied else weights["model.embed_tokens.weight"]
        self._head = packed("model.embed_tokens" if shape.tied else "lm_head")
        self._model = _ModelStruct(
            shape.layers,
            shape.hidden,
            shape.intermediate,
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            shape.vocabulary,
            cache.capacity,
            cache.slots,
            shape.norm_epsilon,
            ctypes.addressof(layers),
            norm("model.norm"),
            self._head.data_ptr(),
            hold(angles[0]),
            hold(angles[1]),
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
        )

    def run(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        active_adapters: Sequence[LoadedAdapter | None],
        wanted: Sequence[int],
    ) -> torch.Tensor:
        """Run one token a row; return the logits (wanted, vocabulary) of the wanted rows.

        One call may have several rows of one slot (a prompt's chunk): in each layer all keys are
        written before any row attends.
        """
        import torch

        rows = len(tokens)
        ids, embedding = torch.tensor(tokens), self._embedding
        x = (_rows_of(self._head, ids) if embedding is None else embedding[ids]).float()
        logits = torch.empty(len(wanted), self._shape.vocabulary)
        kernels = self._kernels
        needed = kernels.room(ctypes.byref(self._model), rows, kernels.threads)
        if self._room.numel() < needed:
            self._room = torch.empty(needed)
        places = torch.tensor([*slots, *positions, *wanted], dtype=torch.int64)
        begin = places.data_ptr()
        addresses: dict[LoadedAdapter | None, int | None] = {None: None}
        for adapter in active_adapters:
            if adapter is not None and adapter not in addresses:
                held = self._structs.get(adapter) or _struct(adapter)
                self._structs[adapter] = held
                addresses[adapter] = ctypes.addressof(held)
        adapters = (ctypes.c_void_p * rows)(*map(addresses.__getitem__, active_adapters))
        batch = _BatchStruct(
            rows,
            len(wanted),
            begin,
            begin + 8 * rows,
            begin + 16 * rows,
            ctypes.addressof(adapters),
            x.data_ptr(),
            logits.data_ptr(),
            self._room.data_ptr(),
        )
        kernels.run(ctypes.byref(self._model), ctypes.byref(batch), kernels.threads)
        return logits


def _struct(adapter: LoadedAdapter) -> _AdapterStruct:
    linears = [name for names in GROUPS.values() for name in names]
    return _AdapterStruct(
        adapter.rank,
        (ctypes.c_void_p * 4)(*(adapter.down[group].data_ptr() for group in GROUPS)),
        (ctypes.c_void_p * 7)(*(adapter.up[name].data_ptr() for name in linears)),
        (ctypes.c_float * 7)(*(adapter.factors[name] for name in linears)),
    )
