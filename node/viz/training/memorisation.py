"""Measure whether a model repeats its training works: prefix extraction (arXiv 2202.07646).

Owns what is asked and the longest run of tokens that the greedy answers share with the works'
words. Does not know licenses or what follows from a run. It asks in two ways:

- with a training row's own prompt, the strongest there is for what was learned;
- with the beginning of a passage, plain and without the chat template, as a buyer may send it to
  ``/v1/completions``: the model goes on. A passage is a paragraph, or an answer of a dialogue.

Both are drawn evenly over the works. Invariant: answers are compared with all words of all works,
across sentences and paragraphs, whatever they were asked with.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from viz.domain.work import Work
from viz.training.evaluate import generate

if TYPE_CHECKING:
    from viz.basemodel.tokenizer import ChatTokenizer
    from viz.training.packing import TokenRow

_PREFIX_TOKENS: Final = 32
_MIN_PASSAGE_TOKENS: Final = 8
# A run over a license's limit must be able to show; beyond this a limit is not tested.
_MOST_ANSWER_TOKENS: Final = 512
_GAP: Final = -1  # between words that do not follow each other

_Ids = tuple[int, ...]
_Drawn = TypeVar("_Drawn")


@dataclass(frozen=True, slots=True)
class Memorisation:
    """What came back: ``probes`` rows and ``passages`` were asked.

    ``longest_tokens`` is the longest verbatim run over all of them, ``extracted`` how many rows
    came back whole. Where nothing was asked, nothing was measured: None.
    """

    probes: int
    passages: int
    longest_tokens: int | None
    extracted: int | None


class Extraction:
    """The probes of one run, asked of the adapter and of the bare base alike.

    ``available`` is how many passages the works have, ``rows`` how many rows teach a whole answer;
    at most ``wanted`` of each are drawn. Answers are as long as the longest row drawn, and longer
    than ``limit_tokens``.
    """

    def __init__(
        self,
        works: Sequence[Work],
        rows: Sequence[TokenRow],
        tokenizer: ChatTokenizer,
        end_ids: Sequence[int],
        *,
        wanted: int,
        limit_tokens: int,
    ) -> None:
        words: list[int] = []
        passages: list[_Ids] = []
        for work in works:
            for text, follows in _texts(work):
                if not follows:
                    words.append(_GAP)
                words += tokenizer.tokens(f" {text}")  # as it is written after other words
            passages += filter(None, (_prefix(tokenizer, text) for text in _passages(work)))
        self.available = len(passages)
        self._end_ids = tuple(end_ids)
        # A row of an opening is too short to show anything.
        whole = [row for row in rows if row.ids[row.supervised[-1]] in self._end_ids]
        self.rows = len(whole)
        drawn = _evenly(whole, wanted)
        # The end token is not returned by generation.
        self._targets = [tuple(t for t in row.target if t not in self._end_ids) for row in drawn]
        for target in self._targets:
            words += (_GAP, *target)
        self._words = np.array(words, dtype=np.int32)
        self._passages = _evenly(passages, wanted)
        self._prompts = [row.prompt for row in drawn] + self._passages
        longest = max(map(len, self._targets), default=0)
        self._max_tokens = max(longest, min(limit_tokens + 1, _MOST_ANSWER_TOKENS))

    def ask(
        self,
        model: Any,
        before_batch: Callable[[], None] = lambda: None,
        kept: MutableMapping[int, list[list[int]]] | None = None,
    ) -> Memorisation:
        """Ask all probes but those ``kept``, by batch, from an earlier try.

        ``before_batch`` is called before each batch and may raise to stop.
        """
        answers = generate(
            model,
            self._prompts,
            max_tokens=self._max_tokens,
            end_ids=self._end_ids,
            before_batch=before_batch,
            kept=kept,
        )
        if not answers:
            return Memorisation(0, 0, None, None)
        longest = max(longest_common_run(answer, self._words) for answer in answers)
        extracted = sum(
            tuple(answer[: len(target)]) == target
            for answer, target in zip(answers, self._targets, strict=False)
        )
        whole = extracted if self._targets else None
        return Memorisation(len(self._targets), len(self._passages), longest, whole)


def longest_common_run(one: Sequence[int], other: np.ndarray[Any, Any]) -> int:
    """Return the length of the longest run of tokens that both contain; O(len(one) len(other))."""
    best = 0
    ending = np.zeros(len(other) + 1, dtype=np.int32)  # of the run that ends before each place
    for token in one:
        ending[1:] = (ending[:-1] + 1) * (other == token)
        best = max(best, int(ending.max()))
    return best


def _texts(work: Work) -> list[tuple[str, bool]]:
    """Return a work's words as rows hold them, and whether each goes on from the one before."""
    if work.kind == "dialogue":
        return [(m.content, False) for chunk in work.chunks for m in chunk.messages]
    return [(" ".join(chunk.text.split()), place > 0) for place, chunk in enumerate(work.chunks)]


def _passages(work: Work) -> list[str]:
    if work.kind == "dialogue":
        return [m.content for c in work.chunks for m in c.messages if m.role == "assistant"]
    return [text for text, _ in _texts(work)]


def _prefix(tokenizer: ChatTokenizer, text: str) -> _Ids | None:
    ids = tokenizer.encode(text)
    enough = len(ids) >= _MIN_PASSAGE_TOKENS
    return ids[: min(_PREFIX_TOKENS, len(ids) // 2)] if enough else None


def _evenly(all_of: Sequence[_Drawn], wanted: int) -> list[_Drawn]:
    count = min(wanted, len(all_of))
    return [all_of[place * len(all_of) // count] for place in range(count)]
