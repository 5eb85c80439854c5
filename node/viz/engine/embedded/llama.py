"""The Llama decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU, with LoRA on every linear.

Two entry points over one set of weights: ``prefill`` (chunks of several sequences as one flat run
of tokens) and ``decode`` (one token a slot). Both use the compiled pass if it is given, otherwise
torch. Invariant: a row's result depends only on its own tokens, cache and adapter (up to the
rounding of matrix products of different shapes).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from viz.basemodel.shape import LlamaShape
from viz.engine.embedded.lora import Apply, ChunkApply, LaneApply
from viz.engine.embedded.lora_batch import LoraBatch
from viz.engine.embedded.native.model import NativeModel

if TYPE_CHECKING:
    from viz.engine.embedded.kv_cache import KvCache
    from viz.engine.embedded.loaded_adapter import LoadedAdapter
    from viz.engine.embedded.native import Kernels


_Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
_Linear = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Tokens of one sequence to prefill, at positions from ``start`` in ``slot``."""

    slot: int
    start: int
    tokens: Rows[int]
    adapter: LoadedAdapter | None


@dataclass(frozen=True, slots=True)
class _Layer:
    norm: torch.Tensor
    qkv: _Linear
    o: _Linear
    mlp_norm: torch.Tensor
    gate_up: _Linear
    down: _Linear


