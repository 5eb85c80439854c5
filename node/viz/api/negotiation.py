"""Read two HTTP headers that are lists: Accept and If-None-Match; answer with an ETag.

Source: RFC 9110, sections 12.5.1 and 13.1.2. Malformed parts are ignored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Final

from aiohttp import hdrs, web

MAX_TYPES: Final = 64
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')
_QUALITY: Final = re.compile(r"0(?:\.\d{0,3})?|1(?:\.0{0,3})?")


def is_known(lines: Sequence[str], tag: str) -> bool:
    """Return whether If-None-Match names ``tag`` (by weak comparison) or is ``*``."""
    return any(line.strip() == "*" or tag in _TAG.findall(line) for line in lines)


def tagged(
    request: web.Request, body: bytes, media_type: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an answer with the ETag of its body, or 304 if the client has it already."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    sent = {hdrs.ETAG: tag, **(headers or {})}
    if is_known(request.headers.getall(hdrs.IF_NONE_MATCH, ()), tag):
        return web.Response(status=304, headers=sent)
    charset = "utf-8" if media_type.startswith("text/") else None
    return web.Response(body=body, content_type=media_type, charset=charset, headers=sent)


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
