"""Measure a run: ask the adapter questions in wordings that it was not trained on.

Owns which held-out questions are asked and how many answers are right, by a rule that needs no
human (``viz.domain.questions.tells``). Committed questions of the works are asked in the same round
and judged by their own rule. What this measure can and cannot show: docs/training.md, "The
measure".
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from viz.domain.questions import Question, is_right, tells
from viz.training.evaluate import generate

if TYPE_CHECKING:
    from viz.basemodel.tokenizer import ChatTokenizer
    from viz.training.dataset import Dataset

# Answers cost about as much as a training step for each eight of them.
_MOST_ASKED: Final = 48
_MOST_ANSWER_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class Recalled:
    """One round of questions: which were asked, the answers, and which were right.

    ``committed`` has the results of the committed questions, which are counted separately.
    """

    questions: tuple[str, ...]
    wanted: tuple[str, ...]
    given: tuple[str, ...]
    rights: tuple[bool, ...]
    committed: tuple[bool, ...] = ()

    @property
    def asked(self) -> int:
        return len(self.rights)

    @property
    def right(self) -> int:
        return sum(self.rights)

    @property
    def score(self) -> tuple[int, int]:
        """Right answers and questions in total, by which a state is chosen."""
        return self.right + sum(self.committed), self.asked + len(self.committed)


class Recall:
    """The held-out questions of one run, drawn evenly over its works, and the committed ones."""

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: ChatTokenizer,
        end_ids: Sequence[int],
        committed: Sequence[Question] = (),
    ) -> None:
        count = min(_MOST_ASKED, len(dataset.held_out))
        places = [place * len(dataset.held_out) // count for place in range(count)]
        rows = [dataset.held_out[place] for place in places]
        self._telling = [dataset.telling[place] for place in places]
        self._questions = tuple(row.messages[-2].content for row in rows)
        self._wanted = tuple(row.messages[-1].content for row in rows)
        self._prompts = [
            tokenizer.render([{"role": m.role, "content": m.content} for m in row.messages[:-1]])
            for row in rows
        ]
        self._committed = tuple(committed)
        self._prompts += [
            tokenizer.render([{"role": "user", "content": each.question}]) for each in committed
        ]
        answers = [row.messages[-1].content for row in dataset.training] if committed else []
        longest = max(map(tokenizer.count, (*self._wanted, *answers)), default=0)
        self._max_tokens = min(longest + 1, _MOST_ANSWER_TOKENS)
        self._tokenizer, self._end_ids = tokenizer, tuple(end_ids)

    def __bool__(self) -> bool:
        return bool(self._prompts)

    def ask(
        self,
        model: Any,
        before_batch: Callable[[], None] = lambda: None,
        kept: MutableMapping[int, list[list[int]]] | None = None,
    ) -> Recalled:
        """Ask all questions in batches, and take the likeliest token at each step.

        ``kept`` has the batches that an earlier try finished, which are not asked again, and gets
        those of this one. ``before_batch`` is called before each batch and may raise to stop.
        """
        continued = generate(
            model,
            self._prompts,
            max_tokens=self._max_tokens,
            end_ids=self._end_ids,
            before_batch=before_batch,
            kept=kept,
        )
        said = tuple(self._tokenizer.decode(ids) for ids in continued)
        given = said[: len(self._wanted)]
        rights = tuple(map(tells, self._telling, given))
        committed = tuple(map(is_right, self._committed, said[len(given) :]))
        return Recalled(self._questions, self._wanted, given, rights, committed)
