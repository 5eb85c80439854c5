"""Turn rows into token sequences, and put sequences into one pack without padding.

Owns which tokens are supervised and how rows share one forward pass. Does not know weights.

A pack is one sequence: the tokens that all its rows begin with (the chat template's opening),
once, then every row's remainder. A row's tokens see the shared beginning and their own row, at
the positions they would have alone. So a pack computes exactly what its rows compute one by one,
without padding and without repeating the beginning; a test holds the equality.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from viz.errors import InvalidWork, TrainingError
from viz.training.row_attention import RowLayout, row_layout

if TYPE_CHECKING:
    import torch

    from viz.basemodel.tokenizer import ChatTokenizer
    from viz.training.dataset import Row


# So much of an answer tells it from others, as a rule.
OPENING_TOKENS: Final = 10


@dataclass(frozen=True, slots=True)
class Likely:
    """The bare base's likeliest next tokens at one position, with log-probabilities."""

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A rendered chat: its ids, and the positions of the tokens that are learned.

    ``likely``, if present, gives for each of these positions the target distribution that is
    learned instead of the token: the base's own.
    """

    ids: tuple[int, ...]
    supervised: tuple[int, ...]
    likely: tuple[Likely, ...] = ()

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
    """Tensors of one forward pass: (1, T) ids and positions, and the attention mask.

    ``predicts`` are the positions whose output is used, ``labels`` the token that each must
    predict. The S positions at ``followed`` learn the base's distribution instead, given by
    ``likely_ids`` and ``likely_log_probs`` (S, K).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    layout: RowLayout
    predicts: torch.Tensor
    labels: torch.Tensor
    followed: torch.Tensor
    likely_ids: torch.Tensor
    likely_log_probs: torch.Tensor


def require_an_end(tokenizer: ChatTokenizer, end_ids: Collection[int]) -> None:
    """Raise TrainingError where serving would not stop at what the template ends a turn with.

    ``end_ids`` are the control tokens at which the base's own configuration ends an answer.
    """
    if not tokenizer.has_template:
        raise TrainingError(
            "the base model has no chat template, and rows are chats: put a chat_template.jinja "
            "into its directory, or choose another base model"
        )
    if tokenizer.reply_end not in end_ids:
        raise TrainingError(
            "the base model's chat template does not end an assistant's turn with one of the end "
            "tokens of its configuration, so no adapter could learn to stop: choose another base"
        )


def tokenise(row: Row, tokenizer: ChatTokenizer, max_tokens: int) -> TokenRow:
    """Return a chat's ids; each assistant turn and the control token that ends it are learned.

    What is before a turn is the very prompt that serving renders, and the turn is tokenised by
    itself, as a reply is generated. Where the template writes an earlier turn in other tokens than
    it is generated in (it trims white space), that turn is only read. Of a chat that is too long
    the oldest messages are left out. Raises InvalidWork when its last exchange alone is longer than
    ``max_tokens``, and TrainingError when the template ends no turn with a control token.
    """
    end = tokenizer.reply_end
    if end is None:
        raise TrainingError(
            "the base model's chat template ends an assistant's turn with no control token, so no "
            "adapter could learn to stop: choose another base model"
        )
    messages = [{"role": m.role, "content": m.content} for m in row.messages]
    opening = 1 if messages[0]["role"] == "system" else 0
    while True:
        ids, supervised = _rendered(messages, tokenizer, end, last_only=row.last_only)
        if len(ids) <= max_tokens or len(messages) <= opening + 2:
            break
        del messages[opening : opening + 2]
    if len(ids) > max_tokens:
        raise InvalidWork(
            f"chunk {row.chunks[0]} gives a turn of {len(ids)} tokens, at most {max_tokens} are "
            "trained on: split it, or raise max_row_tokens"
        )
    if row.opening_only and len(supervised) > OPENING_TOKENS:
        supervised = supervised[:OPENING_TOKENS]
        ids = ids[: supervised[-1] + 1]
    return TokenRow(ids, supervised)


def tokenise_all(
    rows: Sequence[Row], tokenizer: ChatTokenizer, max_tokens: int
) -> tuple[list[TokenRow], int]:
    """Return the rows that fit, and how many do not. Raises InvalidWork when none fits."""
    fitting: list[TokenRow] = []
    for place, row in enumerate(rows):
        try:
            fitting.append(tokenise(row, tokenizer, max_tokens))
        except InvalidWork:
            if not fitting and place == len(rows) - 1:
                raise
    return fitting, len(rows) - len(fitting)


def _rendered(
    messages: Sequence[dict[str, str]], tokenizer: ChatTokenizer, end: int, *, last_only: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return ids and learned places of a chat, to the end of its last assistant turn."""
    ids: tuple[int, ...] = ()
    supervised: list[int] = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or (last_only and place < len(messages) - 1):
            continue
        prompt = tokenizer.render(messages[:place])
        if prompt[: len(ids)] != ids:
            supervised.clear()
        reply = (*tokenizer.tokens(message["content"]), end)
        supervised += range(len(prompt), len(prompt) + len(reply))
        ids = prompt + reply
    return ids, tuple(supervised)


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
    followed: list[int] = []
    likely: list[Likely] = []
    for row in rows:
        followed += range(len(labels), len(labels) + len(row.likely))
        likely += row.likely
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
        followed=torch.tensor(followed, dtype=torch.long, device=device),
        likely_ids=torch.tensor([each.ids for each in likely], dtype=torch.long, device=device),
        likely_log_probs=torch.tensor([each.log_probs for each in likely], device=device),
    )
