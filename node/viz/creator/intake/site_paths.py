"""Match the pages of a site by the path patterns that its rules use (RFC 9309)."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote, urlsplit


def place_of(url: str) -> str:
    """Return the path of an address with its query, decoded, as rules are matched with it."""
    parts = urlsplit(url)
    return unquote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def climbs(url: str) -> bool:
    """Return whether a server that decodes the path may see ``..`` in it, below no rule's path."""
    path = unquote(unquote(urlsplit(url).path))
    return any(part.partition(";")[0] == ".." for part in re.split(r"[/\\]", path))


@lru_cache(maxsize=8_192)
def path_pattern(location: str) -> re.Pattern[str]:
    """Return the pattern of a path as robots.txt has it: ``*`` is anything, ``$`` the end.

    An encoded ``%2A`` or ``%24`` is the character itself. It matches decoded paths (``place_of``).
    """
    parts = [re.escape(unquote(part)) for part in re.split(r"\*+", location.removesuffix("$"))]
    last = ""
    if location.endswith("$"):
        last = (".*" + parts.pop() if len(parts) > 1 else "") + r"\Z"
    # Each part is sought once, at the first place after the one before: else a rule with many stars
    # would try all their places.
    return re.compile(parts[0] + "".join(f"(?>.*?{each})" for each in parts[1:]) + last, re.S)
