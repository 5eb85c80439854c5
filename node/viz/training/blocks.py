"""Divide a text's chunks into paragraphs, items, table rows, code and verse, with their context.

Owns how the layout of a text is read: Markdown's headings, lists, tables, quotes and fences, and
plain text's lone titles, letterheads and stanzas. Does not know languages, sentences or rows.
Invariant: every line of the work that holds a letter or a digit is in a block or in a heading, and
a block names the chunks that its words come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import regex

from viz.domain.work import MAX_CHUNK_CHARS, Chunk
from viz.training.words import says_something

Kind = Literal["paragraph", "item", "row", "code", "verse"]

_HEADING: Final = regex.compile(r"^ {0,3}(#{1,6})\s+(.*?\S)(?:\s+#+)?\s*$")
_UNDERLINE: Final = regex.compile(r"^ {0,3}(?:(={3,})|-{3,})\s*$")
_FENCE: Final = regex.compile(r"^ {0,3}(`{3,}|~{3,})")
_ITEM: Final = regex.compile(r"^\s*(?:[-*+\u2022\u2013]|\(?(\p{N}{1,3}|[a-zA-Z])[.)])\s+(?=\S)")
_QUOTE: Final = regex.compile(r"^ {0,3}>\s?")
_TABLE_LINE: Final = regex.compile(r"^\s*\|.*\|\s*$|^[^|]*\|[^|]*(?:\|[^|]*)+$")
_TABLE_RULE: Final = regex.compile(r"^[\s|:+=-]*-[\s|:+=-]*$")
_BAR: Final = regex.compile(r"(?<!\\)\|")
_ENDS_A_SENTENCE: Final = regex.compile(
    r"[.!?\u2026\u3002\uff01\uff1f\u061f\u0964:;][\p{Pe}\p{Pf}\"'*_]*$"
)
# The longest line of a title, a letterhead or a verse; prose that is wrapped has longer ones.
_TITLE_CHARS: Final = 60
_VERSE_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class TextBlock:
    """One unit of a text's layout.

    ``headings`` lie over it, outermost first; ``lead`` is the paragraph that leads to it;
    ``number`` is a numbered item's, and ``cells`` are a table row's with their columns' names.
    """

    kind: Kind
    chunks: tuple[int, ...]
    text: str
    headings: tuple[str, ...] = ()
    lead: str = ""
    number: str = ""
    cells: tuple[tuple[str, str], ...] = ()


def blocks_of(chunks: Sequence[Chunk]) -> list[TextBlock]:
    """Return the blocks of a text, in order."""
    whole = list(_whole(chunks))
    for titles in (True, False):  # where all is short lines, they are no titles of anything
        reader = _BlockReader(titles=titles)
        for indices, text in whole:
            reader.read(indices, text)
        reader.close_code()
        if reader.blocks:
            break
    return reader.blocks


def _whole(chunks: Sequence[Chunk]) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield paragraphs, those put together again that were cut because they were too long."""
    indices: tuple[int, ...] = ()
    text = last = ""
    for chunk in chunks:
        piece = chunk.text
        first = piece.split(maxsplit=1)[0] if piece.strip() else ""
        if indices and len(last) + 1 + len(first) > MAX_CHUNK_CHARS:
            indices, text = (*indices, chunk.index), f"{text} {piece}"
        else:
            if indices:
                yield indices, text
            indices, text = (chunk.index,), piece
        last = piece
    if indices:
        yield indices, text


