"""Put the text of a page's own entities in their places, within bounds, and count what is lost.

An XHTML page of a book can declare entities in its DOCTYPE (``<!ENTITY hero "Ilse Brandt">``). Owns
which of them are text: those whose value, with the entities that it names, is short and known.
Nothing is loaded. A value is looked through ``_DEEPEST`` times, and a page whose entities would add
more than ``_MAX_ADDED`` characters is refused, so that no page can grow without end. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, partial
from html.entities import html5
from typing import Final

from viz.errors import InvalidWork

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
_DEEPEST: Final = 8
ELSEWHERE: Final = "entities whose text is in another file, which is not loaded"
NESTED: Final = (
    f"entities with more than {_MAX_VALUE:,} characters, or that name an unknown one, themselves, "
    f"or others {_DEEPEST} deep"
)
UNKNOWN: Final = "entities that the page does not declare"


def with_entities(text: str) -> tuple[str, Counter[str]]:
    """Return XHTML with its own entities as text and without its DOCTYPE, and what was lost.

    HTML's names (``&nbsp;``) stay as they are. The counter tells how often which kind of entity is
    used whose text is not known. Raises InvalidWork if the entities would add too much text.
    """
    lost: Counter[str] = Counter()
    found = _DOCTYPE.search(text)
    values, elsewhere = _declared(found[1] or "") if found else ({}, set())
    text = _DOCTYPE.sub("", text, count=1)
    whole = cache(partial(_whole, values, elsewhere))
    left = _MAX_ADDED

    def put(used: re.Match[str]) -> str:
        nonlocal left
        name = used[1]
        if name is None or name in _OF_XML:
            return used[0]
        if name in values:
            value = whole(name)
            if value is None:
                lost[NESTED] += 1
                return ""
            left -= len(value)
            if left < 0:
                raise InvalidWork(
                    "the entities that a page of the book declares would add more than "
                    f"{_MAX_ADDED:,} characters to it: replace them by their text, and export the "
                    "book again"
                )
            return value
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


def _whole(values: dict[str, str], elsewhere: set[str], name: str) -> str | None:
    """Return an entity's value with the entities that it names as text; None if it is no text."""
    text = values[name]
    for _ in range(_DEEPEST):
        if len(text) > _MAX_VALUE:
            return None
        named = [each for each in _USED.findall(text) if each and each not in _OF_XML]
        if any(each in elsewhere or not _is_known(each, values) for each in named):
            return None
        declared = [each for each in named if each in values]
        if not declared:
            return text
        if sum(len(values[each]) for each in declared) > _MAX_VALUE:
            return None
        text = _USED.sub(lambda used: values.get(used[1] or "", used[0]), text)
    return None


def _is_known(name: str, values: dict[str, str]) -> bool:
    return name in values or f"{name};" in html5
