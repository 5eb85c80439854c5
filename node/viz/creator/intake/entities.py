"""Put the text of a page's own entities in their places, within bounds, and count what is lost.

An XHTML page of a book can declare entities in its DOCTYPE (``<!ENTITY hero "Ilse Brandt">``). Owns
which of them are text: those declared with a short value that names no other declared entity.
Nothing is loaded, and nothing is expanded twice, so that no page can grow without end. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from html.entities import html5
from typing import Final

_NAME: Final = r"[^\W\d][\w.:-]{0,99}"
_QUOTED: Final = r"""(?:"[^"]*+"|'[^']*+')"""
_DOCTYPE: Final = re.compile(
    rf"<!DOCTYPE(?>{_QUOTED}|[^\"'\[>])*+"
    rf"(?:\[((?><!--.*?-->|{_QUOTED}|[^\"'\]])*+)\]\s*+)?>",
    re.IGNORECASE | re.DOTALL,
)
_DECLARED: Final = re.compile(
    rf"<!--.*?-->|<!ENTITY\s+({_NAME})\s+(?:(SYSTEM|PUBLIC)\b|({_QUOTED})\s*>)", re.DOTALL
)
# What is no text keeps its characters: comments are dropped later, and CDATA has no entities.
_USED: Final = re.compile(rf"<!--.*?-->|<!\[CDATA\[.*?\]\]>|&({_NAME});", re.DOTALL)
_OF_XML: Final = frozenset({"amp", "lt", "gt", "quot", "apos"})
_MAX_VALUE: Final = 2_000
_MAX_ADDED: Final = 1 << 20
ELSEWHERE: Final = "entities whose text is in another file, which is not loaded"
NESTED: Final = "entities that name other entities, or are too long"
UNKNOWN: Final = "entities that the page does not declare"


def with_entities(text: str) -> tuple[str, Counter[str]]:
    """Return XHTML with its own entities as text and without its DOCTYPE, and what was lost.

    HTML's names (``&nbsp;``) stay as they are. The counter tells how often which kind of entity is
    used whose text is not known.
    """
    lost: Counter[str] = Counter()
    found = _DOCTYPE.search(text)
    values, elsewhere = _declared(found[1] or "") if found else ({}, set())
    text = _DOCTYPE.sub("", text, count=1)
    left = _MAX_ADDED

    def put(used: re.Match[str]) -> str:
        nonlocal left
        name = used[1]
        if name is None or name in _OF_XML:
            return used[0]
        if name in values:
            value = values[name]
            if _is_text(value, values.keys() | elsewhere) and len(value) <= left:
                left -= len(value)
                return value
            lost[NESTED] += 1
            return ""
        if name in elsewhere:
            lost[ELSEWHERE] += 1
            return ""
        if f"{name};" in html5:
            return used[0]
        lost[UNKNOWN] += 1
        return ""

    return _USED.sub(put, text), lost


def _declared(subset: str) -> tuple[dict[str, str], set[str]]:
    """Return the entities of a DOCTYPE with a value, and those whose text is elsewhere."""
    values, elsewhere = dict[str, str](), set[str]()
    for name, source, value in _DECLARED.findall(subset):
        # The first declaration of a name counts.
        if not name or name in _OF_XML or name in values or name in elsewhere:
            continue
        if source:
            elsewhere.add(name)
        else:
            values[name] = value[1:-1]
    return values, elsewhere


def _is_text(value: str, declared: set[str]) -> bool:
    return len(value) <= _MAX_VALUE and not any(each in declared for each in _USED.findall(value))
