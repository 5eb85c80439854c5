"""Take out of a Word document what Word hides, before its text is read.

Owns what counts as hidden: runs with the property ``vanish``, of their own or by their style. Such
text is not on the page that the creator sees, so it must not get into the work unseen. Runs only in
the parsing child (``worker``).
"""

from __future__ import annotations

import io
import zipfile
from typing import Any, BinaryIO, Final

from viz.creator.intake.archive import Archive
from viz.creator.intake.markup import hardened_xml_parser

_W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT: Final = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"
_PARTS: Final = ("word/document.xml", "word/footnotes.xml", "word/endnotes.xml")
_OFF: Final = ("0", "false", "off")


def without_hidden(archive: Archive) -> tuple[BinaryIO | None, int]:
    """Return the document without hidden text, and how many runs that were.

    None for a document that hides nothing. Raises InvalidWork if a part cannot be unpacked, and
    ValueError if it is not XML.
    """
    parts = [name for name in (*_PARTS, "word/styles.xml") if name in archive]
    if not any(b"vanish" in archive.read(name) for name in parts):
        return None, 0
    styles = _hiding_styles(archive)
    changed: dict[str, bytes] = {}
    hidden = 0
    for name in _PARTS:
        if name in archive:
            root = _parsed(archive.read(name))
            hidden += _remove(root, styles)
            changed[name] = _written(root)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as target:
        for name in archive.names():
            if not name.endswith("/") and not name.startswith("word/media/"):
                target.writestr(name, changed.get(name) or archive.read(name))
    made.seek(0)
    return made, hidden


def _remove(root: Any, styles: set[str]) -> int:
    hidden = 0
    for run in [each for each in root.iter() if _is(each, "r")]:
        own = _property(run, "rPr")
        by_style = _style(own, "rStyle") or _style(_property(_paragraph(run), "pPr"), "pStyle")
        vanishes = _vanishes(own)
        if vanishes or (vanishes is None and by_style in styles):
            if "".join(run.itertext()).strip():
                hidden += 1
            for each in list(run):
                if not _is(each, "rPr") and not _is(each, "fldChar"):
                    run.remove(each)
    return hidden


def _hiding_styles(archive: Archive) -> set[str]:
    """Return the ids of the styles that hide, also by the style that they are based on."""
    if "word/styles.xml" not in archive:
        return set()
    told: dict[str, tuple[bool | None, str]] = {}
    for style in _parsed(archive.read("word/styles.xml")).iter():
        if _is(style, "style"):
            name = _attribute(style, "styleId")
            told[name] = (_vanishes(_property(style, "rPr")), _style(style, "basedOn"))

    def hides(name: str, seen: frozenset[str] = frozenset()) -> bool:
        own, base = told.get(name, (None, ""))
        if own is not None or not base or name in seen or len(seen) > 50:
            return bool(own)
        return hides(base, seen | {name})

    return {name for name in told if hides(name)}


def _vanishes(properties: Any) -> bool | None:
    """Return whether properties hide text; None if they do not say."""
    for each in properties if properties is not None else ():
        if _is(each, "vanish") or _is(each, "webHidden"):
            return _attribute(each, "val") not in _OFF
    return None


def _paragraph(run: Any) -> Any:
    return next((each for each in run.iterancestors() if _is(each, "p")), None)


def _property(element: Any, name: str) -> Any:
    return next(
        (each for each in (element if element is not None else ()) if _is(each, name)), None
    )


def _style(element: Any, name: str) -> str:
    found = _property(element, name)
    return "" if found is None else _attribute(found, "val")


def _is(element: Any, name: str) -> bool:
    return element.tag in (f"{_W}{name}", f"{_STRICT}{name}")


def _attribute(element: Any, name: str) -> str:
    return str(element.get(f"{_W}{name}") or element.get(f"{_STRICT}{name}") or "")


def _parsed(raw: bytes) -> Any:
    from lxml import etree

    try:
        return etree.fromstring(raw, parser=hardened_xml_parser())
    except etree.LxmlError as error:
        raise ValueError(str(error)) from error


def _written(root: Any) -> bytes:
    from lxml import etree

    written: bytes = etree.tostring(root, xml_declaration=True, encoding="UTF-8")
    return written
