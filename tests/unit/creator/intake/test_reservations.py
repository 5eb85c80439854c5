"""Reservations of training, wherever a file or the copy of a site has them, and what hides text."""

from __future__ import annotations

import base64
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import documents

from viz.creator.intake import rights
from viz.creator.intake.found import OptOut
from viz.creator.intake.importing import import_sources, sources_of
from viz.creator.intake.sandbox import Refused, SourceFile, parse
from viz.errors import InvalidWork

RSL = (
    '<rsl xmlns="https://rslstandard.org/rsl"><content url="https://a.test/"><license>'
    "{}</license></content></rsl>"
)
NO = '<prohibits type="usage">ai-train</prohibits>'
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description xmlns:tdm="http://www.w3.org/ns/tdmrep/" tdm:reservation="1"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
PREFIXED = (
    '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:x="http://www.w3.org/1999/xhtml"><head>'
    '<x:meta name="tdm-reservation" content="1"/></head><body>'
    "<x:script>run(it)</x:script><p>The keeper was Ada.</p></body></html>"
)
LINE = [[(72.0, 700.0, 11.0, "The keeper of the light was Ada.")]]


def page(head: str) -> bytes:
    return f"<html><head>{head}</head><body><p>The keeper was Ada.</p></body></html>".encode()


def metadata(xmp: bytes, *, packed: bool) -> bytes:
    data = zlib.compress(xmp) if packed else xmp
    how = b"/Filter /FlateDecode " if packed else b""
    head = b"99 0 obj\n<< /Type /Metadata /Subtype /XML %s/Length %d >>\nstream\n" % (
        how,
        len(data),
    )
    return documents.pdf(LINE, tail=head + data + b"\nendstream\nendobj\n")


def manifest(word: bytes, name: bytes = b"c2pa") -> bytes:
    """Return bytes as a C2PA manifest has them around its assertion about training."""
    return b"jumb\0\0" + name + b".training-mining\0\xa1centries\xa1cuse" + word + b"\0"


def unseen(data: bytes) -> str:
    """Return bytes as a plain text has them: each is a variation selector."""
    return "".join(chr(0xFE00 + byte if byte < 16 else 0xE0100 + byte - 16) for byte in data)


def embedding(data: bytes) -> bytes:
    return page(f'<script type="application/c2pa">{base64.b64encode(data).decode()}</script>')


