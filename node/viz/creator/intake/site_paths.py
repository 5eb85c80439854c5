"""Match the pages of a site by the path patterns that its rules use (RFC 9309)."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit


def place_of(url: str) -> str:
    """Return the path of an address with its query, decoded, as rules are matched with it."""
    parts = urlsplit(url)
    return unquote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def climbs(url: str) -> bool:
    """Return whether a server that decodes the path may see ``..`` in it, below no rule's path."""
    path = unquote(unquote(urlsplit(url).path))
    return any(part.partition(";")[0] == ".." for part in re.split(r"[/\\]", path))


def path_pattern(location: str) -> re.Pattern[str]:
    """Return the pattern of a path as robots.txt has it: ``*`` is anything, ``$`` the end.

    An encoded ``%2A`` or ``%24`` is the character itself. It matches decoded paths (``place_of``).
    """
    end = location.endswith("$")
    parts = [re.escape(unquote(part)) for part in re.split(r"\*+", location.removesuffix("$"))]
    return re.compile(".*?".join(parts) + (r"\Z" if end else ""), re.S)
