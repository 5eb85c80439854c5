"""Compute a work's content code, and estimate how similar two works are.

The code is the ISCC Text-Code of ISO 24138 with 256 bits: a MinHash over the text's runs of 13
characters, without letter case, white space and punctuation. So one library gives both a standard
identifier and the estimate of near duplicates; another MinHash library (``datasketch`` needs SciPy)
would add nothing. Only ``content_code_of`` reads a file.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from viz.domain.units import ContentId
from viz.domain.work import Work
from viz.protocol.listing import WorkListing
from viz.services.work_records import read_work

BITS: Final = 256
# Works are called alike from this value on. Unrelated works reach it less than once in 10^14 pairs.
ALIKE: Final = 0.5
# The beginning of every code: a text, version 0, 256 bits (the header's two bytes 20 d7).
_CODE: Final = re.compile(r"ISCC:(EAD[A-Z2-7]{52})", re.ASCII)
_HEADER_BYTES: Final = 2
_MOST_ALIKE: Final = 10


@dataclass(frozen=True, slots=True)
class AlikeWork:
    """A listed work that shares passages with the checked one; ``shared`` is 0 to 1."""

    content_id: int
    title: str
    credit: str
    shared: float


def text_of(work: Work) -> str:
    """Return the text of a work; of a dialogue, without the JSON around it."""
    if work.kind == "text":
        return "\n\n".join(chunk.text for chunk in work.chunks)
    return "\n\n".join(message.content for chunk in work.chunks for message in chunk.messages)


def content_code(work: Work) -> str:
    """Return a work's ISCC Text-Code. Blocks: some seconds for a work of several MiB."""
    import iscc_lib

    return str(iscc_lib.gen_text_code_v0(text_of(work), bits=BITS)["iscc"])


def content_code_of(path: Path, kind: str) -> str:
    """Return the content code of a work's file; raise as ``read_work``. Blocks."""
    return content_code(read_work(path, kind))


def likeness(one: str, other: str) -> float | None:
    """Return the share of passages that two works have in common, 0 to 1; None for other codes.

    An estimate from the bits: half of them agree for unrelated works, all for equal works. The
    typical error is 0.06. A short work that is a part of a long one has a low share.
    """
    first, second = _bits(one), _bits(other)
    if first is None or second is None:
        return None
    differing = (first ^ second).bit_count()
    return max(0.0, 1 - 2 * differing / BITS)


def alike(
    iscc: str, listings: Iterable[WorkListing], own: Collection[ContentId] = ()
) -> list[AlikeWork]:
    """Return the listed works that are similar, the most similar first. An estimate.

    ``own`` are not compared: the ids under which the work itself is registered.
    """
    found = []
    for each in listings:
        if each.content_id in own:
            continue
        shared = likeness(iscc, each.iscc or "")
        if shared is not None and shared >= ALIKE:
            row = AlikeWork(int(each.content_id), each.title, each.credit, round(shared, 2))
            found.append(row)
    return sorted(found, key=lambda each: (-each.shared, each.content_id))[:_MOST_ALIKE]


def _bits(code: str) -> int | None:
    found = _CODE.fullmatch(code)
    if found is None:
        return None
    return int.from_bytes(base64.b32decode(found[1] + "=")[_HEADER_BYTES:], "big")
