"""Find the head of a text: where its names with values stand, and in which language.

Owns the bounds: YAML, TOML or JSON between fences, a JSON object, lines of names as MultiMarkdown
has them, and a fence that nothing closes. Blank lines and HTML comments may stand above. Whether
it is a head or prose that looks like one is ``front_matter``'s to judge. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from textwrap import dedent
from typing import Final, Literal

HeadLanguage = Literal["yaml", "toml", "json", "lines"]

_ABOVE: Final = re.compile(r"(?:\s|<!--.*?-->)*+", re.DOTALL)
_FENCE: Final = re.compile(
    r"(?P<mark>---|\+\+\+|;;;)[ \t]*(?P<language>ya?ml|toml|json)?[ \t]*(?:#[^\n]*)?(?:\n|\Z)",
    re.IGNORECASE,
)
_CLOSING: Final = {
    mark: re.compile(rf"^ {{0,3}}(?:{marks})[ \t]*(?:#.*)?$", re.MULTILINE)
    for mark, marks in (("---", r"---|\.\.\."), ("+++", r"\+\+\+"), (";;;", ";;;"))
}
_LANGUAGES: Final[dict[str, HeadLanguage]] = {"---": "yaml", "+++": "toml", ";;;": "json"}
_NAMED: Final[dict[str, HeadLanguage]] = {
    "yaml": "yaml", "yml": "yaml", "toml": "toml", "json": "json"
}  # fmt: skip
_OBJECT: Final = re.compile(r"""\{(?=\s*["'])""")
_BRACE_LINE: Final = re.compile(r"^ {0,3}\}[ \t]*$", re.MULTILINE)
# A JSON text's strings, and the braces outside of them; a backslash takes the next letter with it.
_MARK: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{}]', re.DOTALL)
_REST: Final = re.compile(r"[ \t]*(?:\n|\Z)")
_ABOVE_LINE: Final = re.compile(r"(?:[ \t]*\n)*+")
_EMPTY_LINE: Final = re.compile(r"^[ \t]*$", re.MULTILINE)
_NAMED_LINE: Final = re.compile(r"""["']?\w[\w .:-]{0,60}["']?[ \t]*[:=]""")
_INDENT: Final = 3


@dataclass(frozen=True, slots=True)
class TextHead:
    """What may be the head of a text. ``body`` begins in line ``line``, from 1.

    ``rest`` is the text without it; None if nothing marks its end, so that it can only be read.
    """

    language: HeadLanguage
    body: str
    line: int
    rest: str | None


def find_head(text: str) -> TextHead | None:
    """Return what may be the head of a text whose line ends are LF; None if nothing may."""
    above = _ABOVE.match(text)
    at = above.end() if above else 0
    start = text.rfind("\n", 0, at) + 1
    indent = text[start:at]
    if indent.strip("\ufeff ") or len(indent) > _INDENT:
        return None
    if fence := _FENCE.match(text, at):
        return _fenced(text, start, fence)
    if _OBJECT.match(text, at):
        return _object(text, start, at)
    if _NAMED_LINE.match(text, at):
        return _open(text, at, "lines")
    return None


def _fenced(text: str, start: int, fence: re.Match[str]) -> TextHead | None:
    mark = fence["mark"]
    language = _NAMED.get((fence["language"] or "").lower(), _LANGUAGES[mark])
    closing = _CLOSING[mark].search(text, fence.end())
    if closing is None:
        return _open(text, fence.end(), language)
    return _head(text, language, (start, fence.end()), (closing.start(), closing.end()))


def _object(text: str, start: int, at: int) -> TextHead | None:
    """Return the JSON object that begins at ``at``, to the brace that closes it."""
    depth = 0
    end = None
    for mark in _MARK.finditer(text, at):
        depth += {"{": 1, "}": -1}.get(mark[0], 0)
        if depth == 0 and mark[0] == "}":
            end = mark.end()
            break
    if end is None or not _REST.match(text, end):
        # Something is wrong in it: it ends where its writer thought that it does.
        closing = _BRACE_LINE.search(text, at)
        if closing is None:
            return _open(text, at, "json")
        end = closing.end()
    return _head(text, "json", (start, at), (end, end))


def _head(
    text: str, language: HeadLanguage, opening: tuple[int, int], closing: tuple[int, int]
) -> TextHead:
    """Return the head between two marks, each given by where it begins and where it ends."""
    line = text.count("\n", 0, opening[1]) + 1
    body = dedent(text[opening[1] : closing[0]])
    return TextHead(language, body, line, text[: opening[0]] + text[closing[1] :])


def _open(text: str, at: int, language: HeadLanguage) -> TextHead | None:
    """Return the next lines from ``at`` on up to an empty one, as a head that nothing closes."""
    first = _ABOVE_LINE.match(text, at)
    at = first.end() if first else at
    empty = _EMPTY_LINE.search(text, at)
    body = dedent(text[at : empty.start() if empty else len(text)])
    return TextHead(language, body, text.count("\n", 0, at) + 1, None) if body.strip() else None
