"""Read a PDF that has a text layer: join its lines to paragraphs again.

Owns how lines become paragraphs and headings, and which lines are running titles and page numbers.
Runs only in the parsing child (``worker``). A PDF has the positions of glyphs, not paragraphs: the
result is an interpretation, so the creator is asked to read it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from statistics import median
from typing import Any, BinaryIO, Final

from viz.creator.intake.found import Converted, OptOut
from viz.domain.display import counted
from viz.errors import InvalidWork

MAX_PAGES: Final = 3_000
# A file with fewer visible characters per page than this is a scan.
_FEWEST_CHARS: Final = 20
_COPY_BIT: Final = 1 << 4
_HYPHENS: Final = "-\u2010\u00ad\ufffe\x02"
_NUMBERS: Final = re.compile(r"\d+|\b[ivxlc]+\b")
_ENDS: Final = re.compile(r"[.!?:\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*$")
_MARGIN: Final = 0.09
# Lines this many times higher than the usual line are headings.
_HEADING: Final = 1.2
_FURNITURE_PAGES: Final = 3
_TEXT: Final = 1  # FPDF_PAGEOBJ_TEXT
_IMAGE: Final = 3  # FPDF_PAGEOBJ_IMAGE


@dataclass(frozen=True, slots=True)
class PdfLine:
    """One line of a page; positions in points, ``top`` and ``bottom`` from the page's foot."""

    text: str
    left: float
    right: float
    top: float
    bottom: float
    page_height: float

    @property
    def height(self) -> float:
        return self.top - self.bottom


@dataclass(frozen=True, slots=True)
class _Setting:
    """The usual layout of a document's lines, in points; a line that differs begins a paragraph."""

    size: float
    usual_gap: float
    widest: float
    margin: float


