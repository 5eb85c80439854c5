"""Match the pages of a site by the path patterns that its rules use (RFC 9309)."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def place_of(url: str) -> str:
    """Return the path of an address with its query, as rules are matched with it."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def path_pattern(location: str) -> re.Pattern[str]:
    """Return the pattern of a path as robots.txt has it: ``*`` is anything, ``$`` the end."""
    end = location.endswith("$")
    parts = [re.escape(part) for part in re.split(r"\*+", location.removesuffix("$"))]
    return re.compile(".*?".join(parts) + (r"\Z" if end else ""), re.S)
