"""Measure an adapter and the bare base model: the numbers of the report card.

Owns the order of the measurements and their JSON form, not the thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from viz.domain.questions import is_right
from viz.training.evaluate import HeldOut, bare_base, generate, held_out_loss
from viz.training.general import QUESTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from viz.basemodel.source import LoadedBase
    from viz.training.measured import Measured
    from viz.training.memorisation import Extraction
    from viz.training.packing import TokenRow
    from viz.training.recall import Recall, Recalled

# Greedy answers: with sampling, right answers would depend on chance.
DEFAULT_TEMPERATURE: Final = 0.0
_EXAMPLES: Final = 3
_MOST_EXAMPLE_CHARS: Final = 200
_GENERAL_TOKENS: Final = 24


class Examination:
    """One run's measurements; ``before`` is called on the bare base, ``after`` at the end."""

    def __init__(
        self,
        model: Any,
        base: LoadedBase,
        recall: Recall,
        *,
        held_out: Sequence[TokenRow],
        dtype: torch.dtype,
        device: str,
        check: Callable[[], None],
        measured: Measured,
        of_base: Measured,
    ) -> None:
        """``check`` is called between batches and may raise to stop.

        ``measured`` stores measurements, so that a resumed run does not repeat them; ``of_base``
        stores the bare base's answers, which do not depend on the work.
        """
        self._model, self._base, self._recall = model, base, recall
        self._held_out, self._dtype, self._device = held_out, dtype, device
        self._check, self._measured, self._of_base = check, measured, of_base
        self._loss_before: HeldOut | None = None
        self._base_recalled: Recalled | None = None
        self._known: list[int] = []

    def before(self) -> Recalled:
        """Measure the bare base."""
        with bare_base(self._model):
            self._loss_before = self._measured.once("before", HeldOut, self._loss)
            base = self._recall.ask(
                self._model, self._check, self._measured.batches("base recalled")
            )
            rights = self._general(self._of_base)
        self._base_recalled = base
        self._known = [place for place, right in enumerate(rights) if right]
        return base

    def recalled(self) -> Recalled:
        """Ask the model in its present state the questions in unseen wordings."""
        return self._recall.ask(self._model, self._check)

    def after(self, extraction: Extraction, say: Callable[[str], None]) -> dict[str, Any]:
        """Measure the adapter; return all measurements as JSON values."""

        def before_batch() -> None:
            say("memorisation")
            self._check()

        base = self._base_recalled or self.before()
        after = self._measured.once("after", HeldOut, self._loss)
        now = self._recall.ask(self._model, self._check, self._measured.batches("recalled"))
        rights = self._general(self._measured)

        def asked(of: str) -> dict[str, Any]:
            kept = self._measured.batches(of)
            return asdict(extraction.ask(self._model, before_batch, kept))

        committed = {
            "asked": len(now.committed),
            "base": sum(base.committed),
            "adapter": sum(now.committed),
        }
        repeated = {"adapter": asked("adapter")}
        with bare_base(self._model):
            repeated["base"] = asked("base")
        return {
            "heldOut": {
                "before": _measured(self._loss_before),
                "after": _measured(after),
                "tokens": after.tokens if after else 0,
            },
            "recall": {
                "asked": now.asked,
                "base": base.right,
                "adapter": now.right,
                "examples": {"right": _examples(now, True), "wrong": _examples(now, False)},
            },
            **({"committed": committed} if now.committed else {}),
            "general": {
                "asked": len(rights),
                "base": len(self._known),
                "adapter": sum(rights),
                "kept": sum(rights[place] for place in self._known),
            },
            "memorisation": repeated,
            "defaultTemperature": DEFAULT_TEMPERATURE,
        }

    def _loss(self) -> HeldOut | None:
        return held_out_loss(self._model, self._held_out, self._dtype, self._device)

    def _general(self, measured: Measured) -> list[bool]:
        tokenizer = self._base.tokenizer
        asked = [tokenizer.render([{"role": "user", "content": q.question}]) for q in QUESTIONS]
        given = generate(
            self._model,
            asked,
            max_tokens=_GENERAL_TOKENS,
            end_ids=self._base.shape.end_ids,
            before_batch=self._check,
            kept=measured.batches("general"),
        )
        said = map(tokenizer.decode, given)
        return [
            is_right(question, answer) for question, answer in zip(QUESTIONS, said, strict=True)
        ]


def _examples(recalled: Recalled, right: bool) -> list[dict[str, str]]:
    """Return a few questions with the adapter's answers, without the work's own text."""
    places = [place for place, each in enumerate(recalled.rights) if each is right][:_EXAMPLES]
    return [
        {
            "question": recalled.questions[place][:_MOST_EXAMPLE_CHARS],
            "answer": recalled.given[place][:_MOST_EXAMPLE_CHARS],
        }
        for place in places
    ]


def _measured(held_out: HeldOut | None) -> dict[str, float] | None:
    if held_out is None:
        return None
    return {"loss": held_out.loss, "perplexity": held_out.perplexity}
