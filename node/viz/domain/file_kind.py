"""Name the format of a file that is not UTF-8 text, so that its owner knows what to do.

Owns the first bytes of common formats for works, and the recognition of encodings. It only makes
the message of a refusal better: it never decides that a file is accepted. Pure.
"""

from __future__ import annotations

import re
from typing import Final

# The header of a cpio archive is digits alone.
_CPIO: Final = re.compile(rb"07070(?:[12][0-9A-Fa-f]{104}|7[0-7]{70})")
_EXPORT: Final = "open it in the program that made it and export plain text (UTF-8)"
_SCAN: Final = "a work is text: if it is a scan, have its text recognised first"
_SOUND: Final = "a work is text: write down what is said in it"
_UNPACK: Final = "unpack it and name the text file in it"
_DOCUMENTS: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"%PDF-", "a PDF", _EXPORT),
    (b"%!PS-", "PostScript", _EXPORT),
    (b"{\\rtf1", "an RTF document", _EXPORT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document (DOC, XLS, PPT)", _EXPORT),
    (b"AT&TFORM", "a DjVu scan", _SCAN),
    (b"\x89PNG\r\n", "a PNG image", _SCAN),
    (b"\xff\xd8\xff", "a JPEG image", _SCAN),
    (b"GIF87a", "a GIF image", _SCAN),
    (b"GIF89a", "a GIF image", _SCAN),
    (b"II*\x00", "a TIFF image", _SCAN),
    (b"MM\x00*", "a TIFF image", _SCAN),
    (b"8BPS", "a Photoshop image", _SCAN),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (b"ID3", "an MP3 recording", _SOUND),
    (b"OggS", "an Ogg recording", _SOUND),
    (b"fLaC", "a FLAC recording", _SOUND),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM film", _SOUND),
    (b"SQLite format 3\x00", "an SQLite database", _EXPORT),
    (b"\x7fELF", "a program", "name the work's text file"),
    (b"MZ\x90\x00", "a program", "name the work's text file"),
)
_WRITTEN_IN_ASCII: Final = (b"!<arch>\n", b"%PDF-", b"%!PS-", b"{\\rtf1")
_ZIPPED: Final[tuple[tuple[bytes, str], ...]] = (
    (b"application/epub+zip", "an EPUB book"),
    (b"application/vnd.oasis.opendocument", "an OpenDocument file (ODT, ODS, ODP)"),
    (b"word/", "a Word document (DOCX)"),
    (b"ppt/", "a PowerPoint file (PPTX)"),
    (b"xl/", "an Excel table (XLSX)"),
    (b"Index/Document.iwa", "a Pages document"),
)
# UTF-32 first: its little-endian mark begins with UTF-16's.
_MARKS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_SAVE: Final = 'save it again with the encoding "UTF-8"'
_LOOKED_AT: Final = 64 * 1024
_RARE: Final = 0.02


def what_it_is(raw: bytes) -> str | None:
    """Return the format of a file that is not a text, and what to do; None if it may be a text.

    A valid text is never refused by a guess: only a file is examined that has a zero byte, is not
    UTF-8, or begins with the mark of a format that is written in ASCII.
    """
    head = raw[:_LOOKED_AT]
    if not (head.startswith(_WRITTEN_IN_ASCII) or b"\x00" in raw or _is_broken(raw)):
        return None
    for start, name, remedy in _DOCUMENTS:
        if head.startswith(start):
            return f"the file is {name}, not UTF-8 text: {remedy}"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        # A zip archive has the names of its members before each member, and all at its end.
        names = head + raw[-_LOOKED_AT:]
        for mark, name in _ZIPPED:
            if mark in names:
                return f"the file is {name}, not UTF-8 text: {_EXPORT}"
        return f"the file is a zip archive, not UTF-8 text: {_UNPACK}"
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"WAVE", b"AVI "):
        image = head[8:12] == b"WEBP"
        name = "a WebP image" if image else "a recording"
        return f"the file is {name}, not UTF-8 text: {_SCAN if image else _SOUND}"
    if head[4:8] == b"ftyp":
        image = head[8:11] in (b"hei", b"mif", b"avi")
        name = "a HEIC or AVIF image" if image else "a film or recording (MP4)"
        return f"the file is {name}, not UTF-8 text: {_SCAN if image else _SOUND}"
    if head[:3] == b"BZh" and head[4:10] == b"1AY&SY":
        return f"the file is a bzip2 archive, not UTF-8 text: {_UNPACK}"
    if head[257:262] == b"ustar":
        return f"the file is a tar archive, not UTF-8 text: {_UNPACK}"
    if head.startswith(b"!<arch>\n") or _CPIO.match(head):
        return f"the file is an ar or cpio archive, not UTF-8 text: {_UNPACK}"
    if head[60:68] in (b"BOOKMOBI", b"TEXtREAd"):
        return f"the file is a Kindle book (MOBI), not UTF-8 text: {_EXPORT}"
    return _encoding(head)


def _is_broken(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _encoding(head: bytes) -> str | None:
    for mark, name in _MARKS:
        if head.startswith(mark):
            return f"the file is {name}, not UTF-8: {_SAVE}"
    if len(head) >= 4 and head.count(0) * 4 >= len(head):
        pairs = len(head) // 2
        # In UTF-16, the high bytes of a text in one alphabet are almost all the same; for Latin
        # they are zero.
        if max(head[0::2].count(0), head[1::2].count(0)) * 10 >= pairs * 6:
            return f"the file looks like UTF-16 without its mark, not UTF-8: {_SAVE}"
    return None


def not_utf8(raw: bytes, error: UnicodeDecodeError) -> str:
    """Return why the bytes are not UTF-8, with the line of the first wrong byte."""
    known = what_it_is(raw)
    if known is not None:
        return known
    head = raw[:_LOOKED_AT]
    odd = sum(byte < 9 or 13 < byte < 32 or byte == 127 for byte in head)
    if odd > len(head) * _RARE:
        return "the file is binary, not UTF-8 text: name the work's text file, or export its text"
    line = raw.count(b"\n", 0, error.start) + 1
    return (
        f"byte {error.start}, in line {line}, is not UTF-8: the file seems to have an older "
        f"encoding such as Windows-1252, ISO 8859, Shift JIS or GBK; {_SAVE}"
    )
