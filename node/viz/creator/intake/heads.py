"""Find the head of a text: where front matter begins and ends, and in which language it is.

Owns the forms of fences: ``---`` (also with a language, a comment, or up to three blanks before
it), ``+++``, ``;;;``, and a JSON object that begins the text. Blank lines, byte order marks and
HTML comments may stand before a head. Also owns what tells a head from a script's speech, a letter
and a list of amounts, whose lines look alike, and which comments stand at a text's beginning.
``front_matter`` reads what is found here. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from viz.creator.intake.signals import (
    is_answer,
    is_preferences,
    is_rule,
    is_tags,
    named_statements,
    plain_name,
)

HeadLanguage = Literal["yaml", "toml", "json"]

_MOST_CHARACTERS: Final = 1 << 15
# Blank lines, and marks that nobody sees.
_BLANK: Final = re.compile(r"[\s\ufeff\u200b]*")
_FENCE: Final = re.compile(
    r"(?P<mark>---|\+\+\+|;;;)[ \t]*(?P<language>ya?ml|toml|json5?|)"
    r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)",
    re.I,
)
_BY_WORD: Final[dict[str, HeadLanguage]] = {
    "yaml": "yaml",
    "yml": "yaml",
    "toml": "toml",
    "json": "json",
    "json5": "json",
}
_BY_MARK: Final[dict[str, HeadLanguage]] = {"-": "yaml", "+": "toml", ";": "json"}
# A closing line: alone, or with a comment, or with words, which stay text. Not a table's line.
_CLOSING: Final[dict[str, re.Pattern[str]]] = {
    "-": re.compile(r"^ {0,3}(?:---(?=[ \t#]|$)|\.\.\.(?=[ \t]*(?:#|$)))[ \t]*(?!\|)", re.M),
    "+": re.compile(r"^ {0,3}\+\+\+(?=[ \t#]|$)[ \t]*", re.M),
    ";": re.compile(r"^ {0,3};;;(?=[ \t#]|$)[ \t]*", re.M),
}
_MOST_CLOSINGS: Final = 8
_MOST_LINES: Final = 200
# ``abstract: |``: what is indented more belongs to the value.
_BLOCK: Final = re.compile(r"(?:^|[:\-][ \t]+)[|>][\d+-]{0,2}[ \t]*(?:#.*)?$")
_OBJECT: Final = re.compile(r"""\{\s*(?:"[^"\n]{1,80}"|'[^'\n]{1,80}'|\w[\w.-]{0,60})\s*:""")
_TOKEN: Final = re.compile(r"""("(?:\\.|[^"\\])*"|'[^'\n]*')|([{\[])|([}\]])""", re.S)
_BRACE_LINES: Final = re.compile(r"""\{[ \t]*\n\s*["']""")
_BRACE_LINE: Final = re.compile(r"^\}[ \t]*$", re.M)
_NAMED_LINE: Final = re.compile(r"""["']?\w[\w.-]*["']?[ \t]*(?::(?:[ \t]|$)|=)""")
_OTHER_LINE: Final = (" ", "\t", "#", "-", "]", "}")
_SPEAKER: Final = re.compile(r"""([^\s:"'#\-][^:\n"]{0,40}):[ \t]+(\S.*)""")
_DATUM: Final = re.compile(
    r"true|false|null|[\d.:/\-+ TZ]+|https?://\S+|\{.*\}|\[.*\]", re.IGNORECASE
)
# A value that is more than a word: where a block, a list or a mapping begins, and a quantity.
_BLOCK_VALUE: Final = re.compile(r"[|>][\d+-]{0,2}[ \t]*(?:#.*)?")
_BEFORE_VALUE: Final = re.compile(r"(?:[&!]\S*[ \t]+)+")
_COMMENT: Final = re.compile(r"[ \t]#.*")
_BRACKET: Final = re.compile(r"([\[{])|([\]}])")
_AROUND: Final = "[]{}\"', \t"
_SENTENCE: Final = re.compile(r"\S+\s.*[.!?\u2026][\"'\u2019\u201d)*_]*", re.S)
_AMOUNT: Final = re.compile(r"(?:about |ca\.? )?[\d\u00bc-\u00be\u2150-\u215e].*[^\W\d_].*")
_LETTERHEAD: Final = frozenset({"to", "from", "cc", "bcc", "re", "subject", "date", "sent", "attn"})
_HEADING: Final = re.compile(r" {0,3}#{1,6}(?:[ \t]|$)")
_UNDERLINE: Final = re.compile(r" {0,3}(?:=+|-+)[ \t]*(?:\n|\Z)")
# Names that heads have, and speakers have not; as ``compact`` writes them.
_USUAL: Final = frozenset(
    re.findall(
        r"\w+",
        """abstract alias aliases article author authors bibliography byline canonical categories
        category comments contributor contributors copyright cover created creator creators css
        date description doi draft edition excerpt featured format genre id identifier image images
        isbn issn keywords lang language languages lastmod layout licence license locale menu meta
        metadata modified og output pagetitle params permalink pubdate published publishdate
        publisher redirect redirectfrom rights robots schema seo series sitemap slug source status
        subject subtitle summary tag tags taxonomies template theme thumbnail title toc topics type
        uid updated url uuid version weight""",
    )
)


