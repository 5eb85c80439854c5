"""Check a node's address as people write it, before anything is sent there."""

from __future__ import annotations

from urllib.parse import urlsplit

from viz.errors import ConfigError


def checked(url: str, what: str = "a node's address") -> str:
    """Return a URL without its last slash; raise ConfigError if it is not an HTTP URL."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"{url!r} is not {what}: write it as http://host:port")
    return url.rstrip("/")


def origin_of(url: str) -> str:
    """Return scheme://host:port of a node's URL; raise ConfigError if it is not an HTTP URL."""
    parts = urlsplit(checked(url))
    return f"{parts.scheme}://{parts.netloc}"