GIVEN: dict[str, tuple[str, bytes, str, list[str]]] = {
    "RSL in a script": (
        "a.html",
        page(f'<script type="application/rsl+xml">{RSL.format(NO)}</script>'),
        "RSL",
        ["reserved"],
    ),
    "RSL that lets train": (
        "a.html",
        page(f'<script type="application/rsl+xml">{RSL.format("")}</script>'),
        "RSL",
        ["allowed"],
    ),
    "broken RSL": (
        "a.html",
        page('<script type="application/rsl+xml"><rsl></script>'),
        "RSL",
        ["reserved"],
    ),
    "RSL that a page names": (
        "a.html",
        page('<link rel="license" type="application/rsl+xml" href="/rsl.xml">'),
        "RSL",
        ["reserved"],
    ),
    "RSL in a book": (
        "a.epub",
        documents.epub(
            ["<p>Words.</p>"],
            '<rsl:rsl xmlns:rsl="https://rslstandard.org/rsl"><rsl:content url="https://a.test/">'
            '<rsl:license><rsl:prohibits type="usage">ai-all</rsl:prohibits></rsl:license>'
            "</rsl:content></rsl:rsl>",
        ),
        "RSL",
        ["reserved"],
    ),
    "RSL in a PDF": (
        "a.pdf",
        metadata(RSL.format(NO).encode(), packed=True),
        "RSL",
        ["reserved"],
    ),
    "TDMRep in a PDF": ("a.pdf", metadata(XMP, packed=False), "TDMRep", ["reserved"]),
    "TDMRep in a PDF, in UTF-16": (
        "a.pdf",
        metadata(XMP.decode().encode("utf-16"), packed=False),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep in a PDF, in UTF-16 of the other order, packed": (
        "a.pdf",
        metadata(XMP.decode().encode("utf-16-be"), packed=True),
        "TDMRep",
        ["reserved"],
    ),
    "RSL in a PDF, in UTF-16": (
        "a.pdf",
        metadata(RSL.format(NO).encode("utf-16-le"), packed=True),
        "RSL",
        ["reserved"],
    ),
    "TDMRep in a picture, in UTF-16": (
        "a.pdf",
        documents.pdf(LINE, tail=b"\xff\xd8\xff\xe1" + XMP.decode().encode("utf-16-be")),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep without a value": (
        "a.html",
        page('<meta name="tdm-reservation" content="">'),
        "TDMRep",
        ["reserved"],
    ),
    "a preference in a book": (
        "a.epub",
        documents.epub(["<p>Words.</p>"], '<meta name="ai-training" content="no"/>'),
        "AI Preferences",
        ["reserved"],
    ),
    "a preference in a meta element": (
        "a.html",
        page('<meta name="AI_Training" content="disallowed">'),
        "AI Preferences",
        ["reserved"],
    ),
    "a record of chats": (
        "a.jsonl",
        b'{"instruction": "Who?", "output": "Ada."}\n'
        b'{"instruction": "Who?", "output": "Ada.", "TDM_Reservation": 1}\n',
        "TDMRep",
        ["reserved"],
    ),
    "a record of chats that is left out": (
        "a.jsonl",
        b'{"instruction": "Who?", "output": "Ada."}\n{"meta": {"noai": true}}\n',
        "robots tag",
        ["reserved"],
    ),
    "a record with a member twice": (
        "a.jsonl",
        b'{"instruction": "Who?", "output": "Ada.", "tdm-reservation": 1, "tdm-reservation": 0}\n',
        "TDMRep",
        ["reserved", "allowed"],
    ),
    "a list of records": (
        "a.json",
        b'[{"instruction": "Who?", "output": "Ada.", "ai": {"training": false}}]',
        "AI Preferences",
        ["reserved"],
    ),
    "chats about rules": (
        "a.jsonl",
        b'{"messages": [{"role": "user", "content": "noai? tdm-reservation: 1?"}, '
        b'{"role": "bot", "content": "robots: noai, train-ai=n"}], "bot": "noai"}\n',
        "robots tag",
        [],
    ),
    "a signal in a meta element": (
        "a.html",
        page('<meta name="Content-Signal" content="search=yes, ai-train=no">'),
        "AI Preferences",
        ["reserved"],
    ),
    "a name with blanks in a meta element": (
        "a.html",
        page('<meta name="TDM Reservation" content="1">'),
        "TDMRep",
        ["reserved"],
    ),
    "a meta element without a value": (
        "a.html",
        page('<meta name="noai">'),
        "robots tag",
        ["reserved"],
    ),
    "TDMRep in a PDF, packed": ("a.pdf", metadata(XMP, packed=True), "TDMRep", ["reserved"]),
    "TDMRep in a PDF, under another prefix": (
        "a.pdf",
        metadata(XMP.replace(b"tdm:", b"x-1:").replace(b":tdm=", b":x-1="), packed=True),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep in a PDF, as an element with attributes": (
        "a.pdf",
        metadata(
            b"<a xmlns:t='http://www.w3.org/ns/tdmrep#'><t:reservation b='c'>1"
            b"</t:reservation> 0</a>",
            packed=True,
        ),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep in a PDF, as the namespace of an element": (
        "a.pdf",
        metadata(
            b'<reservation xmlns="http://www.w3.org/ns/tdmrep/">1</reservation>', packed=False
        ),
        "TDMRep",
        ["reserved"],
    ),
    "the word of another namespace in a PDF": (
        "a.pdf",
        metadata(b'<a xmlns:t="http://a.test/"><t:reservation>1</t:reservation></a>', packed=False),
        "TDMRep",
        [],
    ),
    "TDMRep in a book": (
        "a.epub",
        documents.epub(["<p>Words.</p>"], '<meta property="tdm:reservation">1</meta>'),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep in a book, under another prefix": (
        "a.epub",
        documents.epub(
            ["<p>Words.</p>"],
            '<meta property="x:reservation">1</meta>',
            attributes='prefix="a: http://a.test/  x: http://www.w3.org/ns/tdmrep/"',
        ),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep in a book, as an element": (
        "a.epub",
        documents.epub(
            ["<p>Words.</p>"],
            '<x:reservation xmlns:x="http://www.w3.org/ns/tdmrep/">1</x:reservation>',
        ),
        "TDMRep",
        ["reserved"],
    ),
    "another's property in a book": (
        "a.epub",
        documents.epub(
            ["<p>Words.</p>"],
            '<meta property="x:reservation">1</meta>',
            attributes='prefix="x: http://a.test/"',
        ),
        "TDMRep",
        [],
    ),
    "TDMRep in a page, under another prefix": (
        "a.html",
        page('<meta property="dc:x q:reservation" content="1">').replace(
            b"<html", b'<html prefix="q: http://www.w3.org/ns/tdmrep/"'
        ),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep in a page, by its whole name": (
        "a.html",
        page('<meta property="http://www.w3.org/ns/tdmrep/reservation" content="1">'),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep in a page whose elements have a prefix": (
        "a.html",
        PREFIXED.encode(),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep in a page whose elements have a prefix, as XHTML": (
        "a.xhtml",
        b'<?xml version="1.0"?>' + PREFIXED.encode(),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep in a page whose elements have a prefix, with an error": (
        "a.htm",
        PREFIXED.replace("</p>", "&nbsp;<br></p>").encode(),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep with an odd value": (
        "a.html",
        page('<meta name="tdm-reservation" content="true">'),
        "TDMRep",
        ["reserved"],
    ),
    "TDMRep that permits": (
        "a.html",
        page('<meta name="TDM-Reservation" content=" 0 ">'),
        "TDMRep",
        ["allowed"],
    ),
    "C2PA in a page": ("a.html", embedding(manifest(b"notAllowed")), "C2PA", ["reserved"]),
    "C2PA that lets train": ("a.html", embedding(manifest(b"allowed")), "C2PA", ["allowed"]),
    "CAWG in a page": (
        "a.html",
        embedding(manifest(b"constrained", b"cawg")),
        "CAWG",
        ["reserved"],
    ),
    "C2PA in a page, damaged": (
        "a.html",
        page('<script type="application/c2pa">no base64!</script>'),
        "C2PA",
        ["reserved"],
    ),
    "C2PA that a page names": (
        "a.html",
        page('<link rel="c2pa-manifest" href="x.c2pa">'),
        "C2PA",
        ["reserved"],
    ),
    "C2PA unseen in a text": (
        "a.txt",
        f"The keeper was Ada.\ufeff{unseen(manifest(b'notAllowed'))}".encode(),
        "C2PA",
        ["reserved"],
    ),
    "noai for one crawler": (
        "a.html",
        page('<meta name="Googlebot" content="noindex, noai">'),
        "robots tag",
        ["reserved"],
    ),
    "noai in front matter": (
        "a.md",
        b"---\ntitle: Ada\nrobots: noindex, noai\n---\nThe keeper was Ada.",
        "robots tag",
        ["reserved"],
    ),
    "TDMRep in front matter": (
        "a.md",
        b"---\ntdm_reservation: 1\n---\nThe keeper was Ada.",
        "TDMRep",
        ["reserved"],
    ),
    "front matter about robots": (
        "a.md",
        b"---\ntitle: noai, a story\nrobots: index\n---\nThe keeper was Ada.",
        "robots tag",
        [],
    ),
    "a text with emoji": ("a.txt", "The keeper was Ada. ❤\ufe0f".encode(), "C2PA", []),
}


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    answers = parse([SourceFile(name, raw) for name, raw, _, _ in GIVEN.values()])
    return dict(zip(GIVEN, answers, strict=True))