@dataclass(frozen=True, slots=True)
class HeadBounds:
    """One possible head: its parser reads ``text[start:end]``, and text goes on at ``after``.

    ``fenced``: it is a head by its form, whatever its names are. ``alone``: no other text is on its
    last line.
    """

    language: HeadLanguage
    start: int
    end: int
    after: int
    fenced: bool = True
    alone: bool = True


@dataclass(frozen=True, slots=True)
class HeadSearch:
    """What was found at the beginning of a text.

    ``begin`` is where its first line is that is not blank or a comment. ``closed`` are possible
    heads, the nearest end first; ``never_closed`` is one that has a beginning and no end.
    """

    begin: int
    comments: tuple[str, ...] = ()
    closed: tuple[HeadBounds, ...] = ()
    never_closed: HeadBounds | None = None


def find_head(text: str) -> HeadSearch:
    """Look for a head at the beginning of a text with LF."""
    begin, comments = 0, []
    while True:
        begin = _after_blank(text, begin)
        end = text.find("-->", begin) if text.startswith("<!--", begin) else -1
        if end < 0:
            break
        comments.append(text[begin + 4 : end])
        begin = end + 3
    # Up to three blanks may stand before a fence; more make a block of code.
    line = text.rfind("\n", 0, begin) + 1
    if len(before := text[line:begin].strip("\ufeff\u200b")) > 3 or before.strip(" "):
        return HeadSearch(begin, tuple(comments))
    if fence := _FENCE.match(text, begin):
        closed, open_ = _fenced(text, fence)
    elif _OBJECT.match(text, begin):
        closed, open_ = _object(text, begin)
    else:
        closed, open_ = (), None
    return HeadSearch(begin, tuple(comments), closed, open_)


def _after_blank(text: str, begin: int) -> int:
    blank = _BLANK.match(text, begin)
    return blank.end() if blank else begin


def _fenced(text: str, fence: re.Match[str]) -> tuple[tuple[HeadBounds, ...], HeadBounds | None]:
    mark = fence["mark"][0]
    language = _BY_WORD.get(fence["language"].lower(), _BY_MARK[mark])
    start, found = fence.end(), []
    for closing in _CLOSING[mark].finditer(text, start):
        line_end = text.find("\n", closing.end())
        line_end = len(text) if line_end < 0 else line_end
        indented = text[closing.start()] == " "
        if indented and (
            closing.start() - start > _MOST_CHARACTERS or _in_block(text, start, closing)
        ):
            continue
        words = text[closing.end() : line_end]
        comment = not words or words.startswith("#")
        after = line_end if comment else closing.end()
        found.append(HeadBounds(language, start, closing.start(), after))
        if not (indented or words) or len(found) == _MOST_CLOSINGS:
            break
    if found:
        return tuple(found), None
    return (), _open(language, text, start)


