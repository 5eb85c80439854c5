"""Measure what a trained adapter knows: held-out loss and greedy answers.

Owns measurement of the model that trains, in train mode under ``no_grad`` (its dropout is 0), and
never calls ``eval()`` (docs/adr/0007-training.md, "Never eval()"). Invariant: no function here
changes a weight or a gradient; the base is measured by the same code, with the adapter switched
off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from viz.domain.questions import Question, is_right
from viz.training.packing import TokenRow, pack
from viz.training.qlora import pack_loss

if TYPE_CHECKING:
    import torch

    from viz.basemodel.tokenizer import ChatTokenizer

_ROWS_PER_PACK: Final = 16
PROMPTS_PER_BATCH: Final = 32
# Prompts and answers of a batch, padded; so long prompts make smaller batches, and the caches of a
# large base fit beside it.
TOKENS_PER_BATCH: Final = 20_480


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Mean cross-entropy in nats a supervised token, and its exponential."""

    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 50.0))


@contextmanager
def bare_base(model: Any) -> Iterator[None]:
    """Switch the adapter off for a while."""
    with model.disable_adapter():
        yield
    # PEFT leaves adapter gradients as it finds the layers; training needs them on again.
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(True)


def held_out_loss(
    model: Any, rows: Sequence[TokenRow], dtype: torch.dtype, device: str
) -> HeldOut | None:
    """Return the loss over ``rows``; None where there is nothing to measure."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), _ROWS_PER_PACK):
            packed = pack(rows[start : start + _ROWS_PER_PACK], dtype, device)
            total += float(pack_loss(model, packed))
            count += len(packed.labels)
    return HeldOut(total / count, count) if count else None


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    end_ids: Sequence[int],
    before_batch: Callable[[], None] = lambda: None,
    kept: MutableMapping[int, list[list[int]]] | None = None,
) -> list[list[int]]:
    """Return each prompt's greedy continuation without its end token, batched with left padding.

    ``kept`` holds the answers of batches, by their first prompt's place, that need not be asked
    again; each that was asked is put there.
    """
    out: list[list[int]] = []
    kept = {} if kept is None else kept
    longest = max(map(len, prompts), default=0) + max_tokens
    size = max(1, min(PROMPTS_PER_BATCH, TOKENS_PER_BATCH // longest))
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        if start not in kept or len(kept[start]) != len(batch):
            before_batch()
            kept[start] = _generate(model, batch, max_tokens, end_ids)
        out += kept[start]
    return out


def _generate(
    model: Any, prompts: Sequence[Sequence[int]], max_tokens: int, end_ids: Sequence[int]
) -> list[list[int]]:
    import torch
    from transformers import DynamicCache

    causal = model.get_base_model()
    device = next(causal.parameters()).device
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    seen = torch.zeros(len(prompts), width, dtype=torch.long)
    for place, prompt in enumerate(prompts):
        ids[place, width - len(prompt) :] = torch.tensor(list(prompt))
        seen[place, width - len(prompt) :] = 1
    ids, seen = ids.to(device), seen.to(device)
    positions = (seen.cumsum(1) - 1).clamp_min(0)
    cache = DynamicCache(config=causal.config)
    found: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    with torch.no_grad():
        for _ in range(max_tokens):
            hidden = causal.model(
                input_ids=ids,
                attention_mask=seen,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            tokens = causal.lm_head(hidden).float().argmax(-1)
            for row in sorted(open_rows):
                token = int(tokens[row])
                if token in end_ids:
                    open_rows.discard(row)
                else:
                    found[row].append(token)
            if not open_rows:
                break
            ids = tokens[:, None]
            positions = positions[:, -1:] + 1
            seen = torch.cat([seen, torch.ones_like(ids)], dim=1)
    return found


def answers(
    model: Any,
    tokenizer: ChatTokenizer,
    questions: Sequence[Question],
    end_ids: Sequence[int],
    *,
    max_tokens: int = 32,
) -> list[str]:
    """Return the greedy answer to each question, asked through the chat template."""
    prompts = [tokenizer.render([{"role": "user", "content": q.question}]) for q in questions]
    continued = generate(model, prompts, max_tokens=max_tokens, end_ids=end_ids)
    return [tokenizer.decode(ids) for ids in continued]


def count_right(questions: Sequence[Question], given: Sequence[str]) -> int:
    """Return how many answers are right by the committed rule."""
    return sum(is_right(q, answer) for q, answer in zip(questions, given, strict=True))
