"""Define an adapter's report card: how many questions it answered right before its sale.

Owns the card's values, the thresholds for a sale, and the advice if they are missed. Invariant: a
value that was not measured is not a number, and is not good enough. Old manifests have no card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

# In percent of the questions in unseen wordings, and of the general questions that the base model
# answers right.
LEAST_RIGHT_PERCENT: Final = 30
LEAST_KEPT_PERCENT: Final = 0


@dataclass(frozen=True, slots=True)
class ReportCard:
    """The results of an adapter's examination.

    ``asked`` questions were asked in unseen wordings; the adapter answered ``right`` of them right,
    the base model ``base_right``. The base model answers ``general_base`` general questions right,
    and the adapter still answers ``general_kept`` of those right. ``longest_tokens`` is the longest
    run of tokens that the adapter repeated from the works; None if this was not measured. Of the
    ``committed_asked`` questions that creators wrote, it answered ``committed_right`` right.
    """

    asked: int
    right: int
    base_right: int
    general_base: int
    general_kept: int
    default_temperature: float = 0.0
    longest_tokens: int | None = None
    committed_asked: int = 0
    committed_right: int = 0
    committed_base_right: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the card as an audit's report shows it to people; nodes exchange REPORT_CARD."""
        return {
            "unseenWordings": {
                "asked": self.asked,
                "right": self.right if self.asked else None,
                "baseRight": self.base_right if self.asked else None,
            },
            "committedQuestions": {
                "asked": self.committed_asked,
                "right": self.committed_right if self.committed_asked else None,
                "baseRight": self.committed_base_right if self.committed_asked else None,
            },
            "generalQuestions": {"baseRight": self.general_base, "kept": self.general_kept},
            "longestVerbatimTokens": self.longest_tokens,
            "defaultTemperature": self.default_temperature,
        }

    def shortcomings(
        self,
        least_right_percent: int = LEAST_RIGHT_PERCENT,
        least_kept_percent: int = LEAST_KEPT_PERCENT,
    ) -> Sequence[str]:
        """Return the reasons against a sale, each with what to change."""
        found = []
        if not self.asked and least_right_percent:
            found.append(
                "nothing was asked in unseen wordings, so nobody knows what it answers: give a "
                "larger work, or raise held_out_share"
            )
        elif self.asked and _below(self.right, self.asked, least_right_percent):
            found.append(
                f"{self.right} of {self.asked} questions in unseen wordings are answered right, "
                f"{least_right_percent} % are wanted: train more steps, raise rank, or say each "
                "fact of the work in more ways"
            )
        if self.general_base and _below(self.general_kept, self.general_base, least_kept_percent):
            found.append(
                f"of {self.general_base} general questions that the base model answers, the "
                f"adapter still answers {self.general_kept}, {least_kept_percent} % are wanted: "
                "raise replay_share, or lower learning_rate"
            )
        return found


def card_of(measurements: Mapping[str, Any]) -> ReportCard | None:
    """Return the card in a manifest's measurements; None if there is none."""
    recall, general = measurements.get("recall"), measurements.get("general")
    committed = measurements.get("committed", {"asked": 0, "adapter": 0, "base": 0})
    if not isinstance(recall, Mapping) or not isinstance(general, Mapping):
        return None
    try:
        longest = measurements["memorisation"]["adapter"]["longest_tokens"]
        return ReportCard(
            asked=int(recall["asked"]),
            right=int(recall["adapter"]),
            base_right=int(recall["base"]),
            general_base=int(general["base"]),
            general_kept=int(general["kept"]),
            longest_tokens=None if longest is None else int(longest),
            default_temperature=float(measurements["defaultTemperature"]),
            committed_asked=int(committed["asked"]),
            committed_right=int(committed["adapter"]),
            committed_base_right=int(committed["base"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _below(part: int, whole: int, percent: int) -> bool:
    return Fraction(part, whole) < Fraction(percent, 100)
