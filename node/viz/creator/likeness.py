"""Compute a work's content code, and tell how alike two works are.

The code is the ISCC Text-Code of ISO 24138 with 256 bits: a MinHash over the text's runs of 13
characters, without letter case, white space and punctuation. So one library gives the identifier
that others know and the estimate of near duplicates; a MinHash beside it (``datasketch`` needs
SciPy, ``rensa`` would be a second one) would tell the same. Pure, but for the library's own code.
"""

from __future__ import annotations

import base64
import re
from typing import Final

from viz.domain.work import Work

BITS: Final = 256
# From here on two works are called alike. Of works that share nothing, none in 10^14 gets there.
ALIKE: Final = 0.5
# What every code begins with: of a text, version 0, 256 bits; its header is the two bytes 20 d7.
_CODE: Final = re.compile(r"ISCC:(EAD[A-Z2-7]{52})", re.ASCII)
_HEADER_BYTES: Final = 2


def text_of(work: Work) -> str:
    """Return the words of a work, without the members of JSON in which a dialogue has them."""
    if work.kind == "text":
        return "\n\n".join(chunk.text for chunk in work.chunks)
    return "\n\n".join(message.content for chunk in work.chunks for message in chunk.messages)


def content_code(work: Work) -> str:
    """Return a work's ISCC Text-Code. Blocks: some seconds for a work of several MiB."""
    import iscc_lib

    return str(iscc_lib.gen_text_code_v0(text_of(work), bits=BITS)["iscc"])


def likeness(one: str, other: str) -> float | None:
    """Return which part of their passages two works share, 0 to 1; None for another kind of code.

    An estimate: of bits of works that share nothing half agree, and of equal ones all. It is off by
    0.06 as a rule. A short work inside a long one shares little with it.
    """
    first, second = _bits(one), _bits(other)
    if first is None or second is None:
        return None
    differing = (first ^ second).bit_count()
    return max(0.0, 1 - 2 * differing / BITS)


def _bits(code: str) -> int | None:
    found = _CODE.fullmatch(code)
    if found is None:
        return None
    return int.from_bytes(base64.b32decode(found[1] + "=")[_HEADER_BYTES:], "big")
