"""Guess a sequence's next tokens: those that followed its last three where they stood before.

This is prompt lookup (https://github.com/apoorvumang/prompt-lookup-decoding). A guess costs time
and changes no token: the model computes the guessed tokens in one step, and only those that it
chooses itself are taken. So guesses are made only while they are right often enough.
"""

from __future__ import annotations

from typing import Final

GRAM: Final = 3
# A step with a wrong guess takes half as long again, so that wrong ones must become ever rarer.
FIRST_PAUSE: Final = 4
LONGEST_PAUSE: Final = 128


class PromptLookup:
    """The places of all runs of three tokens of one sequence, and how good guesses were lately."""

    def __init__(self) -> None:
        # For each run, how many tokens end with it, at its last place before the newest token.
        self._ends: dict[tuple[int, ...], int] = {}
        self._known = GRAM
        self._pause = self._resumes = 0

    def guess(self, tokens: list[int], most: int) -> list[int]:
        """Return up to ``most`` tokens that may follow ``tokens``, which only ever grow."""
        if most < 1 or len(tokens) < max(GRAM, self._resumes):
            return []
        for end in range(self._known, len(tokens)):
            self._ends[tuple(tokens[end - GRAM : end])] = end
        self._known = max(self._known, len(tokens))
        found = self._ends.get(tuple(tokens[-GRAM:]))
        return [] if found is None else tokens[found : found + most]

    def judge(self, length: int, taken: int) -> None:
        """Note that ``taken`` tokens of a guess were right; the sequence had ``length`` before."""
        if taken:
            self._pause = 0
            return
        self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
        self._resumes = length + self._pause
