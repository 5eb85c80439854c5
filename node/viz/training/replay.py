"""Make training rows of the base's own answers, so that the adapter does not forget them.

Owns the rows made from the base's answers to ``general.PROMPTS``. They are a function of the base
and of this code (``RECIPE``), so an audit makes the same ones; they are not in the dataset file,
which has only what comes from works. The target at each position is the base's distribution, not
the token that it would choose: a small base is often wrong, and would only become more certain of
its errors.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from viz.training.evaluate import generate
from viz.training.general import PROMPTS
from viz.training.packing import Likely, TokenRow, pack
from viz.training.qlora import pack_logits

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence

    import torch

    from viz.basemodel.tokenizer import ChatTokenizer

_MOST_TOKENS: Final = 16
_LIKELY_TOKENS: Final = 64
_ROWS_A_PACK: Final = 16


def replay_rows(
    model: Any,
    tokenizer: ChatTokenizer,
    end_ids: Sequence[int],
    count: int,
    *,
    before_batch: Callable[[], None] = lambda: None,
    kept: MutableMapping[int, list[list[int]]] | None = None,
) -> list[TokenRow]:
    """Return up to ``count`` rows of the answers of ``model`` with its adapter switched off.

    All prompts are answered, so that ``kept`` (batches of an earlier run on the same base) fits
    every count. An answer that reaches the limit is learned without an end.
    """
    prompts = [tokenizer.render([{"role": "user", "content": each}]) for each in PROMPTS]
    given = generate(
        model,
        prompts,
        max_tokens=_MOST_TOKENS,
        end_ids=end_ids,
        before_batch=before_batch,
        kept=kept,
    )
    end = tokenizer.reply_end
    rows = []
    for prompt, said in zip(prompts, given, strict=True):
        ended = len(said) < _MOST_TOKENS and end is not None
        reply = (*said, end) if ended and end is not None else tuple(said)
        if reply:
            supervised = range(len(prompt), len(prompt) + len(reply))
            rows.append(TokenRow((*prompt, *reply), tuple(supervised)))
    return rows[:count]


def with_likely_tokens(
    model: Any, rows: Sequence[TokenRow], dtype: torch.dtype, device: str
) -> list[TokenRow]:
    """Return ``rows`` with the distribution of ``model``, adapter off, at each learned position."""
    import torch

    followed: list[TokenRow] = []
    for start in range(0, len(rows), _ROWS_A_PACK):
        some = rows[start : start + _ROWS_A_PACK]
        with torch.no_grad():
            log_probs = pack_logits(model, pack(some, dtype, device)).log_softmax(-1)
            found = log_probs.topk(min(_LIKELY_TOKENS, log_probs.shape[1]))
        places = iter(zip(found.indices.tolist(), found.values.tolist(), strict=True))
        for row in some:
            likely = [Likely(tuple(i), tuple(v)) for i, v in islice(places, len(row.supervised))]
            followed.append(TokenRow(row.ids, row.supervised, tuple(likely)))
    return followed