@pytest.mark.parametrize("what", GIVEN)
def test_a_reservation_in_a_file_is_found(what: str, given: dict[str, Any]) -> None:
    _, _, scheme, says = GIVEN[what]
    assert not isinstance(given[what], Refused), given[what]
    assert [s["says"] for s in given[what]["opt_outs"] if s["scheme"] == scheme] == says


def test_a_page_whose_elements_have_a_prefix_is_read_as_in_a_book() -> None:
    """Protects the work from a script that only a parser of XML sees as one."""
    (answer,) = parse([SourceFile("a.xhtml", PREFIXED.encode())])
    assert answer["text"] == "The keeper was Ada.\n"


def test_a_books_own_rsl_document_is_named_as_what_it_is(tmp_path: Path) -> None:
    """Whether it is compressed or not: the creator has to find what reserves."""
    path = tmp_path / "a.epub"
    path.write_bytes(documents.epub(["<p>Ada.</p>"], more={"META-INF/rsl.xml": RSL.format(NO)}))
    made = import_sources(*sources_of([path])[:1])
    assert [(each.scheme, each.says, each.where) for each in made.opt_outs] == [
        ("RSL", "reserved", "META-INF/rsl.xml of a.epub")
    ]


def test_a_manifest_beside_a_file_counts_for_it_alone(tmp_path: Path) -> None:
    """Named as C2PA's tools do, with the file's ending or without; damaged, it reserves."""
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        (tmp_path / name).write_text(f"The keeper of {name} was Ada.")
    (tmp_path / "a.c2pa").write_bytes(manifest(b"notAllowed"))
    (tmp_path / "b.txt.c2pa").write_bytes(manifest(b"allowed"))
    (tmp_path / "c.c2pa").write_bytes(b"nothing that is known")
    found, skipped = sources_of([tmp_path])
    made = import_sources(found)
    assert [(each.says, each.where) for each in made.opt_outs] == [
        ("reserved", "a.c2pa of a.txt"),
        ("allowed", "b.txt.c2pa of b.txt"),
        ("reserved", "c.c2pa of c.txt"),
    ]
    assert {each["why"] for each in skipped} == {
        "a file for programs: what it says of training counts"
    }
    alone = import_sources(sources_of([tmp_path / "a.txt"])[0])
    assert [each.says for each in alone.opt_outs] == ["reserved"]


