"""Format amounts and times for people, in the same way everywhere.

A token amount has all its decimals and its symbol, a time is date and time in UTC. Output for
machines (``--json``) has base units and seconds instead. ``visible`` shows the characters that a
reader cannot see. Pure.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from viz.domain.units import UINT64_MAX, Units, format_units

if TYPE_CHECKING:
    from viz.domain.ports.chain import Deployment

MAX_SYMBOL_CHARS: Final = 11  # the bound of EIP-747
NO_SYMBOL: Final = "tokens"
# Several scripts need the two joiners, and these do not reorder text.
_SHOWN_AS_THEY_ARE: Final = "\u200c\u200d"


def symbol_of(text: object) -> str:
    """Return a token's symbol if it is safe to show, otherwise ``tokens``.

    It is shown after every amount that people agree to, so it must be short and visible, and must
    not look like more digits of the amount.
    """
    fits = isinstance(text, str) and 0 < len(text) <= MAX_SYMBOL_CHARS and text.isprintable()
    word = str(text) if fits else NO_SYMBOL
    return NO_SYMBOL if " " in word or word[0].isdigit() or word[0] in ".,-+" else word


def amount(units: Units, deployment: Deployment) -> str:
    """Return base units as ``2.500000 vUSD``, with the trusted deployment's decimals and symbol."""
    return f"{format_units(units, deployment.token_decimals)} {deployment.token_symbol}"


def price(units_per_million: Units, deployment: Deployment) -> str:
    """Return a price per million tokens as ``2.5 vUSD``, without trailing zeros."""
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


def expiry(time_s: int) -> str:
    """Return when something expires, in seconds since 1970; the chain's largest number, never."""
    return "never" if time_s >= UINT64_MAX else moment(time_s)


def duration(seconds: int) -> str:
    """Return a duration in its largest whole unit."""
    for name, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds and not seconds % length:
            return counted(seconds // length, name)
    return counted(seconds, "second")


def counted(count: int, thing: str, things: str = "") -> str:
    """Return how many there are of something: ``1 chunk``, ``2 chunks``; ``things`` if it is odd.

    The last word of ``thing`` takes the plural's ``s``.
    """
    return f"{count} {thing if count == 1 else things or f'{thing}s'}"


def percent(bps: int) -> str:
    """Return basis points as per cent."""
    return f"{bps / 100:g} %"


def visible(text: str, *, keep: str = "") -> str:
    """Return ``text`` with a mark such as ``[U+202E]`` for each invisible character.

    These are control characters, format characters (also those that reverse text), line separators,
    unassigned and private characters, and halves of surrogate pairs. Characters in ``keep`` stay.
    """
    return "".join(
        letter
        if letter.isprintable()
        or letter in keep
        or letter in _SHOWN_AS_THEY_ARE
        or unicodedata.category(letter) == "Zs"
        else f"[U+{ord(letter):04X}]"
        for letter in text
    )


def coin(wei: int) -> str:
    """Return wei of the chain's own coin as ``0.25 coins``, without trailing zeros."""
    whole, rest = divmod(wei, 10**18)
    part = f".{rest:018d}".rstrip("0").rstrip(".")
    return f"{whole}{part} coins"
