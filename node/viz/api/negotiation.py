"""Read two HTTP headers that are lists: Accept and If-None-Match.

Source: RFC 9110, sections 12.5.1 and 13.1.2. Malformed parts are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

MAX_TYPES: Final = 64
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')
_QUALITY: Final = re.compile(r"0(?:\.\d{0,3})?|1(?:\.0{0,3})?")


def is_known(lines: Sequence[str], tag: str) -> bool:
    """Return whether If-None-Match names ``tag`` (by weak comparison) or is ``*``."""
    return any(line.strip() == "*" or tag in _TAG.findall(line) for line in lines)


def ranked_types(lines: Sequence[str]) -> Mapping[str, float]:
    """Return the types that Accept names, in lower case, each with its quality."""
    found: dict[str, float] = {}
    for each in ",".join(lines).split(",")[:MAX_TYPES]:
        name, *parameters = (part.strip().lower() for part in each.split(";"))
        if not name:
            continue
        given = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        found[name] = float(given) if _QUALITY.fullmatch(given) else 0.0
    return found
