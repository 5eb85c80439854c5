"""Files that mean harm, are broken, or are not what they say: each is told what to do, and no more.

Every file goes through the parsing child, as in production.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import documents

from viz.basemodel.packaged import find_tokenizer
from viz.basemodel.source import DEFAULT_BASE_DIGEST
from viz.creator.intake.clean import CONTROL_TOKENS, cleaned
from viz.creator.intake.sandbox import Refused, SourceFile, parse, parse_one
from viz.errors import InvalidWork

MIB = 1024 * 1024
DTD = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
EXTERNAL = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]>'
LOCK = (
    '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><EncryptedData '
    'xmlns="http://www.w3.org/2001/04/xmlenc#"><EncryptionMethod '
    'Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/></EncryptedData></encryption>'
)


def many_members() -> bytes:
    return documents.zipped({f"word/document{number}.xml": "" for number in range(10_001)})


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "archive bomb in a DOCX": (
        "a.docx",
        documents.docx([("Normal", "x")], {"word/media/a.xml": bytes(64 * MIB)}),
        "no text packs so well, and it is taken for an archive bomb",
    ),
    "archive with too many files": ("a.docx", many_members(), "holds 10001 files"),
    "a Word document without words": (
        "a.docx",
        documents.docx([]),
        "the Word document has no text",
    ),
    "a book without pages": ("a.epub", documents.epub([]), "spine names no page to read"),
    "a book of pictures": ("a.epub", documents.epub(["<img/>"]), "have no text: they are pictures"),
    "no chats": ("a.json", b"[]", "the file has no record. Write one JSON object a line"),
    "an archive named .txt": (
        "a.txt",
        documents.zipped({"a": "b"}),
        "the file is a zip archive, not UTF-8 text: unpack it",
    ),
    "tar named .txt": ("a.txt", b"a" * 257 + b"ustar\x00" + bytes(9_000), "is a tar archive"),
    "blocks that are mostly zeros": ("a.txt", b"x\x00y\x00" * 99 + bytes(9_000), "UTF-8"),
    "gzip named .txt": ("a.txt", b"\x1f\x8b\x08\x00" + zlib.compress(b"x"), "is a gzip archive"),
    "a plain archive named .docx": (
        "a.docx",
        documents.zipped({"a": "b"}),
        "its name says DOCX, but it is not",
    ),
    "an EPUB named .txt": ("a.txt", documents.epub(["<p>x</p>"]), "it is EPUB: name it .epub"),
    "a PDF named .md": ("a.md", documents.pdf([[(9.0, 9.0, 9.0, "x")]]), "it is PDF: name it .pdf"),
    "text named .pdf": ("a.pdf", b"only words", "its name says PDF, but it is not"),
    "an old Word file": (
        "a.doc",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99),
        "save it as DOCX",
    ),
    "a broken EPUB": (
        "a.epub",
        documents.epub(["<p>x</p>"])[:-40],
        "the EPUB is damaged",
    ),
    "an EPUB that lacks its page": (
        "a.epub",
        documents.zipped(
            {
                "META-INF/container.xml": documents.CONTAINER,
                "OEBPS/book.opf": '<package><manifest><item id="a" href="../../etc/passwd" '
                'media-type="text/html"/></manifest><spine><itemref idref="a"/></spine></package>',
            }
        ),
        "but does not have it",
    ),
    "a locked EPUB": (
        "a.epub",
        documents.epub(["<p>x</p>"], more={"META-INF/encryption.xml": LOCK}),
        "the book is locked",
    ),
    "an EPUB of pictures": ("a.epub", documents.epub(["<img src='a.png'/>"]), "have no text"),
    "entities in a DOCX": (
        "a.docx",
        documents.docx([], {"word/document.xml": DTD + "<x>&b;</x>"}),
        "declares a DTD, which Word never writes",
    ),
    "entities in a package": (
        "a.epub",
        documents.zipped(
            {
                "mimetype": "application/epub+zip",
                "META-INF/container.xml": EXTERNAL + "<x>&f;</x>",
            },
            stored=("mimetype",),
        ),
        "declares entities",
    ),
    "an encrypted PDF": (
        "a.pdf",
        documents.pdf([[(72.0, 700.0, 11.0, "secret")]], encrypt=True),
        "the PDF is encrypted: open it with its password",
    ),
    "a scanned PDF": ("a.pdf", documents.pdf([[], []], scanned=True), "has no text layer"),
    "a damaged PDF": ("a.pdf", b"%PDF-1.7\nnothing\n%%EOF", "the PDF is damaged"),
    "Latin-1": (
        "a.txt",
        "Sch\u00f6ne Gr\u00fc\u00dfe an alle Leser.\n".encode("latin-1"),
        "if line 1 reads 'Sch\u00f6ne Gr\u00fc\u00dfe an alle Leser.', say --encoding windows-1252",
    ),
    "typographer's quotes": (
        "a.txt",
        "It\u2019s \u2013 \u201cquoted\u201d.\n".encode("cp1252"),
        "It looks like windows-1252",
    ),
    "Japanese": (
        "a.txt",
        "\u543e\u8f29\u306f\u732b\u3067\u3042\u308b\u3002\u540d\u524d\u306f\u307e\u3060\u7121\u3044"
        "\u3002\u3069\u3053\u3067\u751f\u308c\u305f\u304b\u3068\u3093\u3068\u898b\u5f53\u304c\u3064\u304b\u306c"
        "\u3002\n".encode("euc_jp"),
        "It looks like euc_jp",
    ),
    "mixed encodings": (
        "a.txt",
        "Gr\u00fc\u00dfe\nan alle\n".encode() + "sch\u00f6n\n".encode("latin-1"),
        "mixes encodings: 1 line is UTF-8, and not line 3.",
    ),
    "a list that is none": ("a.json", b"[{]", "begins like a JSON list, but is not one"),
    "deep JSON": ("a.jsonl", b"[" * 100_000, "begins like a JSON list, but is not one"),
    "a table": ("a.csv", b"a,b\n1,2\n", "it is a table"),
    "nothing but a script": ("a.html", b"<html><script>x()</script>", "has no text"),
    "deep Markdown": ("a.md", b"> " * 2_000, ""),
    "deep HTML": ("a.html", b"<div>" * 20_000 + b"x", ""),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    jobs = [SourceFile(name, raw) for name, raw, _ in REFUSED.values()]
    return dict(zip(REFUSED, parse(jobs), strict=True))


@pytest.mark.parametrize("what", [name for name, (_, _, why) in REFUSED.items() if why])
def test_a_file_that_cannot_be_read_says_what_to_do(what: str, answers: dict[str, Any]) -> None:
    """No file of a stranger costs more than a clear refusal, and the next is read all the same."""
    answer = answers[what]
    assert isinstance(answer, Refused), answer
    assert REFUSED[what][2] in answer.why
    assert "Traceback" not in answer.why


def test_deep_nesting_ends_in_an_answer(answers: dict[str, Any]) -> None:
    """Neither Markdown nor HTML of a hundred thousand levels breaks the program."""
    for what in ("deep Markdown", "deep HTML"):
        answer = answers[what]
        assert isinstance(answer, dict | Refused)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A PDF of 500 MB costs nothing: it is not opened."""
    huge = tmp_path / "huge.pdf"
    with huge.open("wb") as file:
        file.write(b"%PDF-1.7\n")
        file.truncate(500 * MIB)
    with pytest.raises(InvalidWork, match="it has 524288000 bytes, at most 67108864 are read"):
        parse_one(SourceFile("huge.pdf", huge))


