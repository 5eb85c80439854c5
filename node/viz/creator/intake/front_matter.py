"""Read front matter: what site generators find at the beginning of a Markdown file.

Owns which name, at any depth, has which value in a head that ``heads`` found, and whether it is
front matter at all. ``signals`` judges names and values as it judges a page's meta elements. YAML's
tags make nothing, its text stays as it is written, and what its aliases repeat is bounded. Front
matter that cannot be read reserves training; text between two thematic breaks stays text, and so
does a head that nothing closes, whatever it says. Pure.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import yaml

from viz.creator.intake.found import OptOut
from viz.creator.intake.heads import TextHead, find_head
from viz.creator.intake.signals import (
    is_rule,
    is_usage,
    named_statements,
    plain_name,
    says_no_ai,
)
from viz.domain.display import counted
from viz.domain.strict_json import load_json

_WHERE: Final = "front matter"
_MOST_CHARACTERS: Final = 1 << 15
_MOST_VALUES: Final = 20_000
_DEEPEST: Final = 64
# How a page's meta elements, written as data, call the name whose value is their ``content``.
_NAME_OF_PAIR: Final = frozenset({"name", "property", "http-equiv"})
# For front matter that no parser reads: a line with a name, and each name before a value.
_NAMED_LINE: Final = re.compile(r"""["']?\w[\w.-]*["']?[ \t]*(?::(?:[ \t]|$)|=)""")
_OTHER_LINE: Final = (" ", "\t", "#", "-", "]", "}")
_NAME: Final = re.compile(r"""(?:^|[{\[,])[ \t-]*["']?(\w[\w.-]{0,60})["']?[ \t]*[:=]""", re.M)
# A name with a value, in a head of lines; the name of a page's TDMRep may have its prefix.
_LINE: Final = re.compile(
    r"""^["']?((?:tdm:)?\w[\w .-]{0,60}?)["']?[ \t]*[:=][ \t]*["']?([^\n"']*)""", re.M
)
_ENTRY_LINE: Final = re.compile(r"""^[ \t]*(?:[-\[{]|["']?\w[\w.-]*["']?[ \t]*[:=]).*""", re.M)


@dataclass(frozen=True, slots=True)
class FrontMatter:
    """The front matter of a text: each value with its names, the outermost first.

    ``note`` tells what the text has lost by it or kept of it, and is empty if that is nothing.
    """

    entries: Sequence[tuple[tuple[str, ...], str]] = ()
    opt_outs: Sequence[OptOut] = ()
    note: str = ""
    tool: str = ""

    def first(self, *names: str) -> str:
        """Return the first of these names' values that stands outermost and is not empty."""
        told = ((path, text) for name in names for path, text in self.entries if path == (name,))
        return next((text for _path, text in told if text), "")


class _Pairs(list[tuple[str, Any]]):
    """The members of an object, each as often as it is there."""


def split(text: str) -> tuple[str, FrontMatter]:
    """Return the text without its front matter, and the front matter; line ends are LF."""
    head = find_head(text)
    if head is None:
        return text, FrontMatter()
    closed, toml = head.rest is not None, head.language == "toml"
    rest = text if head.rest is None else head.rest
    try:
        root, tool = _root(head)
        entries = list(_entries(root))
    except ValueError as error:
        looks = closed and _looks_named(head.body, toml=toml)
        if not looks and not _names_rule(head.body):
            return text, FrontMatter()
        said = OptOut(_WHERE, "reserved", _WHERE, f"it cannot be read: {error}")
        left_out = "left out: front matter that cannot be read" if looks else ""
        return rest if looks else text, FrontMatter(opt_outs=[said], note=left_out)
    found = list(dict.fromkeys(_statements(entries)))
    if not closed:
        stays = f"{_WHERE} that no line closes is part of the text" if found else ""
        return text, FrontMatter(opt_outs=found, note=stays)
    # A list between two breaks is text.
    names = sum(bool(each[0]) for each in _inside(root))
    left_out = f"left out: front matter with {counted(names, 'name')}" if names else ""
    return rest if names else text, FrontMatter(entries if names else (), found, left_out, tool)


def _root(head: TextHead) -> tuple[Any, str]:
    """Return the outermost value of a head, and the library that read it. Raises ValueError."""
    if len(head.body) > _MOST_CHARACTERS:
        raise ValueError(f"it is longer than {_MOST_CHARACTERS} characters")
    body = head.body
    match head.language:
        case "toml":
            return _toml(body), ""
        case "lines":
            return _Pairs(_LINE.findall(body)), ""
        case "json":
            with contextlib.suppress(ValueError):
                return load_json(body, object_pairs_hook=_Pairs), ""
            # YAML is more lenient, but takes no tab for a blank.
            body = body.replace("\t", " ")
    return _yaml(body, head.line), f"PyYAML {version('pyyaml')}"


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


def _entries(root: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each value with the names above it. Raises ValueError if there are too many."""
    left: list[tuple[tuple[str, ...], Any]] = [((), root)]
    seen = 0
    while left:
        names, value = left.pop()
        inside = _inside(value)
        if isinstance(inside, str):
            yield names, inside
            continue
        seen += 1 + len(inside)
        if seen > _MOST_VALUES or len(names) > _DEEPEST:
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
            return []
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


def _statements(entries: Sequence[tuple[tuple[str, ...], str]]) -> Iterator[OptOut]:
    for names, text in entries:
        if not names:
            continue
        *above, own = names
        # What a list of preferences holds is said once, below.
        if not any(map(is_usage, above)):
            yield from named_statements(own, text, _WHERE)
        if above:
            yield from named_statements(f"{above[-1]}:{own}", text, _WHERE)
        for name in above:
            # As a list of preferences: ``train-ai: n``. A name without a value is a value.
            said = f"{own}={text}" if is_usage(name) else text or own
            yield from named_statements(name, said, _WHERE)


def _looks_named(head: str, *, toml: bool) -> bool:
    """Return whether each line is a name with a value or belongs to one; prose is not."""
    lines = head.rstrip().split("\n")
    first = next((each for each in lines if each.strip() and each[0] != "#"), "")
    if toml:
        return first.startswith("[") or bool(_NAMED_LINE.match(first))
    return bool(_NAMED_LINE.match(first)) and all(
        each.startswith(_OTHER_LINE) or _NAMED_LINE.match(each) for each in lines
    )


def _names_rule(head: str) -> bool:
    """Return whether unreadable front matter has a name that rules have, or ``noai``."""
    if any(is_rule(plain_name(found[1])) for found in _NAME.finditer(head)):
        return True
    return any(says_no_ai(found[0]) for found in _ENTRY_LINE.finditer(head))
