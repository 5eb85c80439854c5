"""JSON from strangers: parsed only when it is not nested deeper than anything of ours is.

Owns the bound on nesting, and the rule that a member stands once (``once``). The parser recurses in
C, and a library may have raised the interpreter's recursion limit beyond what the stack holds (one
of web3's does): a few hundred kilobytes of brackets would then end the process instead of raising.
Does not know what is in it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

MAX_DEPTH: Final = 64
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_AS_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKET: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


class MemberTwice(ValueError):
    """An object names a member twice, so that its readers may take different values."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of ``pairs`` (an ``object_pairs_hook``); raise MemberTwice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MemberTwice(f"the member {twice[:40]!r} stands twice")
    return found


def load_json(raw: bytes | str, **options: Any) -> Any:
    """Return the value in ``raw``, as ``json.loads`` does with ``options``.

    Raises ValueError for what is not JSON, and for nesting beyond MAX_DEPTH.
    """
    data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _too_deep(data):
        raise ValueError(f"nested deeper than {MAX_DEPTH}, or unbalanced")
    return json.loads(raw, **options)


def _too_deep(data: bytes) -> bool:
    left = _STRING.sub(b"", data).translate(_AS_SQUARE, _NOT_BRACKET)
    # Each turn takes the innermost brackets away: what holds out is deeper, or unbalanced.
    for _ in range(MAX_DEPTH):
        if not left:
            break
        left = left.replace(b"[]", b"")
    return bool(left)