def pdf_file(file: BinaryIO) -> Converted:
    """Return the text of a PDF. Raises InvalidWork if it is locked, damaged or a scan."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(file.read())
    except pypdfium2.PdfiumError as error:
        raise InvalidWork(_refusal(str(error))) from error
    if len(document) > MAX_PAGES:
        raise InvalidWork(
            f"the PDF has {len(document)} pages, at most {MAX_PAGES} are read: split it"
        )
    pages: list[list[PdfLine]] = []
    pictures = outside = invisible = 0
    for number in range(len(document)):
        try:
            page = document[number]
            lines, beyond = _on_the_page(_lines(page), float(page.get_width()))
            outside += beyond
            invisible += _is_drawn_invisibly(page)
            if not lines:
                pictures += any(each.type == _IMAGE for each in page.get_objects(max_depth=2))
            page.close()
        except pypdfium2.PdfiumError as error:
            raise InvalidWork(
                f"page {number + 1} of the PDF cannot be read ({error}): print it to a new PDF"
            ) from error
        pages.append(lines)
    visible = sum(len(line.text.strip()) for lines in pages for line in lines)
    if visible < _FEWEST_CHARS * max(1, len(pages)) and (pictures or not visible):
        raise InvalidWork(
            "the PDF has no text layer: its pages are pictures (a scan). Have the text recognised "
            "(OCR, for instance with `ocrmypdf in.pdf out.pdf`), check it, and import that"
        )
    found = Converted("text", "", tools=[f"pypdfium2 {version('pypdfium2')}"])
    found.title = str(document.get_metadata_dict().get("Title", ""))[:200]
    if author := str(document.get_metadata_dict().get("Author", ""))[:200]:
        found.creators = [author]
    if empty := sum(not lines for lines in pages):
        found.note(
            f"{empty} of {counted(len(pages), 'page')} without text: pictures of text are not read"
        )
    if outside:
        found.note(f"left out: {counted(outside, 'line')} beyond the edge of a page")
    if invisible:
        found.note(
            f"{counted(invisible, 'page')} with text that nobody sees: compare it with the pages"
        )
    found.text = "\n\n".join(_paragraphs(_without_furniture(pages, found)))
    found.note(
        "paragraphs and headings are guessed from the layout: read the text before you go on"
    )
    found.opt_outs += _permissions(document)
    return found


def _refusal(told: str) -> str:
    if "assword" in told or "ecurity" in told:
        return (
            "the PDF is encrypted: open it with its password and save (print) a copy without one, "
            "if "
            "it is yours to open"
        )
    return f"the PDF is damaged ({told}): print it to a new PDF, or export the text as DOCX"


def _permissions(document: Any) -> list[OptOut]:
    import pypdfium2.raw as pdfium

    if pdfium.FPDF_GetSecurityHandlerRevision(document) < 0:
        return []
    if pdfium.FPDF_GetDocPermissions(document) & _COPY_BIT:
        return []
    return [OptOut("PDF permissions", "reserved", "the file", "copying of text is not permitted")]


def _lines(page: Any) -> list[PdfLine]:
    """Return the lines of a page in text order, each joined from its runs."""
    text = page.get_textpage()
    height = float(page.get_height())
    lines: list[PdfLine] = []
    for number in range(text.count_rects()):
        left, bottom, right, top = text.get_rect(number)
        words = text.get_text_bounded(left, bottom, right, top).replace("\r", "").replace("\n", " ")
        if not words.strip() or top <= bottom:
            continue
        last = lines[-1] if lines else None
        if last is not None and _same_line(last, left, bottom, top):
            space = (
                "" if left - last.right < 0.15 * (top - bottom) or last.text[-1:] == " " else " "
            )
            lines[-1] = PdfLine(
                last.text + space + words,
                min(left, last.left),
                max(right, last.right),
                max(top, last.top),
                min(bottom, last.bottom),
                height,
            )
        else:
            lines.append(PdfLine(words, left, right, top, bottom, height))
    text.close()
    return lines


def _on_the_page(lines: list[PdfLine], width: float) -> tuple[list[PdfLine], int]:
    """Return the lines that touch the page, and how many do not."""
    kept = [
        line
        for line in lines
        if line.right > 0 and line.left < width and line.top > 0 and line.bottom < line.page_height
    ]
    return kept, len(lines) - len(kept)


def _is_drawn_invisibly(page: Any) -> bool:
    """Return whether text is drawn invisibly, but not over a picture, as recognised text is."""
    import pypdfium2.raw as pdfium

    unseen = (pdfium.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium.FPDF_TEXTRENDERMODE_CLIP)
    objects = list(page.get_objects(max_depth=2))
    return not any(each.type == _IMAGE for each in objects) and any(
        each.type == _TEXT and pdfium.FPDFTextObj_GetTextRenderMode(each.raw) in unseen
        for each in objects
    )


def _same_line(last: PdfLine, left: float, bottom: float, top: float) -> bool:
    shared = min(last.top, top) - max(last.bottom, bottom)
    return shared > 0.5 * min(last.height, top - bottom) and left >= last.right - 2


def _without_furniture(pages: Sequence[list[PdfLine]], found: Converted) -> list[list[PdfLine]]:
    """Drop page numbers, and lines that repeat at the head or foot of pages (ignoring digits)."""
    size = median([line.height for lines in pages for line in lines] or [1.0])

    def furniture(line: PdfLine) -> bool:
        at_margin = (
            line.bottom > line.page_height * (1 - _MARGIN) or line.top < line.page_height * _MARGIN
        )
        return at_margin and line.height <= _HEADING * size

    seen: Counter[str] = Counter()
    for lines in pages:
        seen.update({_form(line) for line in lines if furniture(line)})
    kept, dropped = [], 0
    for lines in pages:
        good = [
            line
            for line in lines
            if not furniture(line)
            or not (seen[_form(line)] >= _FURNITURE_PAGES or _form(line) == "#")
        ]
        dropped += len(lines) - len(good)
        kept.append(good)
    if dropped:
        found.note(f"left out: {dropped} running titles and page numbers")
    return kept


def _form(line: PdfLine) -> str:
    return _NUMBERS.sub("#", " ".join(line.text.split()).lower()).strip("-\u2013\u2014 .|")


def _paragraphs(pages: Sequence[list[PdfLine]]) -> list[str]:
    lines = [line for page in pages for line in page]
    if not lines:
        return []
    size = median(line.height for line in lines)
    gaps = [
        above.bottom - below.top
        for page in pages
        for above, below in pairwise(page)
        if above.bottom >= below.top
    ]
    setting = _Setting(
        size,
        median(gaps) if gaps else size,
        sorted(line.right for line in lines)[int(len(lines) * 0.9)],
        median(line.left for line in lines),
    )
    found: list[str] = []
    last: PdfLine | None = None
    for page in pages:
        fresh = True
        for line in page:
            heading = line.height > _HEADING * size and len(line.text) < 120
            if heading:
                words = " ".join(line.text.split())
                joined = (
                    last is not None and not fresh and last.height > _HEADING * size and bool(found)
                )
                if joined and found[-1].startswith("#"):
                    found[-1] += f" {words}"
                else:
                    found.append(("# " if line.height > 1.6 * size else "## ") + words)
            elif last is None or _begins(last, line, setting, fresh=fresh):
                found.append(line.text.strip())
            else:
                found[-1] = _joined(found[-1], line.text.strip())
            last, fresh = line, False
    return [text for text in map(_cleaned, found) if text]


def _begins(last: PdfLine, line: PdfLine, setting: _Setting, *, fresh: bool) -> bool:
    """Return whether a line begins a paragraph after ``last``."""
    if last.height > _HEADING * setting.size:
        return True
    short = last.right < setting.widest - 4 * setting.size
    ended = bool(_ENDS.search(last.text.rstrip()))
    size, edge = setting.size, setting.margin
    if fresh:  # a new page began, so there is no gap to measure
        capital = line.text.lstrip()[:1].isupper()
        return ended and (short or line.left > edge + size or capital)
    if last.bottom - line.top > setting.usual_gap + 0.45 * size or line.bottom > last.top + size:
        return True
    indented = line.left > last.left + 0.8 * size and line.left > edge + 0.8 * size
    return ended and (short or indented)


def _joined(text: str, more: str) -> str:
    if text[-1:] in _HYPHENS and more[:1].islower():
        # Take the hyphen for the typesetter's. One of the word itself cannot be distinguished
        # without a dictionary.
        return text[:-1] + more
    return f"{text.rstrip(chr(0xFFFE) + chr(2))} {more}"


def _cleaned(text: str) -> str:
    return " ".join(text.replace("\ufffe", "-").replace("\x02", "-").split())
