"""Read front matter: what site generators find at the beginning of a Markdown file.

Owns which name, at any depth, has which value; ``heads`` finds where it begins and ends. JSON is
read as YAML. ``signals`` judges names and values as it judges a page's meta elements. YAML's tags
make nothing, its text stays as it is written, and what its aliases repeat is bounded. Front matter
that cannot be read reserves training; text between two thematic breaks stays text. Lines at a
text's beginning whose name only a rule has count too, and stay text. Pure.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Final

import yaml

from viz.creator.intake.found import OptOut
from viz.creator.intake.heads import (
    HeadBounds,
    HeadLanguage,
    find_head,
    is_speech,
    is_usual,
    leading_comments,
    leading_lines,
    looks_named,
)
from viz.creator.intake.markup import html_tree
from viz.creator.intake.signals import (
    as_seen,
    html_signals,
    is_answer,
    is_preferences,
    is_rule,
    is_tags,
    is_usage,
    named_statements,
    plain_name,
    says_no_ai,
)
from viz.domain.display import counted
from viz.domain.strict_json import load_json

_WHERE: Final = "front matter"
_AT_BEGINNING: Final = "a line at the beginning"
_NEVER_CLOSED: Final = "front matter that no line closes is part of the text"
_MOST_CHARACTERS: Final = 1 << 15
_MOST_VALUES: Final = 20_000
_DEEPEST: Final = 64
# How a page's meta elements, written as data, call the name whose value is their ``content``.
_NAME_OF_PAIR: Final = frozenset({"name", "property", "http-equiv"})
# For front matter that no parser reads: each name before a value, and each line with one.
_NAME: Final = re.compile(r"""(?:^|[{\[,])[ \t-]*["']?(\w[\w.-]{0,60})["']?[ \t]*[:=]""", re.M)
_ENTRY_LINE: Final = re.compile(r"""^[ \t]*(?:[-\[{]|["']?\w[\w.-]*["']?[ \t]*[:=]).*""", re.M)

# A line of a text that may be a head without fences: its value is a word, preferences, or tags.
_PLAIN: Final = re.compile(
    r""" {0,3}(?:[-*>#%;/|{]+[ \t]*)?["'*_]*(?P<name>(?:tdm:)?[a-z][\w .:-]{0,60}?)"""
    r"""["'*_]*[ \t]*[:=](?P<value>.*)""",
    re.I,
)
_WORD: Final = re.compile(r"[\w?/:-]+")
# ``tdm`` is other things too: at a text's beginning only these words are sure to bar.
_BARS: Final = re.compile(
    r"opt(?:ed)?[ -]?out|reserv(?:ed|ation)|prohibited|disallow(?:ed)?|forbidden|den(?:y|ied)", re.I
)
# Where a work is filed by single words, and the word there that reserves.
_FILED: Final = frozenset({"tag", "tags", "keyword", "keywords", "flags", "categories"})
_NO_AI_TAG: Final = re.compile(r"no[-_]?ai", re.I)
# Markup for a page's head, perhaps in Pandoc's mark for raw HTML.
_MARKUP: Final = re.compile(r"\s*(?:```\s*\{?=?html\}?\s*)?<(?:meta|link|script)\b", re.I)


@dataclass(frozen=True, slots=True)
class FrontMatter:
    """The front matter of a text: each value with its names, the outermost first.

    ``left_out`` tells what the text has lost by it, and is empty if that is nothing; ``kept`` tells
    why front matter stays text.
    """

    entries: Sequence[tuple[tuple[str, ...], str]] = ()
    opt_outs: Sequence[OptOut] = ()
    left_out: str = ""
    kept: str = ""
    tool: str = ""

    def first(self, *names: str) -> str:
        """Return the first of these names' values that stands outermost and is not empty."""
        told = ((path, text) for name in names for path, text in self.entries if path == (name,))
        return next((text for _path, text in told if text not in ("", "null", "~")), "")


class _Pairs(list[tuple[str, Any]]):
    """The members of an object, each as often as it is there."""


def split(text: str) -> tuple[str, FrontMatter]:
    """Return the text without its front matter, and the front matter; line ends are LF.

    What the text keeps is searched for names that only rules have.
    """
    search = find_head(text)
    found = list(_of_comments(search.comments))
    told = next(filter(None, (_read(text, bounds) for bounds in search.closed)), None)
    after, matter = told or (0, FrontMatter())
    if matter.left_out:
        before = text[: search.begin] if search.comments else ""
        rest = before.replace("\ufeff", "").replace("\u200b", "") + text[after:]
        below = find_head(text[after:])
        found += _of_comments(below.comments)
        begin = below.begin + after
        found += _plain_statements(text, begin)
    else:
        rest, begin = text, search.begin
        if search.never_closed:
            matter = _never_closed(text, search.never_closed)
        if not matter.opt_outs:
            found += _plain_statements(text, begin)
    found += _of_comments(leading_comments(text, begin))
    return rest, replace(matter, opt_outs=list(dict.fromkeys([*matter.opt_outs, *found])))


def _read(text: str, bounds: HeadBounds) -> tuple[int, FrontMatter] | None:
    """Return what a possible head says; None if it is no head and says nothing.

    It is no part of the text if ``left_out`` says so; then the text goes on at the number.
    """
    head = text[bounds.start : bounds.end]
    try:
        root, entries = _parsed(head, bounds.language, text.count("\n", 0, bounds.start) + 1)
    except ValueError as error:
        looks = bounds.fenced and looks_named(head, bounds.language)
        spoken = bounds.language == "yaml" and is_speech(head)
        if not looks and (spoken or not _names_rule(head)):
            return None
        said = OptOut(_WHERE, "reserved", _WHERE, f"it cannot be read: {error}")
        left_out = "left out: front matter that cannot be read" if looks else ""
        return bounds.after, FrontMatter(opt_outs=[said], left_out=left_out)
    found = list(dict.fromkeys(_statements(entries)))
    # A list between two breaks is text, and so is what two people say there.
    names = [each[0] for each in _inside(root) if each[0]] if root is not None else []
    if bounds.language == "yaml" and is_speech(head):
        ruled = [each for each in entries if any(map(is_rule, each[0]))]
        names, found = [], list(dict.fromkeys(_statements(ruled)))
    if not bounds.fenced and not (bounds.alone and any(map(_is_known, names))):
        names = []
    if not names:
        return bounds.after, FrontMatter(opt_outs=found)
    left_out = f"left out: front matter with {counted(len(names), 'name')}"
    tool = "" if bounds.language == "toml" else f"PyYAML {version('pyyaml')}"
    return bounds.after, FrontMatter(entries, found, left_out, tool=tool)


def _never_closed(text: str, bounds: HeadBounds) -> FrontMatter:
    """Return what front matter says that has no end, and so stays in the text."""
    head = text[bounds.start : bounds.end]
    lines = "\n".join(filter(str.strip, head.split("\n")))
    if bounds.language == "yaml" and not looks_named(lines, "yaml"):
        # No head, or one below something else: only a name that rules have counts.
        head = text[bounds.start :].lstrip("\n").partition("\n\n")[0][:_MOST_CHARACTERS]
        if is_speech(head) or not _names_rule(head):
            return FrontMatter()
    # Where the text below looks like a head too, the first paragraph may be one.
    for part in (head, head.strip("\n").partition("\n\n")[0]):
        try:
            _root, entries = _parsed(part, bounds.language, text.count("\n", 0, bounds.start) + 1)
        except ValueError:
            continue
        if entries:
            return FrontMatter(opt_outs=list(_statements(entries)), kept=_NEVER_CLOSED)
    if not _names_rule(head):
        return FrontMatter()
    said = OptOut(_WHERE, "reserved", _WHERE, "it cannot be read: it is never closed")
    return FrontMatter(opt_outs=[said], kept=_NEVER_CLOSED)


def _plain_statements(text: str, begin: int) -> Iterator[OptOut]:
    """Yield what lines at a text's beginning say whose names and values only rules have."""
    for line in leading_lines(text, begin):
        if not (said := _PLAIN.match(as_seen(line))):
            continue
        name, value = plain_name(said["name"]), said["value"].strip("*_\"', ")
        # `No AI: a manifesto` is a title; only what a program would write counts.
        sure = is_answer(value) or is_preferences(value) or said["name"] == "noai"
        is_tdm = name.startswith("tdm") and (_BARS if name == "tdm" else _WORD).fullmatch(value)
        if (is_rule(name) and (sure or is_tdm)) or is_tags(value):
            yield from named_statements(name, value, _AT_BEGINNING)


def _of_comments(comments: Iterable[str]) -> Iterator[OptOut]:
    """Yield what comments at a text's beginning say, as lines or as a tag alone."""
    for each in comments:
        lines = "\n".join(line.strip() for line in each.split("\n"))
        found = list(_plain_statements(lines, 0))
        yield from found
        if not found and is_tags(tags := as_seen(each).strip()):
            yield from named_statements("robots", tags, _AT_BEGINNING)


def _is_known(name: str) -> bool:
    return is_usual(name) or is_rule(name)


def _parsed(
    head: str, language: HeadLanguage, first_line: int
) -> tuple[Any, list[tuple[tuple[str, ...], str]]]:
    """Return the root of front matter, and its values with their names. Raises ValueError."""
    if len(head) > _MOST_CHARACTERS:
        raise ValueError(f"it is longer than {_MOST_CHARACTERS} characters")
    if language == "toml":
        root: Any = _toml(head)
    elif language == "json":
        head = head if head.lstrip().startswith("{") or not head.strip() else f"{{{head}}}"
        try:
            root = load_json(head, object_pairs_hook=_Pairs)
        except ValueError:
            # YAML is more lenient, but takes no tab for a blank.
            root = _yaml(head.replace("\t", " "), first_line)
    else:
        root = _yaml(head, first_line)
    return root, list(_entries(root))


def _yaml(head: str, first_line: int) -> Any:
    """Return the root node; None if there is none. Raises ValueError."""
    try:
        root = yaml.compose(head, yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f", line {first_line + mark.line}" if mark else ""
        raise ValueError(f"it is not valid{at}: a value with a colon needs quotes") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError("it is not valid") from error
    if isinstance(root, yaml.ScalarNode):
        raise ValueError("it has no names")
    return root


def _toml(head: str) -> dict[str, Any]:
    """Return the outermost table. Raises ValueError."""
    try:
        return tomllib.loads(head)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        raise ValueError("it is not valid TOML") from error


def record_statements(record: str) -> list[OptOut]:
    """Return what the members of a JSON record, at any depth, say about training.

    Also of a list of records. A member that is there twice counts twice. Raises ValueError.
    """
    root = load_json(record, object_pairs_hook=_Pairs, max_values=None)
    entries = _entries(root, most=len(record))
    # Whatever else is in a record can be what people say.
    ruled = [
        each
        for each in entries
        if any(is_rule(f"{a}:{b}" if a else b) for a, b in pairwise(("", *each[0])))
        or any(map(is_rule, each[0]))
    ]
    return list(dict.fromkeys(_statements(ruled, "record")))


def _entries(root: Any, most: int = _MOST_VALUES) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each value with the names above it. Raises ValueError if there are too many."""
    left: list[tuple[tuple[str, ...], Any]] = [((), root)] if root is not None else []
    seen = 0
    while left:
        names, value = left.pop()
        inside = _inside(value)
        if isinstance(inside, str) or (names and not inside):
            yield names, inside if isinstance(inside, str) else ""
            continue
        seen += 1 + len(inside)
        if seen > most or len(names) > _DEEPEST:
            raise ValueError("it is nested too deeply or repeats too much")
        below = [((*names, name) if name else names, each) for name, each in inside]
        called = [
            said
            for name, each in inside
            if name in _NAME_OF_PAIR and isinstance(said := _inside(each), str)
        ]
        for title in called[:1]:
            below += [
                ((*names, plain_name(title)), each) for name, each in inside if name == "content"
            ]
        left += reversed(below)


def _inside(value: Any) -> str | list[tuple[str, Any]]:
    """Return a value's text, or what is in it with its name; an item of a list has none."""
    match value:
        case None:
            return "null"
        case yaml.MappingNode(value=pairs):
            found: list[tuple[str, Any]] = []
            for key, each in pairs:
                if isinstance(key, yaml.ScalarNode):
                    found.append((plain_name(key.value), each))
                else:
                    found += [("", key), ("", each)]
            return found
        case _Pairs():
            return [(plain_name(str(key)), each) for key, each in value]
        case dict():
            return [(plain_name(key), each) for key, each in value.items()]
        case list(items) | yaml.SequenceNode(value=items):
            return [("", each) for each in items]
    text = value.value if isinstance(value, yaml.ScalarNode) else str(value)
    # An escape may write half of a surrogate pair, which no file can hold.
    return text.encode("utf-8", "replace").decode().strip()


def _statements(
    entries: Sequence[tuple[tuple[str, ...], str]], where: str = _WHERE
) -> Iterator[OptOut]:
    told = {names[:at] for names, _ in entries for at in _below_tdm(names, "reservation")}
    for names, text in entries:
        if not names:
            continue
        *above, own = names
        if own in _FILED and any(map(_NO_AI_TAG.fullmatch, re.split(r"\s*,\s*", as_seen(text)))):
            yield OptOut("robots tag", "reserved", where, f"{own}: {text[:80]}")
        if _MARKUP.match(text):
            yield from (replace(each, where=where) for each in html_signals(html_tree(text)))
        # What else is below ``tdm`` says nothing beside its ``reservation``, and reserves alone.
        if any(names[:at] not in told for at in _below_tdm(names)):
            yield from named_statements("tdm", f"{own} {text}", where)
        # What a list of preferences holds is said once, below.
        listed = any(map(is_usage, above))
        for said_alone in named_statements(own, text, where):
            if not (listed and said_alone.scheme == "AI Preferences"):
                yield said_alone
        if above:
            yield from named_statements(f"{above[-1]}:{own}", text, where)
        for name in filter("tdm".__ne__, above):
            # As a list of preferences: ``train-ai: n``. A name without a value is a value.
            said = f"{own}={text}" if is_usage(name) else text or own
            yield from named_statements(name, said, where)


def _below_tdm(names: tuple[str, ...], member: str = "") -> list[int]:
    """Return how many names come to each ``tdm`` that has a member, or this one, below it."""
    return [
        at
        for at, (name, below) in enumerate(pairwise(names), start=1)
        if name == "tdm" and member in ("", below)
    ]


def _names_rule(head: str) -> bool:
    """Return whether unreadable front matter has a name that rules have, or ``noai``."""
    head = as_seen(head)
    if any(is_rule(plain_name(found[1])) for found in _NAME.finditer(head)):
        return True
    return any(says_no_ai(found[0]) for found in _ENTRY_LINE.finditer(head))