def test_the_rules_in_a_copy_of_a_site_count_for_its_pages_and_are_no_text(tmp_path: Path) -> None:
    """A folder that wget or an export made has robots.txt and tdmrep.json as the site has them."""
    site = tmp_path / "a.test"
    (site / ".well-known").mkdir(parents=True)
    (site / "diary").mkdir()
    (site / "diary" / "index.html").write_bytes(page(""))
    (site / "about.html").write_bytes(page("").replace(b"Ada", b"Eve"))
    (site / "robots.txt").write_text(
        "User-agent: GPTBot\nDisallow: /diary/\n\nLicense: https://a.test/rsl.xml\n"
    )
    (site / "rsl.xml").write_text(RSL.format(NO).replace("https://a.test/", "/about"))
    (site / ".well-known" / "tdmrep.json").write_text(
        '[{"location": "/diary/", "tdm-reservation": 1}]'
    )
    made = import_sources(*(sources_of([tmp_path])[:1]))
    assert b"User-agent" not in made.raw and b"Ada" in made.raw
    assert sorted((each.scheme, each.where) for each in rights.in_force(made.opt_outs)) == [
        ("RSL", "https://a.test/rsl.xml of a.test/about.html"),
        ("TDMRep", "/.well-known/tdmrep.json of a.test/diary/index.html"),
        ("robots.txt", "robots.txt of a.test/diary/index.html"),
    ]
    (site / "rsl.xml").unlink()
    made = import_sources(*(sources_of([tmp_path])[:1]))
    unread = [each for each in made.opt_outs if each.scheme == "RSL"]
    assert {each.says for each in unread} == {"reserved"} and "is not read here" in unread[0].value


@pytest.mark.parametrize(
    ("rules", "reserved"),
    [
        ("User-Agent: *\nDisallow: /\n", ["about.html", "diary/index.html", "notes.txt"]),
        ("User-Agent: *\nDisallow: *\nAllow: /\n", ["about.html", "diary/index.html", "notes.txt"]),
        ("# Spawning\nUser-Agent: *\nDisallow: *.html\n", ["about.html", "diary/index.html"]),
        ("User-Agent: Somebody\nDisallow: *.txt\nDisallow: *.jpg\n", ["notes.txt"]),
        ("user-agent: *\ndisallow: diary/\n", ["diary/index.html"]),
        ("User-Agent: *\nDisallow: *.jpg\nAllow: *.txt\nDisallow:\n", []),
        ("# nothing\n", []),
        ("<!DOCTYPE html><p>There is no such page.</p>", []),
        ("Machines, leave my diary alone.", ["about.html", "diary/index.html", "notes.txt"]),
    ],
)
def test_an_ai_txt_reserves_and_no_rule_file_is_text(
    tmp_path: Path, rules: str, reserved: list[str]
) -> None:
    """Protects the rights in a copy of a site: it was read as a text of the work."""
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "index.html").write_bytes(page(""))
    (tmp_path / "about.html").write_bytes(page("").replace(b"Ada", b"Eve"))
    (tmp_path / "notes.txt").write_text("The boat came.")
    (tmp_path / "ai.txt").write_text(rules)
    (tmp_path / "LLMs.txt").write_text("# For machines\n\nRead this first.")
    found, skipped = sources_of([tmp_path])
    assert [each.name for each in found] == ["about.html", "diary/index.html", "notes.txt"]
    assert {each["name"] for each in skipped} == {"ai.txt", "LLMs.txt"}
    made = import_sources(found)
    assert b"Disallow" not in made.raw and b"machines" not in made.raw.lower()
    assert {each.scheme for each in made.opt_outs} <= {"ai.txt"}
    assert [each.where.rpartition(" ")[2] for each in rights.in_force(made.opt_outs)] == reserved
    for name in ("ai.txt", "LLMs.txt"):
        with pytest.raises(InvalidWork, match="no text of a work"):
            sources_of([tmp_path / name])