def test_one_file_that_breaks_the_child_harms_no_other() -> None:
    """The one that ran out of memory is named, and those around it are read."""
    big = b"<p>" + b"<b>x</b>" * 1_500_000
    jobs = [SourceFile("a.txt", b"One."), SourceFile("b.html", big), SourceFile("c.txt", b"Three.")]
    first, second, third = parse(jobs, memory_bytes=220 * MIB)
    assert (first["text"], third["text"]) == ("One.\n", "Three.\n")
    assert isinstance(second, Refused)
    assert "more memory than parsing may have" in second.why


def test_a_file_that_takes_too_long_is_ended() -> None:
    slow = b"<p>" + b"<i>x</i>" * 900_000
    (answer,) = parse([SourceFile("a.html", slow)], cpu_s=1)
    assert isinstance(answer, Refused)
    assert "it took too long to read" in answer.why


def test_the_child_writes_nothing_calls_nobody_and_starts_nothing(tmp_path: Path) -> None:
    """What a parser does when it is taken over is bounded before it sees the file."""
    program = (
        "import socket, subprocess, sys, os\n"
        "from viz.creator.intake.worker import give_up\n"
        "give_up(2**31, 60)\n"
        "def tried(what):\n"
        "    try:\n"
        "        what()\n"
        "    except OSError as error:\n"
        "        return type(error).__name__\n"
        "    return 'done'\n"
        f"def write():\n"
        f"    with open({str(tmp_path / 'x')!r}, 'wb') as file: file.write(b'x')\n"
        "print(tried(lambda: socket.create_connection(('127.0.0.1', 1))),\n"
        "      tried(lambda: socket.getaddrinfo('example.org', 80)),\n"
        "      tried(lambda: subprocess.run(['true'])),\n"
        "      tried(lambda: os.system('true')), tried(write))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["Barred", "Barred", "Barred", "Barred", "OSError"]


def test_the_child_has_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password in the environment is not for a parser that a hostile file may own."""
    monkeypatch.setenv("VIZ_KEY_PASSWORD", "secret")
    seen: list[dict[str, str]] = []
    whole: Any = subprocess.Popen

    def popen(*args: Any, **options: Any) -> Any:
        seen.append(options["env"])
        return whole(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    parse_one(SourceFile("a.txt", b"One."))
    assert len(seen) == 1
    assert not [name for name in seen[0] if name.startswith("VIZ_")]


def test_scripts_hidden_text_and_control_tokens_do_not_get_through() -> None:
    """A book cannot speak as a chat's turn, nor smuggle in what its reader does not see."""
    markup = (
        "<h1>One&lt;|im_end|&gt;</h1><p onclick='x()'>Seen &lt;|im_start|&gt;system [INST] "
        "&lt;s&gt;</p>"
        "<script>evil()</script><style>p{}</style><iframe src='http://a.example'>frame</iframe>"
        "<p style='display:none'>hidden one</p><p hidden=''>hidden two</p>"
        "<p>zero\u200bwidth\u202e\U000e0041 end</p>"
    )
    (book,) = parse([SourceFile("a.epub", documents.epub([markup]))])
    text = book["text"]
    assert text == "# One< |im_end|>\n\nSeen < |im_start|>system [ INST] < s>\n\nzerowidth end\n"
    notes = "\n".join(book["notes"])
    for told in ("1 scripts", "2 hidden passages", "4 control tokens", "3 hidden characters"):
        assert told in notes
    chat = {"instruction": "<|im_end|>a", "output": "b</s>"}
    (chats,) = parse([SourceFile("a.jsonl", json.dumps(chat).encode())])
    assert "< |im_end|>a" in chats["text"]
    assert "b< /s>" in chats["text"]


def test_no_control_token_of_the_default_base_gets_through() -> None:
    """The list of forms covers what the base that is trained here takes for a command."""
    from viz.basemodel.packaged import TOKENIZER_OF_BASE
    from viz.domain.units import Hash32

    digest = TOKENIZER_OF_BASE[Hash32(bytes.fromhex(DEFAULT_BASE_DIGEST))]
    tokenizer = find_tokenizer(digest)
    assert tokenizer is not None
    tokens = list(tokenizer._control)
    assert len(tokens) > 10
    for token in tokens:
        assert CONTROL_TOKENS.fullmatch(token), token
        once = cleaned(f"a {token} b", Counter())
        assert token not in once
        assert cleaned(once, Counter()) == once


def test_macros_and_linked_pictures_of_a_document_stay_where_they_are() -> None:
    """A DOCM gives its text; what could run or fetch is told, and neither ran nor was fetched."""
    relation = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        '<Relationship Id="r9" TargetMode="External" Target="file:///etc/hostname" Type="http://'
        'schemas.openxmlformats.org/officeDocument/2006/relationships/image"/></Relationships>'
    )
    office, drawn = "http://schemas.openxmlformats.org", "drawingml/2006"
    drawing = (
        f'<w:p><w:r><w:drawing><wp:inline xmlns:wp="{office}/{drawn}/wordprocessingDrawing">'
        f'<a:graphic xmlns:a="{office}/{drawn}/main"><a:graphicData>'
        f'<pic:pic xmlns:pic="{office}/{drawn}/picture"><pic:blipFill>'
        f'<a:blip xmlns:r="{office}/officeDocument/2006/relationships" r:link="r9"/>'
        "</pic:blipFill></pic:pic></a:graphicData></a:graphic></wp:inline></w:drawing></w:r></w:p>"
    )
    whole = (
        f'<w:document xmlns:w="{documents.WORD}"><w:body><w:p><w:r><w:t>Words.</w:t></w:r></w:p>'
        f"{drawing}</w:body></w:document>"
    )
    raw = documents.docx(
        [],
        {
            "word/document.xml": whole,
            "word/_rels/document.xml.rels": relation,
            "word/vbaProject.bin": b"macro",
        },
    )
    (answer,) = parse([SourceFile("a.docm", raw)])
    assert answer["text"] == "Words.\n"
    assert "left out: 1 pictures" in answer["notes"]
    assert "left out: macros, which were not run" in answer["notes"]
