"""Choose the form in which a blob is answered: its bytes, one raw block, or a CAR of its blocks.

Owns the query parameters and the Accept header of a trustless gateway, and the headers that follow
from the choice: type, ETag, location. Source: the Trustless Gateway and Path Gateway specifications
of IPFS, and IPIP-402 and IPIP-412 for CARs. Invariant: answers with different bytes have different
ETags.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from viz.api.negotiation import MediaRange, media_ranges, quality_of
from viz.errors import InvalidRequest, NotAcceptable

FILE: Final = "application/octet-stream"
RAW: Final = "application/vnd.ipld.raw"
CAR: Final = "application/vnd.ipld.car"
_FORMATS: Final = {"raw": RAW, "car": CAR}
_SCOPES: Final = ("all", "entity", "block")
_OFFERED: Final = f"this node answers {FILE}, {RAW} (format=raw) and {CAR} (format=car)"
_FOREVER: Final = "public, max-age=29030400, immutable"
_ENTITY: Final = re.compile(r"(-?\d{1,18}|\*):(-?\d{1,18}|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class EntityBytes:
    """A range of a file's bytes as in ``entity-bytes``: negative numbers count from the end.

    ``last`` is the last byte itself, or None for the end of the file.
    """

    first: int
    last: int | None

    def of(self, size: int) -> range:
        """Return the range in a file of ``size`` bytes, cut at its end; possibly empty.

        Raises InvalidRequest if the range begins after the end.
        """
        if self.first >= size > 0:
            raise InvalidRequest(
                f"the file has {size} bytes: begin before its end", param="entity-bytes"
            )
        first = max(0, self.first + size if self.first < 0 else self.first)
        last = size - 1 if self.last is None else self.last
        return range(first, max(first, min(size, (last + size if last < 0 else last) + 1)))


@dataclass(frozen=True, slots=True)
class Representation:
    """The form of an answer; ``scope``, ``entity`` and ``duplicates`` are for CARs."""

    media_type: str
    scope: str = "all"
    entity: EntityBytes | None = None
    duplicates: bool = False

    def headers(self, cid: str) -> dict[str, str]:
        """Return the headers of this form of a blob, for the whole answer or a part."""
        path = f"/ipfs/{cid}"
        found = {
            "Cache-Control": _FOREVER,
            "Content-Type": self._content_type(),
            "ETag": f'"{cid}{self._suffix()}"',
            "Vary": "Accept",
            "X-Content-Type-Options": "nosniff",
            "X-Ipfs-Path": path,
            "X-Ipfs-Roots": cid,
            # A CAR's parts are asked for by entity-bytes.
            "Accept-Ranges": "none" if self.media_type == CAR else "bytes",
        }
        if self.media_type != FILE:
            extension = "bin" if self.media_type == RAW else "car"
            found["Content-Disposition"] = f'attachment; filename="{cid}.{extension}"'
            found["Content-Location"] = path + self._query()
        return found

    def _content_type(self) -> str:
        dups = "y" if self.duplicates else "n"
        return (
            f"{CAR}; version=1; order=dfs; dups={dups}"
            if self.media_type == CAR
            else self.media_type
        )

    def _suffix(self) -> str:
        if self.media_type != CAR:
            return ".raw" if self.media_type == RAW else ""
        part = "" if self.entity is None else f".{self._range()}"
        return f".car.{self.scope}{part}.{'y' if self.duplicates else 'n'}"

    def _query(self) -> str:
        if self.media_type == RAW:
            return "?format=raw"
        part = "" if self.entity is None else f"&entity-bytes={self._range()}"
        dups = "y" if self.duplicates else "n"
        return (
            f"?format=car&dag-scope={self.scope}{part}&car-version=1&car-order=dfs&car-dups={dups}"
        )

    def _range(self) -> str:
        entity = self.entity or EntityBytes(0, None)
        return f"{entity.first}:{'*' if entity.last is None else entity.last}"


def representation_of(query: Mapping[str, str], accept: Sequence[str]) -> Representation:
    """Return the form that a request asks for; ``format`` takes precedence over Accept.

    Raises NotAcceptable for a form that is not offered, InvalidRequest for a malformed parameter.
    """
    ranges = media_ranges(accept)
    if "format" in query:
        kind = _FORMATS.get(query["format"])
        if kind is None:
            raise NotAcceptable(f"format={query['format'][:40]!r}: {_OFFERED}", param="format")
        return (
            _car(query, [each for each in ranges if each.name == CAR])
            if kind == CAR
            else Representation(kind)
        )
    if not ranges:
        return Representation(FILE)
    # At the same quality, a named type wins over the file, which matches any wildcard.
    named = [each for each in ranges if each.name in (RAW, CAR) and each.quality > 0]
    best = max((each.quality for each in named), default=0.0)
    plain = quality_of(FILE, ranges)
    if plain > best:
        return Representation(FILE)
    if not named:
        raise NotAcceptable(f"nothing that Accept names is offered: {_OFFERED}")
    first = next(each for each in named if each.quality == best)
    return (
        Representation(RAW)
        if first.name == RAW
        else _car(query, [each for each in named if each.name == CAR])
    )


def _car(query: Mapping[str, str], asked: Sequence[MediaRange]) -> Representation:
    """Return the CAR for the best of the parameter sets ``asked`` that this node supports."""
    scope = query.get("dag-scope", "entity" if "entity-bytes" in query else "all")
    if scope not in _SCOPES:
        raise InvalidRequest(f"dag-scope is one of {', '.join(_SCOPES)}", param="dag-scope")
    entity = _entity_bytes(query["entity-bytes"]) if "entity-bytes" in query else None
    if scope == "block":
        entity = None
    choices = sorted(asked, key=lambda each: -each.quality) or [MediaRange(CAR, 1.0, {})]
    for each in choices:
        version, order, dups = (
            query.get(f"car-{name}", each.parameters.get(name, default))
            for name, default in (("version", "1"), ("order", "unk"), ("dups", "n"))
        )
        if version == "1" and order in ("dfs", "unk") and dups in ("y", "n"):
            return Representation(CAR, scope, entity, dups == "y")
    raise NotAcceptable("CARs come here with version=1, order=dfs, and dups=y or dups=n")


def _entity_bytes(text: str) -> EntityBytes:
    found = _ENTITY.fullmatch(text)
    if found is None or found[1] == "*":
        raise InvalidRequest(
            "entity-bytes is FROM:TO, two byte offsets, TO the last byte or * for the end",
            param="entity-bytes",
        )
    return EntityBytes(int(found[1]), None if found[2] == "*" else int(found[2]))
