"""What the base says without any work, trained on among the rows: so that it is not forgotten.

Owns the rows that are made of the base's own answers to ``general.PROMPTS``. Does not know works.
They are a function of the base and of this code (``RECIPE``), so an audit makes the same; they are
no part of the dataset file, which holds what comes from works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from viz.training.evaluate import generate
from viz.training.general import PROMPTS
from viz.training.packing import TokenRow

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence

    from viz.basemodel.tokenizer import ChatTokenizer

_MOST_TOKENS: Final = 16


def replay_rows(
    model: Any,
    tokenizer: ChatTokenizer,
    end_ids: Sequence[int],
    count: int,
    *,
    before_batch: Callable[[], None] = lambda: None,
    kept: MutableMapping[int, list[list[int]]] | None = None,
) -> list[TokenRow]:
    """Return up to ``count`` rows of what ``model``, its adapter switched off, answers.

    ``kept`` holds batches of an earlier try. An answer that is longer is learned as far as it
    goes, without an end.
    """
    prompts = [tokenizer.render([{"role": "user", "content": each}]) for each in PROMPTS[:count]]
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
    return rows
