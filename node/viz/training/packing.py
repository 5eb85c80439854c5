"""Rows to token sequences, and sequences to one pack without padding.

Owns which tokens are supervised and how rows share one forward pass. Does not know weights.

A pack is one sequence: the tokens that all its rows begin with (the chat template's opening),
once, then every row's remainder. A row's tokens see the shared beginning and their own row, at
the positions they would have alone. So a pack computes exactly what its rows compute one by one,
without padding and without repeating the beginning; a test holds the equality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from viz.errors import InvalidWork
from viz.training.row_attention import RowLayout, row_layout

if TYPE_CHECKING:
    import torch

    from viz.basemodel.tokenizer import ChatTokenizer
    from viz.training.dataset import Row


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A rendered chat: its ids, and the places of the tokens that are learned."""

    ids: tuple[int, ...]
    supervised: tuple[int, ...]

    @property
    def prompt(self) -> tuple[int, ...]:
        """Return the ids before the first learned token."""
        return self.ids[: self.supervised[0]]

    @property
    def target(self) -> tuple[int, ...]:
        """Return the ids of the first run of learned tokens."""
        start = self.supervised[0]
        length = 1
        while length < len(self.supervised) and self.supervised[length] == start + length:
            length += 1
        return self.ids[start : start + length]


@dataclass(frozen=True, slots=True)
class Pack:
    """Tensors of one forward pass: (1, T) ids and positions, and who sees whom.

    ``predicts`` are the places whose output is used, ``labels`` what each must predict.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    layout: RowLayout
    predicts: torch.Tensor
    labels: torch.Tensor


def tokenise(row: Row, tokenizer: ChatTokenizer, max_tokens: int) -> TokenRow:
    """Render a row by the base model's template; every assistant turn and its end is learned.

    Raises InvalidWork when the row is longer than ``max_tokens``.
    """
    messages = [{"role": m.role, "content": m.content} for m in row.messages]
    ids = tokenizer.render(messages, reply=False)
    end = tokenizer.render(messages[:1], reply=False)[-2:]
    supervised: list[int] = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = len(tokenizer.render(messages[:place], reply=True))
        stop = len(tokenizer.render(messages[: place + 1], reply=False))
        # A template ends a turn with its control token and a line break; only the former is said.
        supervised += range(start, stop - 1 if ids[stop - 1] == end[-1] else stop)
    if len(ids) > max_tokens:
        raise InvalidWork(
            f"chunk {row.chunks[0]} gives a turn of {len(ids)} tokens, at most {max_tokens} are "
            "trained on: split it, or raise max_row_tokens"
        )
    return TokenRow(ids, tuple(supervised))


def shared_beginning(rows: Sequence[TokenRow]) -> int:
    """Return how many first ids all rows have in common, before anything that is learned."""
    bound = min(row.supervised[0] for row in rows) - 1
    first = rows[0].ids
    for place in range(bound):
        if any(row.ids[place] != first[place] for row in rows):
            return place
    return max(bound, 0)


def pack(rows: Sequence[TokenRow], dtype: torch.dtype, device: str = "cpu") -> Pack:
    """Return the pack of ``rows`` for a model that computes in ``dtype``."""
    import torch

    common = shared_beginning(rows)
    ids, positions = list(rows[0].ids[:common]), list(range(common))
    predicts: list[int] = []
    labels: list[int] = []
    for row in rows:
        shift = len(ids) - common
        predicts += (place - 1 + shift for place in row.supervised)
        labels += (row.ids[place] for place in row.supervised)
        ids += row.ids[common:]
        positions += range(common, len(row.ids))
    lengths = [len(row.ids) - common for row in rows]
    return Pack(
        ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        layout=row_layout(common, lengths, dtype, device),
        predicts=torch.tensor(predicts, device=device),
        labels=torch.tensor(labels, device=device),
    )
