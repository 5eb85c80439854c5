"""Compute the price of a request from prices per million tokens, rounded up once.

Invariant: an amount is the least whole number of units that is not below the exact price.
"""

from __future__ import annotations

from dataclasses import dataclass

from viz.domain.units import MILLION, Units


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a million prompt tokens and of a million completion tokens, in units."""

    prompt_price_units: Units
    completion_price_units: Units

    def amount_units(self, prompt_tokens: int, completion_tokens: int) -> Units:
        """Return the price of a request with these token counts, rounded up once."""
        exact = (
            prompt_tokens * self.prompt_price_units
            + completion_tokens * self.completion_price_units
        )
        return -(-exact // MILLION)

    def is_within(self, other: Price) -> bool:
        """Return whether no token costs more than at the other price."""
        return (
            self.prompt_price_units <= other.prompt_price_units
            and self.completion_price_units <= other.completion_price_units
        )

    def completion_tokens_for(self, amount_units: Units, prompt_tokens: int) -> int | None:
        """Return how many completion tokens ``amount_units`` pays for after the prompt.

        None if completions cost nothing; -1 if the amount does not even pay for the prompt.
        """
        left = amount_units * MILLION - prompt_tokens * self.prompt_price_units
        if left < 0:
            return -1
        return left // self.completion_price_units if self.completion_price_units else None