def _in_block(text: str, start: int, closing: re.Match[str]) -> bool:
    """Return whether an indented line belongs to a value that is written as a block."""
    indent = len(closing[0]) - len(closing[0].lstrip(" "))
    end = closing.start() - 1
    for _ in range(_MOST_LINES):
        begin = text.rfind("\n", 0, max(end, 0)) + 1
        if begin < start:
            return False
        line = text[begin:end]
        if line.strip() and len(line) - len(line.lstrip(" ")) < indent:
            return bool(_BLOCK.search(line))
        end = begin - 1
    return False


def _object(text: str, begin: int) -> tuple[tuple[HeadBounds, ...], HeadBounds | None]:
    depth, ends = 0, []
    for token in _TOKEN.finditer(text, begin, begin + _MOST_CHARACTERS):
        depth += bool(token[2]) - bool(token[3])
        if depth == 0 and not token[1]:
            ends.append(token.end())
            break
    if by_line := _BRACE_LINE.search(text, begin):
        ends.append(by_line.start() + 1)
    found = []
    for end in dict.fromkeys(ends):
        line_end = text.find("\n", end)
        alone = not text[end : line_end if line_end >= 0 else len(text)].strip()
        fenced = alone and text[end - 2] == "\n" and bool(_BRACE_LINES.match(text, begin))
        found.append(HeadBounds("json", begin, end, end, fenced, alone))
    return tuple(found), None if found else _open("json", text, begin)


def _open(language: HeadLanguage, text: str, start: int) -> HeadBounds:
    """Return the lines after a fence that nothing closes which can belong to a head."""
    end = start
    while end < len(text) and end - start < _MOST_CHARACTERS:
        line_end = text.find("\n", end)
        line_end = len(text) if line_end < 0 else line_end + 1
        line = text[end : line_end - 1] if line_end < len(text) else text[end:line_end]
        inside = language != "yaml" and line.strip()
        if not (inside or not line.strip() or is_head_line(line)):
            break
        if language == "json" and not line.strip():
            break
        end = line_end
    return HeadBounds(language, start, end, end)


def is_head_line(line: str) -> bool:
    """Return whether a line is a name with a value, or can belong to one."""
    return line.startswith(_OTHER_LINE) or bool(_NAMED_LINE.match(line))


def looks_named(head: str, language: HeadLanguage) -> bool:
    """Return whether each line is a name with a value or belongs to one; prose is not."""
    lines = head.strip("\n").rstrip().split("\n")
    first = next((each for each in lines if each.strip() and each[0] != "#"), "")
    if language == "toml":
        return first.startswith("[") or bool(_NAMED_LINE.match(first))
    if language == "json":
        return head.lstrip().startswith(("{", '"'))
    return bool(_NAMED_LINE.match(first)) and all(map(is_head_line, lines)) and not is_speech(head)


def compact(name: str) -> str:
    """Return a name without case, blanks and marks: ``TDM_Reservation``, ``tdm reservation``."""
    return re.sub(r"[\W_]+", "", name).casefold()


def is_usual(name: str) -> bool:
    """Return whether heads usually have something of this name."""
    return compact(name) in _USUAL