class LlamaModel:
    """The base model in one compute dtype, with its slot cache.

    ``lane_bytes`` bounds the copies of adapters (``viz.engine.embedded.lora_batch``).
    """

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        shape: LlamaShape,
        cache: KvCache,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
        *,
        lane_bytes: int | None = None,
    ) -> None:
        self.shape, self.cache, self.dtype = shape, cache, dtype
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
        angles = torch.outer(torch.arange(cache.capacity).float(), 1.0 / shape.rope_theta**half)
        cosines, sines = angles.cos(), angles.sin()
        self._native: NativeModel | None = None
        if kernels is not None:
            self._native = NativeModel(kernels, weights, shape, cache, (cosines, sines))
            return
        self._cos, self._sin = (
            torch.cat((table, table), dim=-1).to(dtype) for table in (cosines, sines)
        )
        self._scale = shape.head_dim**-0.5
        self._lora_batch = LoraBatch(shape, cache.slots, dtype, lane_bytes)

        def get(name: str) -> torch.Tensor:
            return weights[f"{name}.weight"].to(dtype)

        def product(*names: str) -> _Linear:
            weight = torch.cat([weights[f"{name}.weight"] for name in names])
            return partial(functional.linear, weight=weight.to(dtype))

        self._layers = []
        for layer in range(shape.layers):
            stem = f"model.layers.{layer}."
            self._layers.append(
                _Layer(
                    norm=get(f"{stem}input_layernorm"),
                    qkv=product(*(f"{stem}self_attn.{name}_proj" for name in "qkv")),
                    o=product(f"{stem}self_attn.o_proj"),
                    mlp_norm=get(f"{stem}post_attention_layernorm"),
                    gate_up=product(f"{stem}mlp.gate_proj", f"{stem}mlp.up_proj"),
                    down=product(f"{stem}mlp.down_proj"),
                )
            )
        # Kept in bf16: the rows that are looked up are converted to the compute dtype.
        self._embedding = weights["model.embed_tokens.weight"]
        self._head = product("model.embed_tokens" if shape.tied else "lm_head")
        self._norm = get("model.norm")

    @property
    def packed(self) -> bool:
        """Whether a step computes every row up to the highest slot in use (the torch path)."""
        return self._native is None

    @torch.inference_mode()
    def prefill(self, chunks: Rows[PrefillChunk], wanted: Rows[int]) -> torch.Tensor:
        """Run chunks and fill their slots; return the logits of the wanted chunks' last tokens.

        The result is (wanted, vocabulary). ``wanted`` are indices of ``chunks``: logits are
        computed only for them, because the head is a fifth of the model's work.
        """
        sizes = [len(chunk.tokens) for chunk in chunks]
        ids = [token for chunk in chunks for token in chunk.tokens]
        places = [
            chunk.start + row
            for chunk, size in zip(chunks, sizes, strict=True)
            for row in range(size)
        ]
        lasts = [end - 1 for end in itertools.accumulate(sizes)]
        if self._native is not None:
            slots = [chunk.slot for chunk in chunks for _ in chunk.tokens]
            active_adapters = [chunk.adapter for chunk in chunks for _ in chunk.tokens]
            return self._native.run(
                ids, slots, places, active_adapters, [lasts[chunk] for chunk in wanted]
            )
        for chunk in chunks:
            self.cache.wrote(chunk.slot, chunk.start + len(chunk.tokens))
        tokens, positions = torch.tensor(ids), torch.tensor(places)
        masks = [self._chunk_mask(chunk) for chunk in chunks]

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            done, start = [], 0
            for chunk, mask, size in zip(chunks, masks, sizes, strict=True):
                span = slice(start, start + size)
                self._keep(layer, chunk, k[span], v[span])
                done.append(self._attend_chunk(layer, chunk, mask, q[span]))
                start += size
            return torch.cat(done)

        runs = [(len(chunk.tokens), chunk.adapter) for chunk in chunks]
        hidden = self._run(tokens, positions, attend, ChunkApply(runs))
        return self._head(hidden[[lasts[chunk] for chunk in wanted]])

    @torch.inference_mode()
    def decode(
        self,
        tokens: Rows[int],
        positions: Rows[int],
        rows: Rows[int],
        active_adapters: list[tuple[int, LoadedAdapter]],
    ) -> torch.Tensor:
        """Run one token in each slot 0..n-1; return the logits (rows, vocabulary) of ``rows``.

        ``rows`` are the slots whose sequences run, ``active_adapters`` the adapters by slot. The
        other slots get any token at their next free position; their results are not used.
        """
        slots = len(tokens)
        if self._native is not None:
            by_slot = dict(active_adapters)
            ids, places = [tokens[slot] for slot in rows], [positions[slot] for slot in rows]
            adapters = [by_slot.get(slot) for slot in rows]
            return self._native.run(ids, rows, places, adapters, range(len(rows)))
        for slot, position in enumerate(positions):
            self.cache.wrote(slot, position + 1)
        place = torch.tensor(positions)
        reach = max(positions[slot] for slot in rows) + 1
        seen = torch.arange(reach).unsqueeze(0) <= place.unsqueeze(1)
        mask = torch.zeros(slots, 1, 1, reach, dtype=self.dtype)
        mask.masked_fill_(~seen[:, None, None, :], float("-inf"))
        every = torch.arange(slots)
        shape = self.shape
        grouped = (slots, shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            keys[every, :, place] = k
            values[every, :, place] = v
            # The query heads that share a key head are passed as query positions: so the keys are
            # not repeated for each head.
            mixed = functional.scaled_dot_product_attention(
                q.view(grouped),
                keys[:slots, :, :reach],
                values[:slots, :, :reach],
                attn_mask=mask,
                scale=self._scale,
            )
            return mixed.reshape(slots, -1)

        lanes = LaneApply(self._lora_batch.sync(active_adapters), slots)
        hidden = self._run(torch.tensor(tokens), place, attend, lanes)
        return self._head(hidden if list(rows) == list(range(slots)) else hidden[list(rows)])

    def _run(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attend: _Attend,
        apply: Apply,
    ) -> torch.Tensor:
        """Return the normalised last hidden states (tokens, hidden)."""
        shape = self.shape
        query = shape.heads * shape.head_dim
        keyed = shape.kv_heads * shape.head_dim
        cos, sin = self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)
        x = self._embedding[tokens].to(self.dtype)
        for index, layer in enumerate(self._layers):
            normed = self._normalise(x, layer.norm)
            mixed = layer.qkv(normed)
            apply.add(index, "qkv", normed, mixed)
            q, k, v = mixed[:, :query], mixed[:, query : query + keyed], mixed[:, query + keyed :]
            q = _rotate(q.view(-1, shape.heads, shape.head_dim), cos, sin)
            k = _rotate(k.view(-1, shape.kv_heads, shape.head_dim), cos, sin)
            attended = attend(index, q, k, v.view(-1, shape.kv_heads, shape.head_dim))
            out = layer.o(attended)
            apply.add(index, "o", attended, out)
            x = x + out
            normed = self._normalise(x, layer.mlp_norm)
            both = layer.gate_up(normed)
            apply.add(index, "gate_up", normed, both)
            gate, up = both.chunk(2, dim=-1)
            inner = functional.silu(gate) * up
            out = layer.down(inner)
            apply.add(index, "down", inner, out)
            x = x + out
        return self._normalise(x, self._norm)

    def _normalise(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, (self.shape.hidden,), weight, self.shape.norm_epsilon)

    def _chunk_mask(self, chunk: PrefillChunk) -> torch.Tensor:
        """Return the causal mask (group * tokens, start + tokens) of a chunk, additive."""
        size = len(chunk.tokens)
        seen = torch.arange(chunk.start + size) <= torch.arange(
            chunk.start, chunk.start + size
        ).unsqueeze(1)
        mask = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, float("-inf"))
        return mask.repeat(self.shape.heads // self.shape.kv_heads, 1)

    def _keep(self, layer: int, chunk: PrefillChunk, k: torch.Tensor, v: torch.Tensor) -> None:
        end = chunk.start + len(chunk.tokens)
        self.cache.keys[layer, chunk.slot, :, chunk.start : end] = k.transpose(0, 1)
        self.cache.values[layer, chunk.slot, :, chunk.start : end] = v.transpose(0, 1)

    def _attend_chunk(
        self, layer: int, chunk: PrefillChunk, mask: torch.Tensor, q: torch.Tensor
    ) -> torch.Tensor:
        shape, size = self.shape, len(chunk.tokens)
        end, group = chunk.start + size, shape.heads // shape.kv_heads
        # (tokens, kv, group, d) -> (kv, group * tokens, d): one key head serves its whole group.
        split = q.reshape(size, shape.kv_heads, group, shape.head_dim).permute(1, 2, 0, 3)
        mixed = functional.scaled_dot_product_attention(
            split.reshape(1, shape.kv_heads, group * size, shape.head_dim),
            self.cache.keys[layer, chunk.slot, :, :end].unsqueeze(0),
            self.cache.values[layer, chunk.slot, :, :end].unsqueeze(0),
            attn_mask=mask,
            scale=self._scale,
        )
        back = mixed.reshape(shape.kv_heads, group, size, shape.head_dim).permute(2, 0, 1, 3)
        return back.reshape(size, -1)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
