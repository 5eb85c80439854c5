"""Convert HTML to plain text with Markdown's layout, which the training recipe understands.

Owns which elements are text, which are layout, and which are left out. Nothing is run or fetched:
scripts, styles, frames, forms, images and hidden elements are dropped and counted. Headings
(``#``), lists, tables, quotes, code, line breaks and the texts of links stay.
"""

from __future__ import annotations

import contextlib
import html
import re
from collections import Counter
from html.entities import html5
from typing import Any, Final

from lxml import etree

from viz.creator.intake.found import OptOut
from viz.creator.intake.signals import html_signals
from viz.errors import InvalidWork

_DROPPED: Final = frozenset(
    {
        *("script", "style", "template", "noscript", "iframe", "object", "embed", "applet"),
        *("frame", "frameset", "canvas", "audio", "video", "source", "track", "map", "area"),
        *("form", "input", "button", "select", "textarea", "datalist", "dialog"),
        *("head", "link", "meta", "base", "rt", "rp"),
    }
)
_BLOCKS: Final = frozenset(
    {
        *("address", "article", "aside", "body", "center", "dd", "details", "div", "fieldset"),
        *("figcaption", "figure", "footer", "header", "hgroup", "hr", "html", "legend", "main"),
        *("nav", "p", "section", "summary", "tbody"),
    }
)
_HEADINGS: Final = {f"h{level}": "#" * level for level in range(1, 7)}
_HIDDEN_STYLE: Final = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?:px|pt|em|%)?\s*(?:;|$)"
    r"|opacity\s*:\s*0(?:\.0+)?\s*(?:;|$)",
    re.IGNORECASE,
)
_SPACES: Final = re.compile(r"[^\S\n]+")
_AROUND_BREAK: Final = re.compile(r" ?\n ?")
_ENTITY: Final = re.compile(r"&([A-Za-z][A-Za-z0-9]{1,31});")
_NUMBERED: Final = re.compile(r"&#(?:x([0-9A-Fa-f]{1,8})|([0-9]{1,8}));")
_XML_ENTITIES: Final = frozenset({"amp", "lt", "gt", "quot", "apos"})
_DOCTYPE: Final = re.compile(r"<!DOCTYPE[^>\[]*(?:\[[^\]]*\][^>]*)?>", re.IGNORECASE)
_XML_START: Final = re.compile(r"^\s*<\?xml[^>]*\?>")
# A page that gives XHTML's names a prefix: only a parser of XML knows ``x:meta`` as ``meta``.
_PREFIXED: Final = re.compile(
    r"""xmlns:[\w.-]{1,40}\s*=\s*["']\s*http://www\.w3\.org/1999/xhtml/?\s*["']"""
)
_MAX_COLUMNS: Final = 64
_NO_MEMORY: Final = 2  # XML_ERR_NO_MEMORY


def html_tree(text: str, *, xml: bool = False) -> Any:
    """Return the root element of HTML or XHTML; no entity, DTD or URL is loaded.

    ``xml``: the page is one of a book, and read as XML whatever is wrong with it. A file is read so
    if it is well formed and gives XHTML's names a prefix. Raises InvalidWork if the text has no
    element.
    """
    # The decoded text may still declare its former encoding.
    text = _XML_START.sub("", text)
    root = None
    if xml or _PREFIXED.search(text):
        plain = _DOCTYPE.sub("", _ENTITY.sub(_as_character, text), count=1)
        plain = _NUMBERED.sub(_numbered, plain)
        root = _parsed(plain, hardened_xml_parser(recover=xml))
    if root is None:
        root = _parsed(
            text,
            etree.HTMLParser(encoding="utf-8", no_network=True, huge_tree=False, remove_pis=True),
        )
    if root is None:
        raise InvalidWork("the page has no HTML element: is it a web page?")
    return root


def hardened_xml_parser(*, recover: bool = False) -> Any:
    """Return an XML parser that resolves no entities, loads no DTD and opens no URL."""
    return etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        dtd_validation=False,
        no_network=True,
        huge_tree=False,
        recover=recover,
        remove_comments=True,
        remove_pis=True,
    )