def is_speech(head: str) -> bool:
    """Return whether the lines are what people say or write: ``ANNA: Good morning.``; no head.

    Speakers are written with a capital, or speak more than once. A list or a mapping is nobody's
    speech, and neither is what reserves. A letter's first lines and a list of amounts are text too.
    """
    names: list[str] = []
    values: list[str] = []
    structured = False
    for line in head.strip("\n").split("\n"):
        if not line.strip():
            continue
        if line[0] in " \t" and names:
            values[-1] += f" {line.strip()}"
            continue
        said = _SPEAKER.match(line)
        if not said:
            return False
        names.append(said[1].strip())
        values.append(said[2].strip())
        structured = structured or bool(_BLOCK_VALUE.fullmatch(values[-1]))
    if not names or any(map(_reserves, names, values)):
        return False
    capital = all(name[0].isalpha() and not name[0].islower() for name in names)
    # Who speaks twice may be heard without a word: `ANNA: [sighs]`. A head has each name once.
    repeated = len(set(names)) < len(names)
    if structured or (not repeated and any(map(_is_structure, values))):
        return False
    data = [bool(_DATUM.fullmatch(value)) for value in values]
    if capital and _LETTERHEAD.issuperset(map(compact, names)):
        return not any(data) or not {"to", "from"}.isdisjoint(map(compact, names))
    if any(map(is_usual, names)):
        return repeated and all(map(_SENTENCE.fullmatch, values))
    amounts = sum(bool(_AMOUNT.fullmatch(value)) for value in values if not _DATUM.fullmatch(value))
    listed = 2 * amounts > len(values) and all(name.replace(" ", "").isalpha() for name in names)
    return listed or ((capital or repeated) and not all(data))


def _reserves(name: str, value: str) -> bool:
    """Return whether a rule alone has this name, or a value that no sentence is reserves by it."""
    plain, said = plain_name(name), _COMMENT.sub("", value).strip(_AROUND)
    if is_rule(plain):
        return True
    terse = is_answer(said) or is_preferences(said) or is_tags(said)
    return terse and any(each.says == "reserved" for each in named_statements(plain, said, ""))


def _is_structure(value: str) -> bool:
    """Return whether a value is one list or mapping of YAML, also one that nothing closes."""
    value = _COMMENT.sub("", _BEFORE_VALUE.sub("", value, count=1)).strip()
    if value[:1] not in ("[", "{"):
        return False
    depth = 0
    for bracket in _BRACKET.finditer(value):
        depth += 1 if bracket[1] else -1
        if depth == 0:
            return bracket.end() == len(value)
    return True


def leading_comments(text: str, begin: int) -> list[str]:
    """Return the comments of HTML that stand among a text's first headings and names."""
    found: list[str] = []
    at = begin
    for _ in range(_MOST_LINES):
        at = _after_blank(text, at)
        line_end = text.find("\n", at)
        line_end = len(text) if line_end < 0 else line_end
        line = text[at : min(line_end, at + _MOST_CHARACTERS)]
        if at >= min(len(text), begin + _MOST_CHARACTERS) or _is_code(text, at):
            break
        if line.startswith("<!--"):
            end = text.find("-->", at + 4)
            if end < 0:
                break
            found.append(text[at + 4 : end])
            at = end + 3
        elif _HEADING.match(line) or _NAMED_LINE.match(line) or set(line.strip()) <= set("-+;."):
            found += re.findall("<!--(.{1,400}?)-->", line)
            at = line_end
        elif underline := _UNDERLINE.match(text, line_end + 1):
            at = underline.end()
        else:
            break
    return found


def _is_code(text: str, at: int) -> bool:
    """Return whether so many blanks stand before a line's words that Markdown takes it for code."""
    before = text[text.rfind("\n", 0, at) + 1 : at]
    return "\t" in before or (before.isspace() and before.count(" ") > 3)


def leading_lines(text: str, begin: int) -> Iterator[str]:
    """Yield the lines at a text's beginning so far as they can be a head without fences."""
    for line in text[begin : begin + _MOST_CHARACTERS].split("\n")[:_MOST_LINES]:
        plain = line.strip()
        if plain and ":" not in plain and "=" not in plain and not is_head_line(line):
            if not set(plain) <= set("-+;.{}[],"):
                return
            continue
        yield line
