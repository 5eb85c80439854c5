"""Compute a decoder: RMSNorm, RoPE, grouped-query attention, gated MLP, LoRA on every linear.

One forward pass for all families: where they differ, it reads the shape (``viz.basemodel.shape``).
It has two entry points over one set of weights: ``prefill`` (chunks of several sequences as one
flat run of tokens) and ``decode`` (one token per slot). Both use the compiled pass if it is given
(Llama's pass only), otherwise torch. Invariant: a row's result depends only on its own tokens,
cache and adapter (up to the rounding of matrix products of different shapes).
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

from viz.basemodel.shape import DecoderShape, Rope
from viz.engine.embedded.loaded_adapter import GROUPS
from viz.engine.embedded.lora import Apply, ChunkApply, LaneApply
from viz.engine.embedded.lora_batch import LoraBatch
from viz.engine.embedded.native.model import NativeModel
from viz.engine.embedded.rotary import rotations

if TYPE_CHECKING:
    from viz.engine.embedded.kv_cache import KvCache
    from viz.engine.embedded.loaded_adapter import LoadedAdapter
    from viz.engine.embedded.native.build import Kernels


_Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
_Linear = Callable[[torch.Tensor], torch.Tensor]
# For each window (None: no window), the additive attention mask.
_Masks = Mapping[int | None, torch.Tensor]


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Tokens of one sequence to prefill, at positions from ``start`` in ``slot``."""

    slot: int
    start: int
    tokens: Rows[int]
    adapter: LoadedAdapter | None


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's weights; a norm that the family does not have is None.

    ``turns`` is the index of its rotary embeddings among the model's; None: it has none.
    """

    turns: int | None
    norm: torch.Tensor
    qkv: _Linear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    o: _Linear
    o_norm: torch.Tensor | None
    mlp_norm: torch.Tensor
    gate_up: _Linear
    down: _Linear
    down_norm: torch.Tensor | None


class DecoderModel:
    """The base model in one compute dtype, with its slot cache.

    ``lane_bytes`` bounds the copies of adapters (``viz.engine.embedded.lora_batch``).
    """

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        shape: DecoderShape,
        cache: KvCache,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
        *,
        lane_bytes: int | None = None,
    ) -> None:
        self.shape, self.cache, self.dtype = shape, cache, dtype
        self._native: NativeModel | None = None
        if kernels is not None:
            tables = rotations(shape.rope, shape.head_dim, cache.capacity)
            self._native = NativeModel(kernels, weights, shape, cache, tables)
            return
        self._windows = tuple(map(shape.window_of, range(shape.layers)))
        ropes: list[Rope] = []
        for layer in range(shape.layers):
            rope = shape.rope_of(layer)
            if rope is not None and rope not in ropes:
                ropes.append(rope)
        self._turns = [
            [
                torch.cat((table, table), dim=-1).to(dtype)
                for table in rotations(rope, shape.head_dim, cache.capacity)
            ]
            for rope in ropes
        ]
        self._lora_batch = LoraBatch(shape, cache.slots, dtype, lane_bytes)
        self._layers = [self._layer(weights, index, ropes) for index in range(shape.layers)]
        # Kept in bf16: only the rows that are looked up are converted to the compute dtype.
        self._embedding = weights["model.embed_tokens.weight"]
        self._embedding_scale = torch.tensor(shape.embedding_scale).to(dtype)
        head = weights["model.embed_tokens.weight" if shape.tied else "lm_head.weight"]
        self._head = partial(functional.linear, weight=head.to(dtype))
        self._norm = self._norm_of(weights, "model.norm")

    def _layer(self, weights: Mapping[str, torch.Tensor], index: int, ropes: Rows[Rope]) -> _Layer:
        shape, stem = self.shape, f"model.layers.{index}."
        rope = shape.rope_of(index)

        def product(*names: str) -> _Linear:
            weight = torch.cat([weights[f"{stem}{name}.weight"] for name in names])
            bias = None
            if any(name in shape.biases for name in names):
                bias = torch.cat(
                    [
                        weights[f"{stem}{name}.bias"]
                        if name in shape.biases
                        else weight.new_zeros(shape.linear(name)[0])
                        for name in names
                    ]
                ).to(self.dtype)
            return partial(functional.linear, weight=weight.to(self.dtype), bias=bias)

        def norm(name: str) -> torch.Tensor:
            return self._norm_of(weights, f"{stem}{name}")

        outputs, heads = shape.output_norms, shape.head_norms
        return _Layer(
            turns=None if rope is None else ropes.index(rope),
            norm=norm("input_layernorm"),
            qkv=product(*GROUPS["qkv"]),
            query_norm=norm("self_attn.q_norm") if heads else None,
            key_norm=norm("self_attn.k_norm") if heads else None,
            o=product(*GROUPS["o"]),
            o_norm=norm("post_attention_layernorm") if outputs else None,
            mlp_norm=norm(shape.mlp_norm),
            gate_up=product(*GROUPS["gate_up"]),
            down=product(*GROUPS["down"]),
            down_norm=norm("post_feedforward_layernorm") if outputs else None,
        )

    def _norm_of(self, weights: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        weight = weights[f"{name}.weight"]
        if not self.shape.norm_offset:
            return weight.to(self.dtype)
        # Kept in float32: in bf16, 1 plus a small weight would lose most of the weight.
        return weight.float() + self.shape.norm_offset

    @property
    def packed(self) -> bool:
        """Whether a step computes every row up to the highest used slot (the torch path)."""
        return self._native is None

    @torch.inference_mode()
    def prefill(self, chunks: Rows[PrefillChunk], wanted: Rows[int]) -> torch.Tensor:
        """Run chunks and fill their slots; return the logits of the wanted chunks' last tokens.

        The result has shape (wanted, vocabulary). ``wanted`` are indices into ``chunks``: logits
        are computed only for them, because the head is a fifth of the model's work.
        """
        sizes = [len(chunk.tokens) for chunk in chunks]
        lasts = [end - 1 for end in itertools.accumulate(sizes)]
        if self._native is not None:
            return self._run_rows(self._native, chunks, [lasts[chunk] for chunk in wanted])
        ids, places = _flat(chunks)
        tokens, positions = torch.tensor(ids), torch.tensor(places)
        masks = [self._chunk_masks(chunk) for chunk in chunks]

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            done, start = [], 0
            for chunk, mask, size in zip(chunks, masks, sizes, strict=True):
                span = slice(start, start + size)
                self._keep(layer, chunk, k[span], v[span])
                done.append(self._attend_chunk(layer, chunk, mask[self._windows[layer]], q[span]))
                start += size
            return torch.cat(done)

        runs = [(len(chunk.tokens), chunk.adapter) for chunk in chunks]
        hidden = self._run(tokens, positions, attend, ChunkApply(runs))
        return self._logits(hidden[[lasts[chunk] for chunk in wanted]])

    @torch.inference_mode()
    def verify(self, chunks: Rows[PrefillChunk]) -> torch.Tensor:
        """Run chunks and fill their slots; return the logits (tokens, vocabulary) of all tokens.

        The compiled pass only: there each row is, bit for bit, the one that decoding computes.
        """
        assert self._native is not None
        return self._run_rows(self._native, chunks, range(sum(len(each.tokens) for each in chunks)))

    @staticmethod
    def _run_rows(
        native: NativeModel, chunks: Rows[PrefillChunk], wanted: Rows[int]
    ) -> torch.Tensor:
        ids, places = _flat(chunks)
        slots = [chunk.slot for chunk in chunks for _ in chunk.tokens]
        adapters = [chunk.adapter for chunk in chunks for _ in chunk.tokens]
        return native.run(ids, slots, places, adapters, wanted)

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
        other slots get an arbitrary token at their next free position; their results are not used.
        """
        slots = len(tokens)
        if self._native is not None:
            by_slot = dict(active_adapters)
            ids, places = [tokens[slot] for slot in rows], [positions[slot] for slot in rows]
            adapters = [by_slot.get(slot) for slot in rows]
            return self._native.run(ids, rows, places, adapters, range(len(rows)))
        place = torch.tensor(positions)
        reach = max(positions[slot] for slot in rows) + 1
        masks = {
            window: mask[:, None, None, :] for window, mask in self._masks(place, reach).items()
        }
        every = torch.arange(slots)
        shape = self.shape
        grouped = (slots, shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            keys[every, :, place] = k
            values[every, :, place] = v
            # The query heads that share a key head are passed as query positions, so that the keys
            # are not repeated for each head.
            mixed = self._mix(
                q.view(grouped),
                keys[:slots, :, :reach],
                values[:slots, :, :reach],
                masks[self._windows[layer]],
            )
            return mixed.reshape(slots, -1)

        lanes = LaneApply(self._lora_batch.sync(active_adapters), slots)
        hidden = self._run(torch.tensor(tokens), place, attend, lanes)
        return self._logits(hidden if list(rows) == list(range(slots)) else hidden[list(rows)])

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
        turns = [[table[positions].unsqueeze(1) for table in tables] for tables in self._turns]
        x = self._embedding[tokens].to(self.dtype)
        if shape.embedding_scale != 1.0:
            x = x * self._embedding_scale
        for index, layer in enumerate(self._layers):
            normed = self._normalise(x, layer.norm)
            mixed = layer.qkv(normed)
            apply.add(index, "qkv", normed, mixed)
            q, k, v = mixed[:, :query], mixed[:, query : query + keyed], mixed[:, query + keyed :]
            q = self._normalise(q.view(-1, shape.heads, shape.head_dim), layer.query_norm)
            k = self._normalise(k.view(-1, shape.kv_heads, shape.head_dim), layer.key_norm)
            if layer.turns is not None:
                cos, sin = turns[layer.turns]
                q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            attended = attend(index, q, k, v.view(-1, shape.kv_heads, shape.head_dim))
            out = layer.o(attended)
            apply.add(index, "o", attended, out)
            x = x + self._normalise(out, layer.o_norm)
            normed = self._normalise(x, layer.mlp_norm)
            both = layer.gate_up(normed)
            apply.add(index, "gate_up", normed, both)
            gate, up = both.chunk(2, dim=-1)
            inner = self._activate(gate) * up
            out = layer.down(inner)
            apply.add(index, "down", inner, out)
            x = x + self._normalise(out, layer.down_norm)
        return self._normalise(x, self._norm)

    def _normalise(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Return x over its root mean square, times ``weight``; without a weight return x."""
        if weight is None:
            return x
        size, epsilon = (weight.shape[0],), self.shape.norm_epsilon
        if weight.dtype == x.dtype:
            return functional.rms_norm(x, size, weight, epsilon)
        return functional.rms_norm(x.float(), size, weight, epsilon).to(x.dtype)

    def _activate(self, x: torch.Tensor) -> torch.Tensor:
        if self.shape.activation == "silu":
            return functional.silu(x)
        return functional.gelu(x, approximate="tanh")

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self._head(hidden)
        return logits if self.shape.logit_cap is None else _capped(logits, self.shape.logit_cap)

    def _mix(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return softmax(scores + mask) @ values; all are (batch, heads, tokens, head size)."""
        scale, cap = self.shape.attention_scale, self.shape.attention_cap
        if cap is None:
            return functional.scaled_dot_product_attention(
                q, keys, values, attn_mask=mask, scale=scale
            )
        scores = _capped(q @ keys.transpose(2, 3) * scale, cap) + mask
        return scores.float().softmax(-1).to(q.dtype) @ values

    def _masks(self, places: torch.Tensor, end: int) -> _Masks:
        """Return the masks (tokens, end) of tokens at ``places`` over the keys before ``end``."""
        back = places.unsqueeze(1) - torch.arange(end).unsqueeze(0)
        masks = {}
        for window in set(self._windows):
            seen = back >= 0 if window is None else (back >= 0) & (back < window)
            mask = torch.zeros(seen.shape, dtype=self.dtype)
            masks[window] = mask.masked_fill_(~seen, float("-inf"))
        return masks

    def _chunk_masks(self, chunk: PrefillChunk) -> _Masks:
        """Return the masks (group * tokens, start + tokens) of a chunk."""
        end, group = chunk.start + len(chunk.tokens), self.shape.heads // self.shape.kv_heads
        masks = self._masks(torch.arange(chunk.start, end), end)
        return {window: mask.repeat(group, 1) for window, mask in masks.items()}

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
        mixed = self._mix(
            split.reshape(1, shape.kv_heads, group * size, shape.head_dim),
            self.cache.keys[layer, chunk.slot, :, :end].unsqueeze(0),
            self.cache.values[layer, chunk.slot, :, :end].unsqueeze(0),
            mask,
        )
        back = mixed.reshape(shape.kv_heads, group, size, shape.head_dim).permute(2, 0, 1, 3)
        return back.reshape(size, -1)


def _flat(chunks: Rows[PrefillChunk]) -> tuple[list[int], list[int]]:
    """Return the tokens of all chunks, and their positions."""
    ids = [token for chunk in chunks for token in chunk.tokens]
    return ids, [chunk.start + row for chunk in chunks for row in range(len(chunk.tokens))]


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _capped(x: torch.Tensor, cap: float) -> torch.Tensor:
    return torch.tanh(x / cap) * cap
