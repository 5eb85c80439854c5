"""Read DOCX, EPUB, Markdown and HTML into text.

Owns the conversion of each format to a ``Converted``. Runs only in the parsing child (``worker``).
EPUB is read here, with ``zipfile`` and ``lxml``: its container, its package and the pages of its
spine.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from importlib.metadata import version
from typing import Any, BinaryIO, Final
from urllib.parse import unquote

from viz.creator.intake.archive import Archive
from viz.creator.intake.decode import decoded
from viz.creator.intake.entities import with_entities
from viz.creator.intake.found import Converted
from viz.creator.intake.front_matter import FrontMatter, split
from viz.creator.intake.markup import PageText, hardened_xml_parser, html_tree, name_of
from viz.creator.intake.rsl_rules import inline_statements
from viz.creator.intake.signals import embedded_signals, epub_signals
from viz.creator.intake.word_hidden import without_hidden
from viz.domain.display import counted
from viz.errors import InvalidWork

_BOOKS_RSL: Final = "META-INF/rsl.xml"
_OWN: Final = "viz-node " + version("viz-node")
_LXML: Final = "lxml " + version("lxml")
# These algorithms only obscure fonts; they do not lock text.
_OBSCURED: Final = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
_OPF: Final = "application/oebps-package+xml"
_MAX_PAGES: Final = 5_000


def text_file(raw: bytes, encoding: str) -> Converted:
    """Read plain text; keep its line breaks and layout."""
    text, used = decoded(raw, encoding)
    found = Converted("text", text, tools=[_OWN])
    _rest, told = split(_with_lf(text))
    found.opt_outs += told.opt_outs
    if told.left_out:
        found.note("its front matter stays text: name the file .md to have it left out")
    elif told.kept:
        found.note(told.kept)
    if used != "utf-8":
        found.note(f"decoded from {used}")
    return found


def markdown_file(raw: bytes, encoding: str) -> Converted:
    """Read Markdown (CommonMark with tables); HTML in it is treated as in a web page."""
    text, used = decoded(raw, encoding)
    text, told = _below_head(text)
    found = _of_page(_rendered(text), told.first("title"))
    found.tools.insert(0, f"markdown-it-py {version('markdown-it-py')}")
    _add_told(found, told)
    if used != "utf-8":
        found.note(f"decoded from {used}")
    return found


def html_file(raw: bytes, encoding: str) -> Converted:
    """Read an HTML file; all of its text is part of the work."""
    text, used = decoded(raw, encoding, declares=True)
    # Generators of sites read front matter above a page, too.
    text, told = _below_head(text)
    found = _of_page(text, told.first("title"))
    _add_told(found, told)
    if used != "utf-8":
        found.note(f"decoded from {used}")
    return found


def _with_lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _below_head(text: str) -> tuple[str, FrontMatter]:
    """Return the text below its front matter, and that. Raises InvalidWork if there is none."""
    text, told = split(_with_lf(text))
    if not text.strip():
        beside = "front matter, and no text below that" if told.left_out else "no text"
        raise InvalidWork(f"it has {beside}")
    return text, told


def _add_told(found: Converted, told: FrontMatter) -> None:
    """Add what front matter says, and what became of it."""
    if told.tool:
        found.tools.append(told.tool)
    for note in filter(None, (told.left_out, told.kept)):
        found.note(note)
    found.language = told.first("lang", "language") or found.language
    found.opt_outs += told.opt_outs


def docx_file(file: BinaryIO) -> Converted:
    """Read a Word document: text, lists, tables and notes, without macros, pictures and links.

    Raises InvalidWork.
    """
    import mammoth

    archive = Archive(file, "Word document")
    for name in archive.names():
        if name.endswith((".xml", ".rels")) and b"<!DOCTYPE" in archive.read(name).upper():
            raise InvalidWork(
                f"{name} in the Word document declares a DTD, which Word never writes: open it in "
                "your word processor and save it again"
            )
    if "word/document.xml" not in archive:
        raise InvalidWork("it has no word/document.xml, so it is not a Word document")
    try:
        visible, hidden = without_hidden(archive)
    except (InvalidWork, ValueError) as error:
        raise InvalidWork(
            f"the Word document is damaged ({error}): save it again as DOCX"
        ) from error
    pictures = 0

    def no_picture(_image: Any) -> list[Any]:
        nonlocal pictures
        pictures += 1
        return []

    file.seek(0)
    try:
        made = mammoth.convert_to_html(
            visible or file,
            convert_image=no_picture,
            style_map="p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => h2:fresh",
            external_file_access=False,
            include_embedded_style_map=False,
        )
    except RecursionError as error:
        raise InvalidWork("the Word document is nested too deeply: save it again") from error
    except Exception as error:
        raise InvalidWork(
            f"the Word document cannot be read ({type(error).__name__}): open it in your word "
            "processor and save it again as DOCX"
        ) from error
    if not made.value.strip():
        only = f": it has only {counted(pictures, 'picture')}" if pictures else ""
        raise InvalidWork(f"the Word document has no text{only}")
    found = _of_page(made.value)
    found.tools.insert(0, f"mammoth {version('mammoth')}")
    if pictures:
        found.note(f"left out: {pictures} pictures")
    if hidden:
        found.note(f"left out: {counted(hidden, 'passage')} that Word hides")
    if any(name.lower().endswith("vbaproject.bin") for name in archive.names()):
        found.note("left out: macros, which were not run")
    # Every document has styles that mammoth does not know; their text is read anyway.
    told = Counter(
        words for each in made.messages if "style" not in (words := str(each.message)).lower()
    )
    for message, count in told.most_common(5):
        found.note(f"mammoth: {message}" + (f" ({count} times)" if count > 1 else ""))
    if "docProps/core.xml" in archive:
        _core_properties(archive.read("docProps/core.xml"), found)
    return found


def epub_file(file: BinaryIO) -> Converted:
    """Read a book: the pages of its spine, in order; raise InvalidWork."""
    archive = Archive(file, "EPUB")
    _refuse_locked(archive)
    place = _package_place(archive)
    package = _xml(archive.read(place), "the book's package document")
    items = {
        each.get("id"): each
        for each in package.iter()
        if name_of(each) == "item" and each.get("id") and each.get("href")
    }
    spine = [each for each in package.iter() if name_of(each) == "itemref"]
    if len(spine) > _MAX_PAGES:
        raise InvalidWork(f"the book has {len(spine)} pages, at most {_MAX_PAGES} are read")
    found = Converted("text", "", tools=[_LXML, _OWN], opt_outs=epub_signals(package))
    if _BOOKS_RSL in archive:
        found.opt_outs += inline_statements(archive.read(_BOOKS_RSL), _BOOKS_RSL)
    left_out: Counter[str] = Counter()
    pages: list[str] = []
    read = 0
    for ref in spine:
        item = items.get(ref.get("idref"))
        if item is None:
            continue
        if (
            "html" not in (item.get("media-type") or "")
            or "nav" in (item.get("properties") or "").split()
        ):
            continue
        name = posixpath.normpath(
            posixpath.join(posixpath.dirname(place), unquote(item.get("href").partition("#")[0]))
        )
        read += 1
        text, _ = decoded(archive.read(name), declares=True)
        text, lost = with_entities(text)
        page = PageText(html_tree(text, xml=True))
        left_out += page.left_out + lost
        found.opt_outs += page.opt_outs
        if page.text.strip():
            pages.append(page.text)
    found.text = "\n\n".join(pages)
    if not read:
        raise InvalidWork(
            "the book's spine names no page to read: it is empty or damaged, export it again"
        )
    if not pages:
        raise InvalidWork(
            "the book's pages have no text: they are pictures (a scanned or drawn book). Have the "
            "text recognised first"
        )
    found.title = _first(package, "title")
    found.language = _first(package, "language")
    found.creators = [" ".join((each.text or "").split()) for each in _all(package, "creator")][:20]
    if rights := _first(package, "rights"):
        found.note(f"the book says of its rights: {rights[:300]}")
    _note_left_out(found, left_out)
    return found


def _of_page(text: str, title: str = "") -> Converted:
    root = html_tree(text)
    page = PageText(root)
    found = Converted("text", page.text, title=title or page.title, opt_outs=page.opt_outs)
    found.language = root.get("lang") or ""
    found.tools = [_LXML, _OWN]
    _note_left_out(found, page.left_out)
    return found


def _rendered(text: str) -> str:
    from markdown_it import MarkdownIt

    try:
        return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    except RecursionError as error:
        raise InvalidWork(
            "the Markdown is nested too deeply: flatten its lists or quotes"
        ) from error


def _note_left_out(found: Converted, counts: Counter[str]) -> None:
    for name, count in counts.most_common():
        found.note(f"left out: {count} {name}")


def _core_properties(raw: bytes, found: Converted) -> None:
    root = _xml(raw, "docProps/core.xml")
    found.title = found.title or _first(root, "title")
    found.language = _first(root, "language")
    found.creators = [name for each in _all(root, "creator") if (name := (each.text or "").strip())]


def _package_place(archive: Archive) -> str:
    container = _xml(archive.read("META-INF/container.xml"), "the book's container")
    for each in container.iter():
        if name_of(each) == "rootfile" and each.get("media-type", _OPF) == _OPF:
            return str(each.get("full-path"))
    raise InvalidWork("the EPUB names no package document: it is damaged, export it again")


def _refuse_locked(archive: Archive) -> None:
    """Raise InvalidWork if pages are encrypted (DRM); obscured fonts are allowed."""
    if "META-INF/encryption.xml" not in archive:
        return
    root = _xml(archive.read("META-INF/encryption.xml"), "META-INF/encryption.xml")
    methods = {each.get("Algorithm") for each in root.iter() if name_of(each) == "encryptionmethod"}
    if methods - set(_OBSCURED):
        raise InvalidWork(
            "the book is locked (digital rights management), which Viz does not unlock: use the "
            "file "
            "that you gave to your publisher or shop"
        )


def _xml(raw: bytes, what: str) -> Any:
    from lxml import etree

    try:
        root = etree.fromstring(raw, parser=hardened_xml_parser())
    except (etree.LxmlError, ValueError) as error:
        raise InvalidWork(f"{what} is not XML ({error}): the file is damaged") from error
    if root.getroottree().docinfo.internalDTD is not None and any(
        root.getroottree().docinfo.internalDTD.iterentities()
    ):
        raise InvalidWork(f"{what} declares entities, which no program writes there: save it again")
    return root


def _all(root: Any, name: str) -> list[Any]:
    return [each for each in root.iter() if name_of(each) == name]


def _first(root: Any, name: str) -> str:
    return next((" ".join((each.text or "").split()) for each in _all(root, name) if each.text), "")


def embedded(found: Converted, raw: bytes) -> Converted:
    """Add the reservations of rights that are embedded uncompressed in a file of any kind."""
    known = {(each.scheme, each.says, each.value) for each in found.opt_outs}
    found.opt_outs += [
        each for each in embedded_signals(raw) if (each.scheme, each.says, each.value) not in known
    ]
    return found
