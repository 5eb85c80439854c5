"""Find personal data with a fixed form in a work, such as mail addresses and account numbers.

Owns the finders, and the text about what they cannot find. Findings are masked, so that output and
JSON do not spread the data. Finders verify what can be verified (the check digits of card and
account numbers). Names, postal addresses, dates of birth and prose about people have no fixed form:
a work without findings may be full of them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

UNSEEN: Final = (
    "names, postal addresses, dates of birth, pictures, and what is told of people in prose: only "
    "you can judge these"
)
_MOST_EXAMPLES: Final = 3
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")


@dataclass(slots=True)
class PersonalData:
    """One kind of personal data: its number, its first chunks, and masked examples."""

    kind: str
    count: int = 0
    chunks: list[int] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def personal_data(texts: Iterable[str]) -> list[PersonalData]:
    """Return the findings in the texts of a work's chunks, by kind."""
    found = {kind: PersonalData(kind) for kind, _, _ in _FINDERS}
    for index, text in enumerate(texts):
        taken: list[tuple[int, int]] = []
        for kind, pattern, holds in _FINDERS:
            for match in pattern.finditer(text):
                begins, ends = match.span()
                if any(begins < end and start < ends for start, end in taken):
                    continue
                if not holds(match[0]):
                    continue
                taken.append((begins, ends))
                _add(found[kind], index, match[0])
    return [each for each in found.values() if each.count]


def _add(kind: PersonalData, index: int, value: str) -> None:
    kind.count += 1
    if index not in kind.chunks and len(kind.chunks) < _MOST_EXAMPLES:
        kind.chunks.append(index)
    masked = _masked(value)
    if masked not in kind.examples and len(kind.examples) < _MOST_EXAMPLES:
        kind.examples.append(masked)


def _masked(value: str) -> str:
    """Return a value with all but its first two and its last two letters and digits hidden."""
    places = [place for place, letter in enumerate(value) if letter.isalnum()]
    hidden = set(places[2:-2])
    return "".join("*" if place in hidden else letter for place, letter in enumerate(value))


def _is_iban(value: str) -> bool:
    """Return whether an account number's check digits are right (ISO 13616)."""
    plain = value.replace(" ", "").upper()
    if not 15 <= len(plain) <= 34:
        return False
    turned = plain[4:] + plain[:4]
    return int("".join(str(int(letter, 36)) for letter in turned)) % 97 == 1


def _is_card(value: str) -> bool:
    """Return whether a card number's last digit is right (Luhn, ISO/IEC 7812)."""
    digits = [int(letter) for letter in value if letter.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [each * 2 - 9 if each > 4 else each * 2 for each in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_telephone(value: str) -> bool:
    return 8 <= sum(letter.isdigit() for letter in value) <= 15 and not _DATE.match(value)


def _is_address(value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    # ``a::b`` of a program is an address too, and none that anybody has.
    return address.is_global and (address.version == 4 or address in _UNICAST)


def _any(_value: str) -> bool:
    return True


# 01.02.2024, which otherwise reads as a national telephone number.
_DATE: Final = re.compile(r"(?:0[1-9]|[12]\d|3[01])[./-](?:0[1-9]|[12]\d|3[01])[./-](?:19|20)\d\d")
# The order matters: a card number must not also count as a telephone number.
_FINDERS: Final[tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...]] = (
    (
        "e-mail address",
        re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,4}\.[A-Za-z]{2,24}\b"),
        _any,
    ),
    ("bank account (IBAN)", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){3,8}\b"), _is_iban),
    ("payment card", re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])"), _is_card),
    (
        "social security number (US)",
        re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
        _any,
    ),
    (
        "telephone number",
        re.compile(r"(?<![\w+])(?<!\d )(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,5}\)?){2,5}(?!\w)"),
        _is_telephone,
    ),
    (
        "telephone number",
        re.compile(r"(?<![\w+])\(\d{2,5}\) ?\d{3,4}[ -]\d{3,5}(?!\w)"),
        _is_telephone,
    ),
    (
        # As written within a country: a zero and the area, or the three groups of North America.
        "telephone number",
        re.compile(
            r"(?<![\w+,.-])(?<!\d )(?:0[1-9]\d{0,4}(?:[ ./-]\d{2,8}){1,5}|0[1-9]\d{8,10}"
            r"|\(0[1-9]\d{0,3}\)[ ./-]?\d{2,8}(?:[ ./-]\d{2,6}){0,3}"
            r"|[2-9]\d{2}[-.][2-9]\d{2}[-.]\d{4})(?![\w-])"
        ),
        _is_telephone,
    ),
    ("IP address", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"), _is_address),
    (
        "IP address",
        re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])"),
        _is_address,
    ),
)
