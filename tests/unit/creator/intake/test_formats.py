"""What each format gives, read as it is in production: by the parsing child."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.fakes import documents

from viz.creator.intake.sandbox import Refused, SourceFile, parse
from viz.domain.work import parse_work

PROSE = (
    "The lamp at Varn Point was lit for the first time in the autumn of the year",
    "eighteen hundred and four, and it has burned in every night since then, but",
    "for a few nights in the war. The keeper wrote them down in a book, which is pre-",
    "served.",
)
PARAGRAPH = " ".join(PROSE).replace("pre- served", "preserved")
SHARED = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "At the point."}]
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Alma."}]},
    {
        "system": "Be brief.",
        "conversations": SHARED,
    },
    {"instruction": "Name the lamp.", "input": "It is old.", "output": "Varn."},
]


def pages(*, heading: bool) -> bytes:
    made = []
    for number in (1, 2, 3):
        body = [(72.0, 680.0 - 14 * at, 11.0, line) for at, line in enumerate(PROSE)]
        top = [(72.0, 780.0, 9.0, "Varn Point"), (300.0, 20.0, 9.0, str(number))]
        title = [(72.0, 730.0, 20.0, f"The keeper {number}")] if heading else []
        made.append([*top, *title, *body])
    return documents.pdf(made)


GIVEN: dict[str, tuple[SourceFile, str, str]] = {
    "text keeps its lines": (
        SourceFile("a.txt", b"One line\r\nand the next.\r\n\r\n\r\nTwo."),
        "One line\nand the next.\n\nTwo.\n",
        "text",
    ),
    "text with marks of UTF-16": (
        SourceFile("a.txt", "Gr\u00fc\u00dfe.\n\nZwei.".encode("utf-16")),
        "Gr\u00fc\u00dfe.\n\nZwei.\n",
        "text",
    ),
    "UTF-16 without a mark": (
        SourceFile("a.txt", "Plain words here.".encode("utf-16-be")),
        "Plain words here.\n",
        "text",
    ),
    "Latin-1 that was named": (
        SourceFile("a.txt", "Gr\u00fc\u00dfe.".encode("latin-1"), encoding="latin-1"),
        "Gr\u00fc\u00dfe.\n",
        "text",
    ),
    "two encodings that were named": (
        SourceFile(
            "a.txt", "\u00fc\n".encode() + "\u00fc".encode("cp1252"), encoding="utf-8+windows-1252"
        ),
        "\u00fc\n\u00fc\n",
        "text",
    ),
    "HTML that declares Latin-1": (
        SourceFile(
            "a.html",
            '<html><meta charset="iso-8859-1"><body><p>Gr\u00fc\u00dfe</p>'.encode("latin-1"),
        ),
        "Gr\u00fc\u00dfe\n",
        "html",
    ),
    "Markdown": (
        SourceFile(
            "a.md",
            b"---\ntitle: Hi\n---\n# One\n\nWith *stress* and a [link](http://x.example).\n\n1. "
            b"a\n2. b\n"
            b"   - c\n\n| n | v |\n|---|---|\n| 1 | 2 |\n\n```\nx = 1\n```\n\n> said\n",
        ),
        "# One\n\nWith stress and a link.\n\n1. a\n2. b\n   - c\n\n| n | v |\n| --- | --- |\n| 1 "
        "| 2 |\n\n"
        "```\nx = 1\n```\n\n> said\n",
        "markdown",
    ),
    "HTML": (
        SourceFile(
            "a.html",
            b"<!DOCTYPE html><h1>A &amp; "
            b"B</h1><p>One<br>two</p><dl><dt>lamp</dt><dd>light</dd></dl>"
            b"<table><tr><td><p>Laid out</p></td></tr></table><p>Last<sup><a "
            b"href='#n'>1</a></sup>.",
        ),
        "# A & B\n\nOne\ntwo\n\n- lamp: light\n\nLaid out\n\nLast.\n",
        "html",
    ),
    "DOCX": (
        SourceFile(
            "a.docx",
            documents.docx([("Title", "Book"), ("Heading2", "One"), ("Normal", "Some text.")]),
        ),
        "# Book\n\n## One\n\nSome text.\n",
        "docx",
    ),
    "EPUB": (
        SourceFile(
            "a.epub", documents.epub(["<h1>One</h1><p>It&nbsp;is&#160;so.</p>", "<p>Two</p>"])
        ),
        "# One\n\nIt is so.\n\nTwo\n",
        "epub",
    ),
    "PDF": (
        SourceFile("a.pdf", pages(heading=True)),
        "".join(f"# The keeper {n}\n\n{PARAGRAPH}\n\n" for n in (1, 2, 3)).strip() + "\n",
        "pdf",
    ),
}


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """Everything in one child, as a folder is read."""
    answers = parse([job for job, _, _ in GIVEN.values()])
    return dict(zip(GIVEN, answers, strict=True))


@pytest.mark.parametrize("name", GIVEN)
def test_a_format_gives_its_text(name: str, given: dict[str, Any]) -> None:
    """The creator's words come through whole, in the layout that training reads."""
    _, text, kind = GIVEN[name]
    answer = given[name]
    assert not isinstance(answer, Refused), answer
    assert (answer["text"], answer["source_kind"]) == (text, kind)
    parse_work("text", answer["text"].encode())
    assert answer["tools"], "the record names what read it"


