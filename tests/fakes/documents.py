"""Documents of every kind that creators have, written byte by byte: good ones and hostile ones."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
CONTAINER = (
    '<?xml version="1.0"?><container version="1.0" '
    'xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/>'
    "</rootfiles></container>"
)


def zipped(members: dict[str, str | bytes], stored: Sequence[str] = ()) -> bytes:
    """Return a zip archive of ``members``; those ``stored`` are not compressed."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            how = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            archive.writestr(name, content, compress_type=how)
    return made.getvalue()


def docx(paragraphs: Sequence[tuple[str, str]], more: Mapping[str, str | bytes] = {}) -> bytes:
    """Return a Word document; a paragraph is its style's name and its text."""
    body = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'
        for style, text in paragraphs
    )
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="{style}"><w:name w:val="{name}"/></w:style>'
        for style, name in (
            ("Heading1", "heading 1"),
            ("Heading2", "heading 2"),
            ("Title", "Title"),
        )
    )
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    members: dict[str, str | bytes] = {
        "[Content_Types].xml": (
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="xml" ContentType="application/xml"/></Types>'
        ),
        "_rels/.rels": (
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="r1" Type="{relations}/officeDocument" Target="word/document.xml"/>'
            "</Relationships>"
        ),
        "word/_rels/document.xml.rels": (
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="r2" Type="{relations}/styles" Target="styles.xml"/></Relationships>'
        ),
        "word/styles.xml": f'<w:styles xmlns:w="{WORD}">{styles}</w:styles>',
        "word/document.xml": f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>',
        **more,
    }
    return zipped(members)


def epub(
    pages: Sequence[str],
    metadata: str = "",
    more: Mapping[str, str | bytes] = {},
    attributes: str = "",
) -> bytes:
    """Return an EPUB whose spine are ``pages`` (the content of each body).

    ``attributes`` are those of the package, beside its namespace.
    """
    names = [f"page{number}.xhtml" for number in range(len(pages))]
    items = "".join(
        f'<item id="i{number}" href="{name}" media-type="application/xhtml+xml"/>'
        for number, name in enumerate(names)
    )
    refs = "".join(f'<itemref idref="i{number}"/>' for number in range(len(pages)))
    package = (
        f'<package xmlns="http://www.idpf.org/2007/opf" version="3.0" {attributes}><metadata '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A book</dc:title>'
        f"<dc:language>en</dc:language><dc:creator>Alma Ey</dc:creator>{metadata}</metadata>"
        f"<manifest>{items}</manifest><spine>{refs}</spine></package>"
    )
    members: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": package,
    }
    for name, page in zip(names, pages, strict=True):
        members[f"OEBPS/{name}"] = (
            '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html>'
            '<html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head>'
            f"<body>{page}</body></html>"
        )
    return zipped({**members, **more}, stored=("mimetype",))


def pdf(
    pages: Sequence[Sequence[tuple[float, float, float, str]]],
    *,
    encrypt: bool = False,
    scanned: bool = False,
    invisible: bool = False,
    tail: bytes = b"",
) -> bytes:
    """Return a PDF; a page is its lines: left, foot, size, text. ``scanned`` pages are pictures.

    The words of an ``invisible`` one are drawn with neither fill nor stroke.
    """
    objects: list[bytes] = []

    def add(content: bytes) -> int:
        objects.append(content)
        return len(objects)

    def stream(data: bytes, entries: bytes = b"") -> int:
        packed = zlib.compress(data)
        head = b"<< /Length %d /Filter /FlateDecode %s >>" % (len(packed), entries)
        return add(head + b"\nstream\n" + packed + b"\nendstream")

    catalog, tree = add(b""), add(b"")
    font = add(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    image = b"/Type /XObject /Subtype /Image /Width 8 /Height 8 /ColorSpace /DeviceGray"
    picture = stream(bytes(64), image + b" /BitsPerComponent 8")
    kids = []
    for lines in pages:
        drawn = b"q 600 0 0 800 0 0 cm /Im Do Q\n" if scanned else b""
        for left, foot, size, text in lines:
            words = text.encode("cp1252").replace(b"\\", b"\\\\").replace(b"(", b"\\(")
            words = words.replace(b")", b"\\)")
            mode = 3 if invisible else 0
            drawn += b"BT %d Tr /F %g Tf %g %g Td (%s) Tj ET\n" % (mode, size, left, foot, words)
        content = stream(drawn)
        kids.append(
            add(
                b"<< /Type /Page /Parent %d 0 R /MediaBox [0 0 600 800] /Contents %d 0 R "
                b"/Resources << /Font << /F %d 0 R >> /XObject << /Im %d 0 R >> >> >>"
                % (tree, content, font, picture)
            )
        )
    objects[catalog - 1] = b"<< /Type /Catalog /Pages %d 0 R >>" % tree
    objects[tree - 1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (
        len(kids),
        b" ".join(b"%d 0 R" % kid for kid in kids),
    )
    trailer = b"/Root %d 0 R" % catalog
    if encrypt:
        lock = b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (b"5a" * 32, b"a5" * 32)
        trailer += b" /Encrypt %d 0 R /ID [<%s> <%s>]" % (add(lock), b"01" * 16, b"01" * 16)
    whole = b"%PDF-1.7\n"
    places = []
    for number, each in enumerate(objects, start=1):
        places.append(len(whole))
        whole += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    whole += tail
    start = len(whole)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    whole += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
    return whole + b"trailer << /Size %d %s >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        trailer,
        start,
    )
