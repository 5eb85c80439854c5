"""Parse HTTP URLs from strangers: in listings, in the directory, in signed requests."""

from __future__ import annotations

from urllib.parse import urlsplit


def http_origin(url: str) -> str | None:
    """Return scheme://host[:port] of a plain HTTP URL; None for anything else.

    A plain URL has no credentials, query or fragment, and only printable characters.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    good = parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
    bare = not (parts.username or parts.password or parts.query or parts.fragment)
    if not good or not bare or not url.isprintable() or "@" in parts.netloc:
        return None
    return f"{parts.scheme}://{parts.netloc}"
