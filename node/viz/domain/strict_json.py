"""JSON from strangers: parsed only when it is not nested deeper than anything of ours is.

Owns the bound on nesting. The parser recurses in C, and a library may have raised the
interpreter's recursion limit beyond what the stack holds (one of web3's does): a few hundred
kilobytes of brackets would then end the process instead of raising. Does not know what is in it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

MAX_DEPTH: Final = 64
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NOT_BRACKET: Final = re.compile(rb"[^\[\]{}]+")


def load_json(raw: bytes | str, **options: Any) -> Any:
    """Return the value in ``raw``, as ``json.loads`` does with ``options``.

    Raises ValueError for what is not JSON, and for nesting beyond MAX_DEPTH.
    """
    data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    return json.loads(raw, **options)


def _depth(data: bytes) -> int:
    deepest = depth = 0
    for bracket in _NOT_BRACKET.sub(b"", _STRING.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return depth
        deepest = max(deepest, depth)
    return deepest