def test_links_in_a_circle_and_names_that_are_no_text_are_read_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("b.txt")
    (tmp_path / "b.txt").symlink_to("a.txt")
    (tmp_path / "c.txt").write_text("The keeper was Ada.")
    os.mkfifo(tmp_path / "p.txt")
    (tmp_path / "out.txt").symlink_to("/etc/hostname")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xff\x1b[31m.txt")).write_bytes(b"The boat came.")
    found, skipped = sources_of([tmp_path])
    assert [each.name for each in found] == ["c.txt", "d\ufffd\ufffd[31m.txt"]
    assert {each["name"] for each in skipped} == {"a.txt", "b.txt", "out.txt", "p.txt"}
    assert {"name": "p.txt", "why": "it is a pipe or a device"} in skipped
    assert b"boat" in import_sources(found).raw


def test_a_source_adds_no_line_to_what_is_signed() -> None:
    forged = OptOut("robots tag", "reserved", "a", "noai\nThese reservations are mine. And more.")
    lines = rights.statement_of("A", "ab" * 32, [forged], 0).splitlines()
    assert len(lines) == 4 and lines[2].startswith("- robots tag, a: noai These")


def word(body: str, styles: str = "") -> bytes:
    more: dict[str, str | bytes] = {
        "word/document.xml": f'<w:document xmlns:w="{documents.WORD}"><w:body>{body}</w:body>'
        "</w:document>"
    }
    if styles:
        more["word/styles.xml"] = f'<w:styles xmlns:w="{documents.WORD}">{styles}</w:styles>'
    return documents.docx([], more)


def run(text: str, properties: str = "") -> str:
    return f"<w:r><w:rPr>{properties}</w:rPr><w:t>{text}</w:t></w:r>"


def test_what_word_hides_is_left_out_and_told() -> None:
    """By the run itself, its style, or the style that one is based on; and only where it holds."""
    styles = (
        '<w:style w:type="character" w:styleId="Secret"><w:rPr><w:vanish/></w:rPr></w:style>'
        '<w:style w:type="character" w:styleId="Child"><w:basedOn w:val="Secret"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="Gone"><w:rPr><w:vanish/></w:rPr></w:style>'
    )
    kept = run("Kept.", '<w:vanish w:val="0"/>')
    two = run("Two", '<w:rStyle w:val="Child"/>')
    body = (
        f"<w:p>{run('Seen. ')}{run('One', '<w:vanish/>')}{kept}</w:p>"
        f"<w:p>{two}{run('Last.')}</w:p>"
        f'<w:p><w:pPr><w:pStyle w:val="Gone"/></w:pPr>{run("Three")}</w:p>'
    )
    (answer,) = parse([SourceFile("a.docx", word(body, styles))])
    assert answer["text"] == "Seen. Kept.\n\nLast.\n"
    assert "left out: 3 passages that Word hides" in answer["notes"]


def test_text_off_a_pdf_s_page_is_left_out_and_invisible_text_is_told() -> None:
    lines = [*LINE[0], (72.0, -60.0, 11.0, "Below the page."), (900.0, 600.0, 11.0, "Beside it.")]
    (answer,) = parse([SourceFile("a.pdf", documents.pdf([lines]))])
    assert answer["text"] == "The keeper of the light was Ada.\n"
    assert "left out: 2 lines beyond the edge of a page" in answer["notes"]
    (answer,) = parse([SourceFile("b.pdf", documents.pdf(LINE, invisible=True))])
    assert any("text that nobody sees" in note for note in answer["notes"])


@pytest.mark.parametrize("name", ["unicode_escape", "idna", "undefined", "rot13", "utf-8+punycode"])
def test_a_codec_that_no_text_is_written_in_is_no_encoding(name: str) -> None:
    (answer,) = parse([SourceFile("a.txt", "Gr\u00fc\u00dfe".encode("latin-1"), encoding=name)])
    assert isinstance(answer, Refused) and "is not a known encoding" in answer.why