def _parsed(text: str, parser: Any) -> Any:
    root = None
    with contextlib.suppress(etree.LxmlError, ValueError):
        root = etree.fromstring(text.encode("utf-8", errors="replace"), parser=parser)
    # libxml2 reports the end of its memory as one more error of the page.
    if any(each.type == _NO_MEMORY for each in parser.error_log):
        raise MemoryError
    return root


def _as_character(found: re.Match[str]) -> str:
    name = found[1]
    if name in _XML_ENTITIES:
        return found[0]
    return html.escape(html5[f"{name};"]) if f"{name};" in html5 else found[0]


def _numbered(found: re.Match[str]) -> str:
    """Return a reference by number; half of a surrogate pair is no character, as in HTML."""
    number = int(found[1], 16) if found[1] else int(found[2])
    return "\N{REPLACEMENT CHARACTER}" if 0xD800 <= number <= 0xDFFF else found[0]


def name_of(element: Any) -> str:
    """Return an element's name without namespace, in lower case; empty for a comment."""
    tag = element.tag
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""


class PageText:
    """The text of one page; ``left_out`` counts dropped elements by name."""

    def __init__(self, root: Any) -> None:
        self.left_out: Counter[str] = Counter()
        self.opt_outs: list[OptOut] = html_signals(root)
        self.title = ""
        for element in root.iter():
            if name_of(element) == "title":
                self.title = " ".join("".join(element.itertext()).split())
                break
        bodies = [each for each in root.iter() if name_of(each) == "body"]
        try:
            self.text = "\n\n".join(
                block for body in (bodies or [root]) for block in self._blocks(body)
            )
        except RecursionError as error:
            raise InvalidWork(
                "the page's elements are nested too deeply: export the text again, as HTML without "
                "layout"
            ) from error

    def _dropped(self, element: Any, name: str) -> bool:
        if not name:
            return True
        if name in ("img", "svg"):
            self.left_out["images"] += 1
            return True
        if name in _DROPPED:
            if name != "head":
                self.left_out["scripts" if name == "script" else f"<{name}>"] += 1
            return True
        hidden = (
            element.get("hidden") is not None
            or element.get("aria-hidden") == "true"
            or bool(_HIDDEN_STYLE.search(element.get("style") or ""))
        )
        if hidden and "".join(element.itertext()).strip():
            self.left_out["hidden passages"] += 1
        return hidden or self._note_mark(element, name)

    def _note_mark(self, element: Any, name: str) -> bool:
        """Return whether an element is only the mark of a note, without meaning of its own."""
        if name == "a":
            kinds = f"{element.get('{http://www.idpf.org/2007/ops}type')} {element.get('role')}"
            return "noteref" in kinds or "backlink" in kinds
        if name != "sup":
            return False
        links = [each for each in element.iter() if name_of(each) == "a"]
        return any((link.get("href") or "").startswith("#") for link in links)

    def _blocks(self, element: Any) -> list[str]:
        """Return the blocks of an element's content, in order."""
        found: list[str] = []
        buffer: list[str] = []

        def flush() -> None:
            if words := _tidy("".join(buffer)):
                found.append(words)
            buffer.clear()

        buffer.append(element.text or "")
        for child in element:
            name = name_of(child)
            if not self._dropped(child, name):
                if name == "br":
                    buffer.append("\n")
                elif name in _HEADINGS:
                    flush()
                    if words := " ".join(self._inline(child).split()):
                        found.append(f"{_HEADINGS[name]} {words}")
                elif name in ("ul", "ol"):
                    flush()
                    found += filter(None, [self._list(child, numbered=name == "ol")])
                elif name == "dl":
                    flush()
                    found += filter(None, [self._definitions(child)])
                elif name == "table":
                    flush()
                    found += self._table(child)
                elif name == "pre":
                    flush()
                    found += filter(None, [_fenced("".join(child.itertext()))])
                elif name == "blockquote":
                    flush()
                    found += [_quoted(block) for block in self._blocks(child)]
                elif name in _BLOCKS or _holds_blocks(child):
                    flush()
                    found += self._blocks(child)
                else:
                    buffer.append(self._inline(child))
            buffer.append(child.tail or "")
        flush()
        return found

    def _inline(self, element: Any) -> str:
        """Return an element's inline text, with ``\\n`` for its line breaks."""
        parts = [_flat(element.text)]
        for child in element:
            name = name_of(child)
            if not self._dropped(child, name):
                if name == "br":
                    parts.append("\n")
                else:
                    if name == "a" and (child.get("href") or "").startswith(("http:", "https:")):
                        self.left_out["addresses of links"] += 1
                    parts.append(self._inline(child))
                    if name in _BLOCKS:
                        parts.append(" ")
            parts.append(_flat(child.tail))
        return "".join(parts)

    def _list(self, element: Any, *, numbered: bool) -> str:
        lines: list[str] = []
        number = _start(element)
        for item in element:
            name = name_of(item)
            if self._dropped(item, name):
                continue
            words = [line for block in self._blocks(item) for line in block.split("\n")]
            words = [line for line in words if line.strip()]
            if not words:
                continue
            mark = f"{number}. " if numbered else "- "
            number += 1
            lines.append(mark + words[0])
            lines += [f"{' ' * len(mark)}{line}" for line in words[1:]]
        return "\n".join(lines)

    def _definitions(self, element: Any) -> str:
        lines: list[str] = []
        for item in element.iter():
            name = name_of(item)
            if name not in ("dt", "dd") or self._dropped(item, name):
                continue
            words = " ".join(self._inline(item).split())
            if name == "dd" and lines:
                lines[-1] += (" " if lines[-1].endswith(":") else "; ") + words
            elif words:
                lines.append(f"- {words}:" if name == "dt" else f"- {words}")
        return "\n".join(lines)

    def _table(self, element: Any) -> list[str]:
        """Return a table as lines of cells; a table used only for layout, as its blocks."""
        inner = [each for each in element.iter() if each is not element]
        rows = [each for each in inner if name_of(each) == "tr"]
        nested = any(name_of(each) == "table" for each in inner)
        if nested or all(len(_cells(row)) < 2 for row in rows):
            return [block for row in rows for cell in _cells(row) for block in self._blocks(cell)]
        lines = []
        for place, row in enumerate(rows):
            cells = [
                " ".join(self._inline(cell).split()).replace("|", "\\|")
                for cell in _cells(row)[:_MAX_COLUMNS]
            ]
            lines.append("| " + " | ".join(cells) + " |")
            if place == 0 and all(name_of(cell) == "th" for cell in _cells(row)):
                lines.append("|" + " --- |" * len(cells))
        caption = [each for each in element if name_of(each) == "caption"]
        words = [_tidy(self._inline(each)) for each in caption]
        return [*filter(None, words), "\n".join(lines)]


def _cells(row: Any) -> list[Any]:
    return [each for each in row if name_of(each) in ("td", "th")]


def _holds_blocks(element: Any) -> bool:
    inner = _BLOCKS | _HEADINGS.keys() | {"ul", "ol", "dl", "table", "pre", "blockquote"}
    return any(name_of(each) in inner for each in element.iterdescendants())


def _start(element: Any) -> int:
    told = element.get("start") or "1"
    return int(told) if told.isascii() and told.isdigit() and len(told) < 4 else 1


def _flat(text: str | None) -> str:
    return (text or "").replace("\n", " ").replace("\r", " ")


def _tidy(text: str) -> str:
    text = _AROUND_BREAK.sub("\n", _SPACES.sub(" ", text))
    return "\n".join(line for line in text.split("\n") if line).strip()


def _quoted(block: str) -> str:
    return "\n".join(f"> {line}" for line in block.split("\n"))


def _fenced(text: str) -> str:
    text = text.strip("\n")
    fence = "~~~~" if "```" in text else "```"
    return f"{fence}\n{text}\n{fence}" if text.strip() else ""