class _BlockReader:
    """Reads paragraph after paragraph; ``blocks`` grows."""

    def __init__(self, *, titles: bool) -> None:
        self._reads_titles = titles
        self.blocks: list[TextBlock] = []
        self._levels: list[tuple[int, str]] = []
        self._titles: list[str] = []
        self._titled = False  # whether something was said under the titles
        self._lead = ""
        self._code: list[str] | None = None
        self._code_chunks: tuple[int, ...] = ()
        self._fence = ""

    def read(self, chunks: tuple[int, ...], text: str) -> None:
        lines = text.split("\n")
        if self._code is not None:
            self._code.append("")  # the blank line between two paragraphs
            self._code_chunks += chunks
        at = 0
        while at < len(lines):
            at = (
                self._code_line(lines, at)
                if self._code is not None
                else self._line(chunks, lines, at)
            )

    def close_code(self) -> None:
        if self._code is not None:
            code = "\n".join(self._code).strip("\n")
            if says_something(code):
                self._add("code", self._code_chunks, code)
            self._code = None

    def _code_line(self, lines: Sequence[str], at: int) -> int:
        assert self._code is not None
        if lines[at].strip().startswith(self._fence) and not lines[at].strip().strip("`~"):
            self.close_code()
        else:
            self._code.append(lines[at])
        return at + 1

    def _line(self, chunks: tuple[int, ...], lines: Sequence[str], at: int) -> int:
        """Read the block that begins at a line; return where the next one begins."""
        line = lines[at]
        if fence := _FENCE.match(line):
            self._code, self._code_chunks, self._fence = [], chunks, fence[1]
            return at + 1
        if heading := _HEADING.match(line):
            self._heading(len(heading[1]), heading[2])
            return at + 1
        if at + 1 < len(lines) and line.strip() and (rule := _UNDERLINE.match(lines[at + 1])):
            self._heading(1 if rule[1] else 2, line.strip())
            return at + 2
        for begins, take in (
            (_QUOTE, self._quote),
            (_TABLE_LINE, self._table),
            (_ITEM, self._items),
        ):
            if begins.match(line):
                return take(chunks, lines, at)
        end = at + 1
        while end < len(lines) and not _begins_a_block(lines, end):
            end += 1
        self._plain(chunks, [each for each in lines[at:end] if each.strip()])
        return end

    def _heading(self, level: int, title: str) -> None:
        self._levels = [each for each in self._levels if each[0] < level] + [(level, title)]
        self._titles, self._titled, self._lead = [], False, ""

    def _quote(self, chunks: tuple[int, ...], lines: Sequence[str], at: int) -> int:
        end = at
        while end < len(lines) and (end == at or _QUOTE.match(lines[end])):
            end += 1
        inner = [_QUOTE.sub("", line) for line in lines[at:end]]
        place = 0
        while place < len(inner):
            place = (
                self._line(chunks, inner, place)
                if self._code is None
                else self._code_line(inner, place)
            )
        return end

    def _table(self, chunks: tuple[int, ...], lines: Sequence[str], at: int) -> int:
        end = at
        while end < len(lines) and _TABLE_LINE.match(lines[end]):
            end += 1
        table = [_cells(line) for line in lines[at:end]]
        ruled = end - at > 1 and bool(_TABLE_RULE.match(lines[at + 1]))
        names = table[0] if ruled else []
        for row in table[2:] if ruled else table:
            named = [
                (names[place] if place < len(names) else "", cell)
                for place, cell in enumerate(row)
                if cell
            ]
            if named and says_something("".join(cell for _, cell in named)):
                self._add("row", chunks, _said(named), cells=tuple(named))
        return end

    def _items(self, chunks: tuple[int, ...], lines: Sequence[str], at: int) -> int:
        end, items = at, list[tuple[str, list[str]]]()
        while end < len(lines):
            found = _ITEM.match(lines[end])
            if found:
                items.append((found[1] or "", [lines[end][found.end() :].strip()]))
            elif _begins_a_block(lines, end):
                break
            elif lines[end].strip():
                items[-1][1].append(lines[end].strip())
            end += 1
        for number, said in items:
            if says_something("".join(said)):
                self._add("item", chunks, " ".join(said), number=number)
        return end

    def _plain(self, chunks: tuple[int, ...], lines: list[str]) -> None:
        said = [line.strip() for line in lines]
        if not says_something("".join(said)):
            return
        if (
            self._reads_titles
            and len(said) <= 3
            and max(map(len, said)) <= _TITLE_CHARS
            and not any(_ENDS_A_SENTENCE.search(line) for line in said)
        ):
            self._title(chunks, said)
        elif len(said) > 1 and max(map(len, said)) <= _VERSE_CHARS:
            self._add("verse", chunks, "\n".join(line.rstrip() for line in lines))
        else:
            self._add("paragraph", chunks, " ".join(said))
            self._lead = self.blocks[-1].text

    def _title(self, chunks: tuple[int, ...], lines: list[str]) -> None:
        """A lone title or a letterhead stands over what follows; a closing belongs to what it ends.

        A closing is several lines after something was said, the first with a comma at its end.
        """
        if self._titled and len(lines) > 1 and lines[0].endswith(","):
            self._add("paragraph", chunks, " ".join(lines))
            self._titles = []
            return
        if self._titled:
            self._titles = []
        self._titles.append(", ".join(line.rstrip(",") for line in lines))
        self._titled, self._lead = False, ""

    def _add(
        self,
        kind: Kind,
        chunks: tuple[int, ...],
        text: str,
        *,
        number: str = "",
        cells: tuple[tuple[str, str], ...] = (),
    ) -> None:
        headings = (*(title for _, title in self._levels), *self._titles)
        self._titled = True
        self.blocks.append(TextBlock(kind, chunks, text, headings, self._lead, number, cells))


def _begins_a_block(lines: Sequence[str], at: int) -> bool:
    line = lines[at]
    return any(begins.match(line) for begins in (_HEADING, _FENCE, _QUOTE, _ITEM)) or (
        bool(_TABLE_LINE.match(line)) and line.strip().startswith("|")
    )


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [" ".join(cell.replace("\\|", "|").split()) for cell in _BAR.split(inner)]


def _said(named: Sequence[tuple[str, str]]) -> str:
    """Return a row in words: its first cell, then each with its column's name."""
    (_, first), *others = named
    return (
        f"{first}: "
        + "; ".join(f"{name}: {cell}" if name and len(named) > 2 else cell for name, cell in others)
        if others
        else first
    )
