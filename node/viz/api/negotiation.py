"""Read Accept, If-None-Match and Range; answer with an ETag.

Source: RFC 9110, sections 12.5.1, 13.1.2 and 14.2. Malformed parts are ignored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import hdrs, web

from viz.errors import RangeNotSatisfiable

MAX_TYPES: Final = 64
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE | re.ASCII)
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


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One member of Accept, in lower case: ``name`` is a type, ``type/*`` or ``*/*``."""

    name: str
    quality: float
    parameters: Mapping[str, str]


def media_ranges(lines: Sequence[str]) -> list[MediaRange]:
    """Return what Accept names, in its order."""
    found = []
    for each in ",".join(lines).split(",")[:MAX_TYPES]:
        name, *rest = (part.strip().lower() for part in each.split(";"))
        if not name:
            continue
        parameters = {key.strip(): value.strip() for key, _, value in map(_parted, rest)}
        given = parameters.pop("q", "1")
        quality = float(given) if _QUALITY.fullmatch(given) else 0.0
        found.append(MediaRange(name, quality, parameters))
    return found


def quality_of(media_type: str, ranges: Sequence[MediaRange]) -> float:
    """Return the quality of a type: what the most specific range that fits it says, else 0."""
    whole = media_type.partition("/")[0] + "/*"
    for name in (media_type, whole, "*/*"):
        fitting = [each.quality for each in ranges if each.name == name]
        if fitting:
            return max(fitting)
    return 0.0


def span_of(header: str | None, size: int) -> range | None:
    """Return the bytes that a Range header asks for, of ``size``; None to send all of them.

    As RFC 9110, section 14.2, allows, all are sent for another unit, for several ranges and for a
    header that is malformed. Raises RangeNotSatisfiable if the range begins after the end.
    """
    asked = None if header is None else _RANGE.fullmatch(header.strip())
    if asked is None or not size or asked[1] == asked[2] == "":
        return None
    if not asked[1]:
        first, last = size - min(size, int(asked[2])), size - 1
    else:
        first, last = int(asked[1]), min(size - 1, int(asked[2] or size - 1))
        if asked[2] and int(asked[2]) < first:
            return None
    if first >= size:
        raise RangeNotSatisfiable(f"there are {size} bytes: begin before", sizeBytes=size)
    return range(first, last + 1)


def _parted(part: str) -> tuple[str, str, str]:
    return part.replace('"', "").partition("=")
