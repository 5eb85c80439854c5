"""Parse JSON from strangers, with bounds on its nesting and its number of values.

Also refuses an object that has a member twice: one reader takes its first value, another its last,
so evidence with such an object says two things. Why bounds: the parser recurses in C, and
a library may have raised the interpreter's recursion limit above what the stack allows; a few
hundred kilobytes of brackets would then end the process instead of raising an error. The parser
also holds the interpreter's lock: two megabytes of small values stop everything else for a quarter
of a second. Invariants: the time of a refusal grows only with the length of the text; the parsed
text is the checked text, in UTF-8 only (``json.loads`` would guess UTF-16 or UTF-32, in which a
letter may contain the byte of a quotation mark).
"""

from __future__ import annotations

import codecs
import json
import re
from itertools import accumulate
from typing import Any, Final

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 65_536
# Python refuses 4,301 digits; numbers below that bound it converts in quadratic time.
MAX_DIGITS: Final = 1_000
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_MARK: Final = bytes(byte for byte in range(256) if byte not in b"[]{},:")
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class MemberTwice(ValueError):
    """An object has a member twice, so that two readers may use different values."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of ``pairs`` (an ``object_pairs_hook``); raise MemberTwice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise MemberTwice(f"the member {name[:40]!r} is there twice")
            seen.add(name)
    return found


class TooMuchJson(ValueError):
    """JSON beyond a bound; the text says which."""


def load_json(
    raw: bytes | str,
    *,
    max_values: int | None = MAX_VALUES,
    last_counts: bool = False,
    **options: Any,
) -> Any:
    """Return the value in ``raw``, as ``json.loads`` does with ``options``; bytes are UTF-8.

    ``last_counts``: of a member that is there twice the last one counts, for what is no evidence,
    or must be read as others read it. Raises ValueError if it is not JSON in UTF-8, MemberTwice
    unless ``last_counts``, and TooMuchJson for nesting beyond MAX_DEPTH, more than ``max_values``
    values (None: no bound), or a whole number with more than MAX_DIGITS.
    """
    if isinstance(raw, str):
        text, data = raw, raw.encode("utf-8", "surrogatepass")
    else:
        data = raw.removeprefix(codecs.BOM_UTF8)  # some editors write it; RFC 8259 allows this
        text = data.decode("utf-8")
    _check_shape(data, max_values)
    if not last_counts:
        options = _with_each_member_once(options)
    try:
        return json.loads(text, **{"parse_int": _whole, **options})
    except RecursionError:
        raise TooMuchJson("nested deeper than the interpreter's stack") from None


def _with_each_member_once(options: dict[str, Any]) -> dict[str, Any]:
    """Return ``json.loads``'s options with ``once``; a caller's own ``object_pairs_hook`` stays."""
    hook = options.get("object_hook")
    if hook is None:
        return {"object_pairs_hook": once, **options}
    return {"object_pairs_hook": lambda pairs: hook(once(pairs)), **options}


def _check_shape(data: bytes, max_values: int | None) -> None:
    most = len(data) if max_values is None else max_values
    # A cheap lower bound first: every string begins with a quotation mark without a backslash
    # before it. To find the strings one by one would take longer than this refusal.
    if data.count(b'"') - data.count(b'\\"') > 2 * most:
        raise TooMuchJson(f"more than {most} values")
    brackets = data.count(b"[") + data.count(b"{")
    if brackets <= MAX_DEPTH and brackets + data.count(b",") + data.count(b":") <= most:
        return
    marks = _STRING.sub(b"", data).translate(None, _NO_MARK)
    if len(marks) - marks.count(b"]") - marks.count(b"}") > most:
        raise TooMuchJson(f"more than {most} values")
    depths = accumulate(map(_STEP.__getitem__, marks.translate(None, b",:")), initial=0)
    if max(depths) > MAX_DEPTH:
        raise TooMuchJson(f"nested deeper than {MAX_DEPTH}")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise TooMuchJson(f"a number has {len(digits)} digits; at most {MAX_DIGITS} are allowed")
    return int(digits)
