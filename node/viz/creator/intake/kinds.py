"""Determine what kind of source a file is, first by its content, then by its name.

Owns the refusals of what cannot be read, each with what to do instead. A file whose content differs
from its name's ending is refused: an archive named ``.txt`` is not a manuscript.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Final

from viz.creator.intake.found import SourceKind
from viz.domain.file_kind import what_it_is
from viz.errors import InvalidWork

# By the ending of the name. For other endings the content decides.
KINDS_BY_ENDING: Final[dict[str, SourceKind]] = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdown": "markdown",
    ".mkd": "markdown",
    ".mkdn": "markdown",
    ".mdwn": "markdown",
    ".mdtext": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".docx": "docx",
    ".docm": "docx",
    ".epub": "epub",
    ".pdf": "pdf",
    ".jsonl": "chats",
    ".ndjson": "chats",
    ".json": "chats",
}
READABLE: Final = "text, Markdown, HTML, DOCX, EPUB, PDF and JSON Lines of chats"
_HTML: Final = re.compile(
    rb"^\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html)\b", re.I | re.S
)
_JSON: Final = re.compile(rb"^\s*[\[{]")
_OTHERS: Final = {
    ".doc": "an old Word file: open it and save it as DOCX",
    ".odt": "an OpenDocument file: open it and save it as DOCX",
    ".rtf": "an RTF document: open it and save it as DOCX",
    ".pages": "a Pages document: open it and export DOCX or EPUB",
    ".mobi": "a Kindle book: export it as EPUB from the program that made it",
    ".azw3": "a Kindle book: export it as EPUB from the program that made it",
    ".tex": "a LaTeX source: make a PDF of it, or export HTML (for instance with pandoc)",
    ".xml": "XML of an unknown kind: export it as HTML",
    ".csv": "a table: write what it says as text, or as JSON Lines of questions and answers",
}
_HEAD: Final = 4096


def kind_of(name: str, raw: bytes) -> SourceKind:
    """Return the kind of the source ``raw`` with this file name or URL.

    Raises InvalidWork if such files cannot be read, or if name and content differ.
    """
    ending = PurePath(name).suffix.lower()
    named = KINDS_BY_ENDING.get(ending)
    inside = _binary(raw)
    if inside is not None:
        if named is not None and named != inside:
            raise InvalidWork(
                f"its name says {named}, but it is {inside.upper()}: name it .{inside} if that is "
                "what it should be"
            )
        return inside
    if named in ("docx", "epub", "pdf"):
        why = what_it_is(raw) or "something else"
        raise InvalidWork(
            f"its name says {named.upper()}, but it is not ({why}): save it again from the program "
            f"that "
            "made it"
        )
    head = raw[:_HEAD]
    if named is None and ending in _OTHERS:
        raise InvalidWork(f"it is {_OTHERS[ending]}. Readable are {READABLE}")
    # UTF-16 and UTF-32 can be imported; only a registered work must be UTF-8.
    if (foreign := what_it_is(raw)) and not ("UTF-16" in foreign or "UTF-32" in foreign):
        raise InvalidWork(foreign)
    if named == "chats" or (named is None and _JSON.match(head)):
        return "chats"
    if named is None or named == "text":
        return "html" if _HTML.match(head) else "text"
    return named


def _binary(raw: bytes) -> SourceKind | None:
    """Return the kind of a PDF or of a zip archive that is a document; None for anything else."""
    # PDF readers accept the mark anywhere in the first kilobyte, so such a file is not text.
    if b"%PDF-" in raw[:1024]:
        return "pdf"
    if not raw.startswith(b"PK\x03\x04"):
        return None
    if b"mimetypeapplication/epub+zip" in raw[:256]:
        return "epub"
    ends = raw[:_HEAD] + raw[-256 * 1024 :]
    if b"word/document" in ends:
        return "docx"
    return "epub" if b"META-INF/container.xml" in ends else None
