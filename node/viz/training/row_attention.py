"""Compute attention within a pack row by row, without the products that a mask would discard.

Owns the layout of a pack's attention and its arithmetic. A pack's rows follow one shared prefix
(``viz.training.packing``). Attention over the whole sequence would compute every row's products
with every other row and discard them. Here each row's queries meet only the keys of the prefix and
of the row itself. Windows and caps of scores are those of the model's own attention. Invariant: the
result equals masked attention over the sequence; passes without a layout (generation) use
transformers' own attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

NAME: Final = "viz_rows"


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Where the rows of a pack of T tokens lie; the beginning is itself one of the R rows.

    ``places`` (R x L) are the tokens of each row, short rows filled with place 0; ``back`` (T) is
    where each token went; ``mask`` (R, 1, L, common + L) is additive.
    """

    common: int
    places: torch.Tensor
    back: torch.Tensor
    mask: torch.Tensor

    def mask_within(self, window: int | None) -> torch.Tensor:
        """Return the mask of a layer in which a token attends to ``window`` tokens; None: all."""
        import torch

        longest, keys = self.mask.shape[2:]
        if window is None or window >= keys:
            return self.mask
        at = torch.arange(longest, device=self.mask.device)[:, None]
        seen = torch.arange(keys, device=self.mask.device)[None, :]
        # Distance of each key. In the row of the prefix itself, its keys count as the row's own.
        far = self.common + at - seen >= window
        return self.mask.masked_fill(far, torch.finfo(self.mask.dtype).min)


def row_layout(common: int, lengths: Sequence[int], dtype: torch.dtype, device: str) -> RowLayout:
    """Return the layout of rows with ``lengths`` own tokens behind ``common`` shared ones."""
    import torch

    spans, start = [], common
    for length in lengths:
        spans.append((start, length, True))
        start += length
    if common:
        spans.append((0, common, False))
    longest = max(length for _, length, _ in spans)
    places = torch.zeros(len(spans), longest, dtype=torch.long)
    back = torch.zeros(start, dtype=torch.long)
    sees = torch.zeros(len(spans), longest, common + longest, dtype=torch.bool)
    own = torch.ones(longest, longest, dtype=torch.bool).tril()
    for row, (first, length, after_common) in enumerate(spans):
        places[row, :length] = torch.arange(first, first + length)
        back[first : first + length] = row * longest + torch.arange(length)
        sees[row, :, :common] = after_common
        sees[row, :, common:] = own
        sees[row, :, common + length :] = False
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
    return RowLayout(common, places.to(device), back.to(device), mask[:, None].to(device))


def register() -> None:
    """Make ``NAME`` an attention implementation of transformers in this process."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    rows: RowLayout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Return (1, T, heads, width); queries (1, heads, T, width), keys (1, key heads, T, width)."""
    if rows is None:
        if softcap is not None:  # which transformers' own product does not apply
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
            mask = _causal(query, key) if attention_mask is None else attention_mask
            out = _product(query, key, value, mask, scaling=scaling, cap=softcap)
            return out.transpose(1, 2), None
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return plain
    _, heads, tokens, width = query.shape
    key_heads, (count, longest) = key.shape[1], rows.places.shape
    # The query heads of one key head stand one after another, so that keys are not repeated.
    queries = query[0].index_select(1, rows.places.view(-1))
    queries = queries.view(key_heads, -1, count, longest, width).permute(2, 0, 1, 3, 4)
    out = _product(
        queries.reshape(count, key_heads, -1, width),
        _behind_common(key, rows),
        _behind_common(value, rows),
        rows.mask_within(sliding_window).repeat(1, 1, heads // key_heads, 1),
        scaling=scaling,
        cap=softcap,
    )
    out = out.view(count, key_heads, -1, longest, width).permute(0, 3, 1, 2, 4)
    out = out.reshape(count * longest, heads, width).index_select(0, rows.back)
    return out.view(1, tokens, heads, width), None


def _product(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    *,
    scaling: float | None,
    cap: float | None,
) -> torch.Tensor:
    """Return softmax(scores + mask) @ value; all are (batch, heads, tokens, width)."""
    import torch

    if cap is None:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = cap * (query @ key.transpose(2, 3) * (scale / cap)).tanh()
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    return scores.float().softmax(-1).to(query.dtype) @ value


def _causal(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return the causal mask; the last query is at the position of the last key."""
    import torch

    size = query.shape[2], key.shape[2]
    return torch.ones(size, dtype=torch.bool, device=query.device).tril(size[1] - size[0])


def _behind_common(states: torch.Tensor, rows: RowLayout) -> torch.Tensor:
    import torch

    key_heads, width = states.shape[1], states.shape[3]
    count, longest = rows.places.shape
    own = states[0].index_select(1, rows.places.view(-1)).view(key_heads, count, longest, width)
    common = states[0, :, None, : rows.common].expand(-1, count, -1, -1)
    return torch.cat([common, own], dim=2).transpose(0, 1)
