"""A file that is no text is named, and its owner told what to do; a text is never taken for one."""

from __future__ import annotations

import bz2
import gzip
import io
import tarfile
import zipfile

import pytest

from viz.domain.file_kind import what_it_is
from viz.domain.work import parse_work
from viz.errors import InvalidWork

PROSE = "Ein Müller mahlt Korn. The miller grinds corn.\n\n" * 40


def _zip(*names: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            content = "application/epub+zip" if name == "mimetype" else PROSE
            stored = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(name, content, stored)
    return made.getvalue()


def _tar(name: str, text: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(text.encode())
        archive.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()


FOREIGN = [
    ("a PDF", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj"),
    ("a PDF", b"%PDF-1.4\n1 0 obj << /Type /Catalog >> endobj"),
    ("an RTF document", b"{\\rtf1\\ansi Hello}"),
    ("a Word document", _zip("[Content_Types].xml", "word/document.xml")),
    ("an EPUB book", _zip("mimetype", "META-INF/container.xml")),
    ("an Excel table", _zip("[Content_Types].xml", "xl/workbook.xml")),
    ("a zip archive", _zip("story.txt")),
    ("a gzip archive", gzip.compress(PROSE.encode())),
    ("a bzip2 archive", bz2.compress(PROSE.encode(), 1)),
    ("a tar archive", _tar("story.txt", PROSE)),
    (
        "an ar or cpio archive",
        b"!<arch>\nstory.txt/      0           0     0     644     5         `\n",
    ),
    ("an ar or cpio archive", b"070701" + b"0" * 104 + b"story.txt\0" + PROSE.encode()),
    ("old Office", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500)),
    ("a PNG image", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"),
    ("a JPEG image", b"\xff\xd8\xff\xe0\x00\x10JFIF"),
    ("a HEIC", b"\x00\x00\x00\x18ftypheic\x00\x00"),
    ("a film", b"\x00\x00\x00\x18ftypmp42\x00\x00"),
    ("a WebP image", b"RIFF\x24\x00\x00\x00WEBPVP8 \xff"),
    ("an MP3", b"ID3\x04\x00\x00\x00\x00\x00\x00"),
    ("UTF-16", PROSE.encode("utf-16")),
    ("UTF-16", b"\xfe\xff" + PROSE.encode("utf-16-be")),
    ("UTF-16 without its mark", PROSE.encode("utf-16-le")),
    ("UTF-16 without its mark", PROSE.encode("utf-16-be")),
    ("UTF-32", b"\xff\xfe\x00\x00" + PROSE.encode("utf-32-le")),
    ("in line 1, is not UTF-8", PROSE.encode("cp1252")),
    ("in line 3, is not UTF-8", "a\n\nnaïve".encode("latin-1")),
    ("not UTF-8", "羅生門は芥川龍之介の小説である。".encode("shift-jis")),
    ("binary", bytes(range(256)) * 20),
]


@pytest.mark.parametrize(("name", "raw"), FOREIGN)
@pytest.mark.parametrize("kind", ["text", "dialogue"])
def test_what_is_no_text_is_named_with_a_remedy(name: str, raw: bytes, kind: str) -> None:
    """Protects the creator from looking for byte 10 of a PDF: what it is, and what to do."""
    with pytest.raises(InvalidWork) as caught:
        parse_work(kind, raw)
    said = caught.value.detail
    assert name in said and "not UTF-8" in said and "\n" not in said
    assert any(word in said for word in ("export", "save", "unpack", "recognised", "write down"))


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "\ufeff" + PROSE,
        "ID3 is how MP3 files carry titles.",
        "GIF89a was the second version of the format.",
        "PK is a suffix. BZh is not.",
        "070701 was the day of the flood, and !<arch> a sign.",
        "RIFF and ftyp are marks of files.",
        "羅生門は芥川龍之介の小説である。",
        "%PDF is how such a file begins.",
    ],
)
def test_a_text_is_not_taken_for_something_else(text: str) -> None:
    """Protects works that speak of formats, and every alphabet."""
    assert what_it_is(text.encode()) is None
    assert parse_work("text", text.encode()).chunks
