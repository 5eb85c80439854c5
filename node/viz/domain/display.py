"""Amounts and times as people read them, the same everywhere.

Owns their one form: a token amount with all its decimals and its unit, a time as date and time in
UTC. Machines get base units and seconds instead (``--json``). Pure.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from viz.domain.units import Units, format_units

if TYPE_CHECKING:
    from viz.domain.ports.chain import Deployment

MAX_SYMBOL_CHARS: Final = 11  # as EIP-747 has it
NO_SYMBOL: Final = "tokens"


def symbol_of(text: object) -> str:
    """Return a token's symbol as it may be shown: a few visible characters, else ``tokens``.

    It stands behind every amount that people agree to, so nothing of it may read as digits of one.
    """
    fits = isinstance(text, str) and 0 < len(text) <= MAX_SYMBOL_CHARS and text.isprintable()
    word = str(text) if fits else NO_SYMBOL
    return NO_SYMBOL if " " in word or word[0].isdigit() or word[0] in ".,-+" else word


def amount(units: Units, deployment: Deployment) -> str:
    """Return base units as ``2.500000 vUSD``, by the trusted deployment's decimals and symbol."""
    return f"{format_units(units, deployment.token_decimals)} {deployment.token_symbol}"


def price(units_per_million: Units, deployment: Deployment) -> str:
    """Return a price as ``2.5 vUSD`` for a million tokens, without zeros at its end."""
    spelled = format_units(units_per_million, deployment.token_decimals)
    if "." in spelled:
        spelled = spelled.rstrip("0").rstrip(".")
    return f"{spelled} {deployment.token_symbol}"


def prices(prompt: Units, completion: Units, deployment: Deployment) -> str:
    """Return the prices of a million tokens of both kinds."""
    return (
        f"{price(prompt, deployment)} a million prompt tokens and "
        f"{price(completion, deployment)} a million completion tokens"
    )


def moment(time_s: int) -> str:
    """Return seconds since 1970 as ``2026-11-29 16:00:00 UTC``."""
    try:
        return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{time_s} s after 1970"