def test_metadata_comes_along(given: dict[str, Any]) -> None:
    """A listing needs title, language and authors, and the creator should not type them again."""
    book = given["EPUB"]
    assert (book["title"], book["language"], book["creators"]) == ("A book", "en", ["Alma Ey"])
    assert given["Markdown"]["title"] == "Hi"
    assert "decoded from utf-16-le" in given["text with marks of UTF-16"]["notes"]


@pytest.mark.parametrize(
    "written",
    [
        lambda: "\n".join(map(json.dumps, CHATS)),
        lambda: json.dumps(CHATS, indent=1),
    ],
    ids=["lines", "list"],
)
def test_chats_of_every_shape_become_dialogue(written: Callable[[], str]) -> None:
    """Ours, ShareGPT's and Alpaca's records are one work, and training can read it."""
    (answer,) = parse([SourceFile("a.json", written().encode())])
    assert not isinstance(answer, Refused), answer
    work = parse_work("dialogue", answer["text"].encode())
    said = [[(m.role, m.content) for m in chunk.messages] for chunk in work.chunks]
    assert said == [
        [("user", "Who?"), ("assistant", "Alma.")],
        [("system", "Be brief."), ("user", "Where?"), ("assistant", "At the point.")],
        [("user", "Name the lamp.\n\nIt is old."), ("assistant", "Varn.")],
    ]


def test_openai_s_text_parts_are_text() -> None:
    """As the node itself reads them; a picture among them is not left out in silence."""
    parts = [{"type": "text", "text": "Who "}, {"type": "text", "text": "came?"}]
    answer = {"role": "assistant", "content": [{"type": "output_text", "text": "Alma."}]}
    good = {"messages": [{"role": "user", "content": parts}, answer]}
    picture = {"type": "image_url", "image_url": {"url": "a"}}
    bad = {"messages": [{"role": "user", "content": [*parts, picture]}, answer]}
    (made,) = parse([SourceFile("a.jsonl", f"{json.dumps(good)}\n{json.dumps(bad)}".encode())])
    (chunk,) = parse_work("dialogue", made["text"].encode()).chunks
    assert [each.content for each in chunk.messages] == ["Who came?", "Alma."]
    assert "record 2 is left out: it has a message that is not text" in "\n".join(made["notes"])


def test_what_a_dialogue_cannot_hold_is_left_out_and_told() -> None:
    """Nothing is made up for a missing answer, and nothing vanishes in silence."""
    records: list[Any] = [
        *CHATS,
        {"conversations": [{"from": "tool", "value": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        [1],
        {"conversations": [{"from": "gpt", "value": "I begin."}, *SHARED]},
    ]
    (answer,) = parse(
        [SourceFile("a.jsonl", "\n".join(map(json.dumps, records)).encode() + b"\n{x")]
    )
    assert len(answer["text"].splitlines()) == 4
    notes = "\n".join(answer["notes"])
    assert "4 records left out" in notes
    assert "record 4 is left out: it has a message of the role 'tool'" in notes
    assert "1 first messages left out, which answer nothing" in notes


def test_a_long_chat_is_cut_into_pieces_that_a_work_may_hold() -> None:
    turns = [{"from": f, "value": f"{f} {n}"} for n in range(50) for f in ("human", "gpt")]
    (answer,) = parse(
        [SourceFile("a.jsonl", json.dumps({"system": "S", "conversations": turns}).encode())]
    )
    work = parse_work("dialogue", answer["text"].encode())
    assert [len(chunk.messages) for chunk in work.chunks] == [63, 39]
    assert work.chunks[1].messages[0].role == "system"
