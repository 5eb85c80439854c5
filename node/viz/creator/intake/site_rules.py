"""Read from a site's rules which pages may be fetched, and what the site says about training.

Owns the reading of what a site publishes for machines: robots.txt (RFC 9309) with its preferences
and its licenses' addresses, ai.txt (Spawning), ``/.well-known/tdmrep.json`` (W3C TDMRep), and the
headers of an answer; ``rsl_rules`` reads licenses. Pure: ``site`` fetches. The most restrictive
statement counts. A rule that cannot be read counts as a reservation, because a site that wrote a
rule wanted one.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from viz.creator.intake.found import OptOut
from viz.creator.intake.rsl_rules import RSL_TYPE
from viz.creator.intake.sandbox import INSTALL
from viz.creator.intake.signals import named_statements, usage_signals
from viz.creator.intake.site_paths import path_pattern, place_of
from viz.domain.strict_json import load_json
from viz.errors import ConfigError

if TYPE_CHECKING:
    from protego import Protego

AGENT: Final = "viz-import"
# Crawlers that gather for training, by what their makers call them. To bar one is to reserve.
_TRAINERS: Final = (
    "GPTBot", "ClaudeBot", "anthropic-ai", "CCBot", "Google-Extended", "Applebot-Extended",
    "Bytespider", "Meta-ExternalAgent", "Amazonbot", "cohere-ai", "cohere-training-data-crawler",
    "AI2Bot", "Diffbot", "FacebookBot", "img2dataset", "omgili", "PanguBot", "Timpibot",
    "webzio-extended",
)  # fmt: skip
_PREFERENCE: Final = re.compile(
    r"^[ \t]*(content-usage|content-signal)[ \t]*:[ \t]*(.+)$", re.I | re.M
)
AI_TXT: Final = "ai.txt"
_DIRECTIVE: Final = re.compile(r"^(user-agent|allow|disallow)[ \t]*:[ \t]*(\S*)", re.I | re.M)
# RFC 9309 permits blanks around the colon; a product token ends at the first other character.
_LINE: Final = re.compile(r"^[ \t]*([a-z-]+)[ \t]*:[ \t]*", re.I | re.M)
# What search engines' readers take for ``User-agent`` too.
_AGENT: Final = re.compile(r"^[ \t]*user ?agent[ \t]*:[ \t]*", re.I | re.M)
_TOKEN: Final = re.compile(
    r"^user-agent: (\*|[a-z0-9_-]+)(?=[ \t]*(?:[/#\r]|$))[^\r\n]*", re.I | re.M
)
_LICENSE: Final = re.compile(r"^[ \t]*license[ \t]*:[ \t]*(\S+)", re.I | re.M)
_LINK: Final = re.compile(r"<([^>]*)>((?:\s*;[^,;]*)*)")
_LINK_ELEMENT: Final = re.compile(rb"<link\b[^>]{0,400}>", re.I)
_HREF: Final = re.compile(rb"""href\s*=\s*["']?([^"'\s>]+)""", re.I)
_READ: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Robots:
    """A site's robots.txt; without one everything may be fetched."""

    rules: Protego | None = None
    text: str = ""

    @classmethod
    def parse(cls, body: bytes) -> Robots:
        """Return the rules in a robots.txt. Raises ConfigError if no reader is installed."""
        text = _AGENT.sub("User-agent: ", _LINE.sub(r"\1: ", _text_of(body)))
        text = _TOKEN.sub(r"User-agent: \1", text)
        try:
            from protego import Protego
        except ImportError as error:
            raise ConfigError(f"{error.name} is not installed: {INSTALL}") from error
        return cls(Protego.parse(text), text)

    def permits(self, url: str) -> bool:
        """Return whether this program may fetch a page."""
        return self.rules is None or bool(self.rules.can_fetch(url, AGENT))

    def delay_s(self) -> float:
        """Return the seconds that the site wants between two requests; 0 if it says nothing."""
        wanted = self.rules.crawl_delay(AGENT) if self.rules is not None else None
        return float(wanted or 0)

    def sitemaps(self) -> list[str]:
        return list(self.rules.sitemaps) if self.rules is not None else []

    def licenses(self) -> list[str]:
        """Return the addresses of the RSL documents that it names."""
        return list(dict.fromkeys(_LICENSE.findall(self.text)))

    def statements(self, url: str) -> list[OptOut]:
        """Return what it says about training with a page."""
        found = []
        for name, value in _PREFERENCE.findall(self.text):
            scheme = "AI Preferences" if name.lower() == "content-usage" else "Content Signals"
            # A preference may begin with the path that it is for.
            path, _, rest = value.strip().partition(" ")
            if not path.startswith("/"):
                path, rest = "/", value
            if path_pattern(path).match(place_of(url)):
                found += usage_signals(rest, scheme, "robots.txt")
        barred = [name for name in _TRAINERS if self._bars(name, url)]
        if barred:
            said = f"Disallow for {', '.join(barred)}"
            found.append(OptOut("robots.txt", "reserved", "robots.txt", said))
        return found

    def _bars(self, agent: str, url: str) -> bool:
        """Return whether a training crawler is barred by name; a rule for all bars this one too."""
        named = agent.lower() in {name.lower() for name in _TOKEN.findall(self.text)}
        return named and self.rules is not None and not self.rules.can_fetch(url, agent)


@dataclass(frozen=True, slots=True)
class AiTxt:
    """A site's ai.txt: what may be trained on, in the form of robots.txt; whoever is named counts.

    A line that permits takes nothing back: the most restrictive one wins.
    """

    barred: tuple[str, ...] = ()
    readable: bool = True

    @classmethod
    def parse(cls, body: bytes) -> AiTxt:
        """Return the rules in a file. Text without such a line reserves all; a web page nothing."""
        text = _text_of(body).strip()
        if text.startswith("<"):
            return cls()  # what some servers answer for each address that they do not know
        said = [line.partition("#")[0].strip() for line in text.splitlines()]
        lines = _DIRECTIVE.findall("\n".join(said))
        paths = [
            path if path[0] in "/*" else f"/{path}"
            for name, path in lines
            if name.lower() == "disallow" and path
        ]
        return cls(tuple(dict.fromkeys(paths)), bool(lines) or not any(said))

    def statements(self, url: str) -> list[OptOut]:
        """Return what it says about training with a page."""
        if not self.readable:
            return [OptOut(AI_TXT, "reserved", AI_TXT, "it cannot be read")]
        place = place_of(url)
        # A rule for a kind of file, such as *.html, is for the pages that have no name too.
        last = place.rpartition("/")[2]
        names = (place,) if "." in last else (place, f"{place}{'' if last else 'index'}.html")
        for path in self.barred:
            pattern = path_pattern(path)
            if any(pattern.match(name) for name in names):
                return [OptOut(AI_TXT, "reserved", AI_TXT, f"Disallow: {path[:200]}")]
        return []


@dataclass(frozen=True, slots=True)
class TdmRules:
    """The rules of ``/.well-known/tdmrep.json``: the first one that fits a page counts."""

    rules: tuple[tuple[re.Pattern[str], bool, str], ...] = ()
    readable: bool = True

    @classmethod
    def parse(cls, body: bytes) -> TdmRules:
        """Return the rules in a file; a file that cannot be read reserves everything."""
        try:
            listed = load_json(body[:_READ])
            if not isinstance(listed, list):
                return cls(readable=False)
            rules = [
                (
                    path_pattern(str(each["location"])),
                    # Zero alone permits: a value that nobody knows was written to reserve.
                    type(each["tdm-reservation"]) is not int or each["tdm-reservation"] != 0,
                    str(each.get("tdm-policy", ""))[:200],
                )
                for each in listed
            ]
            if any(str(each["location"])[:1] not in ("/", "*") for each in listed):
                return cls(readable=False)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return cls(readable=False)
        return cls(tuple(rules))

    def statements(self, url: str) -> list[OptOut]:
        where = "/.well-known/tdmrep.json"
        if not self.readable:
            return [OptOut("TDMRep", "reserved", where, "it cannot be read")]
        for pattern, reserved, policy in self.rules:
            if pattern.match(place_of(url)):
                said = f"tdm-reservation: {int(reserved)}" + (
                    f", policy {policy}" if policy else ""
                )
                return [OptOut("TDMRep", "reserved" if reserved else "allowed", where, said)]
        return []


def _text_of(body: bytes) -> str:
    """Return a file of rules as text with line ends of any kind as a line feed; also UTF-16."""
    raw = body[:_READ]
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = raw.decode("utf-16", "replace")
    else:
        text = raw.decode("utf-8", "replace").lstrip("\ufeff")
    return text.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")


def header_statements(headers: Mapping[str, str]) -> list[OptOut]:
    """Return what an answer's headers say about training; their names are in lower case."""
    return [
        said
        for name in ("tdm-reservation", "content-usage", "content-signal", "x-robots-tag")
        if headers.get(name)  # an empty header is none
        for said in named_statements(name, headers[name], "header")
    ]


def license_links(headers: Mapping[str, str], body: bytes) -> list[str]:
    """Return the RSL documents that an answer names: in its Link header, or in link elements."""
    found = [
        address
        for address, about in _LINK.findall(headers.get("link", ""))
        if "license" in about.lower() and RSL_TYPE in about.lower()
    ]
    for element in _LINK_ELEMENT.findall(body[:_READ]):
        lower = element.lower()
        if b"license" in lower and RSL_TYPE.encode() in lower and (href := _HREF.search(element)):
            found.append(href[1].decode("utf-8", "replace"))
    return list(dict.fromkeys(found))
