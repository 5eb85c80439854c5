"""Heads of texts in all their forms: a reservation is found, and no word of prose is lost."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from viz.creator.intake.front_matter import split
from viz.creator.intake.sandbox import Refused, SourceFile, parse

BODY = "The keeper was Ada.\n"
YAML = "title: Ada\ntdm-reservation: 1"
TOML = 'title = "Ada"\ntdm-reservation = 1'
JSON = '{"title": "Ada", "tdm-reservation": 1}'
JSON_LINES = '{\n  "title": "Ada",\n  "tdm-reservation": 1\n}'

# Forms of heads: what opens it, what it is in, what closes it.
FENCED = [
    *itertools.product(
        ["---", "--- ", "---yaml", "--- yaml", "---YAML", "--- # head", " ---", "   ---"],
        [YAML],
        ["---", "...", "--- # end", "---  ", "  ---", "---\t# end", "... # end", " ..."],
    ),
    *itertools.product(["+++", "+++ toml", "  +++"], [TOML], ["+++", "+++ # end", " +++"]),
    *itertools.product(["---toml", "--- toml", "---TOML # head"], [TOML], ["---", "--- # end"]),
    *itertools.product(["---json", "--- json", ";;;", " ;;;"], [JSON, JSON_LINES], ["---", ";;;"]),
    ("", JSON, ""),
    ("", JSON_LINES, ""),
    ("", '{ "tdm-reservation":\n1 }', ""),
    ("", '{"tdm-reservation":1}', ""),
    ("", " " + JSON, ""),
    ("", "{'robots': 'x', 'tdm-reservation': '1'}", ""),
    ("", "{title: Ada, tdm-reservation: 1}", ""),
    ("", '{"title": "A } and { B", "a": {"tdm-reservation": 1}}', ""),
]
BEFORE = [
    "",
    "\n\n",
    "\ufeff",
    "\ufeff\n",
    "<!-- made by a program -->\n",
    "\n<!-- of\n\ntwo\nlines -->\n\n<!-- and more -->\n",
    "\u200b",
]


def fits(opening: str, closing: str) -> bool:
    """Return whether a closing line is of the kind of the opening one."""
    return not closing or (";" in opening) == (";" in closing)


@pytest.mark.parametrize("before", BEFORE)
def test_a_head_of_any_form_reserves_and_is_no_text(before: str) -> None:
    """Protects a reservation that was missed, with its head imported as text of the work."""
    tried = 0
    for opening, head, closing in FENCED:
        if not fits(opening, closing):
            continue
        tried += 1
        lines = [each for each in (opening, head, closing) if each]
        for body in (f"\n{BODY}", f"\n\n{BODY}\n---\n\nAnd: more.\n", ""):
            text = before + "\n".join(lines) + body
            rest, told = split(text)
            assert [(s.scheme, s.says) for s in told.opt_outs] == [("TDMRep", "reserved")], text
            assert told.left_out.startswith("left out: front matter with"), text
            assert "tdm" not in rest and "title" not in rest, text
            assert rest.endswith(body), text
    assert tried > 90


UNCLOSED = [
    f"---\n{YAML}\n\n{BODY}",
    f"---\n{YAML}\n",
    f"---\n{YAML}",
    f"---\n\n{YAML}\n\n{BODY}",
    f"---\ntitle: Ada\ntdm:\n  reservation: 1\n\n{BODY}",
    f"---\ntitle: Ada\n\ntdm-reservation: 1\n\n{BODY}",
    f"---yaml\n{YAML}\n\n{BODY}",
    f"+++\n{TOML}\n\n{BODY}",
    f"---toml\n{TOML}\n",
    f'{{"title": "Ada",\n "tdm-reservation": 1\n\n{BODY}',
    f";;;\n{JSON}\n\n{BODY}",
    f"---\ntitle: [Ada\ntdm-reservation: 1\n\n{BODY}",
]


@pytest.mark.parametrize("text", UNCLOSED)
def test_a_head_that_is_never_closed_reserves_stays_text_and_is_told(text: str) -> None:
    """Protects both: nobody knows where such a head ends, so no word is taken from the work."""
    rest, told = split(text)
    assert rest == text
    assert told.opt_outs and {each.says for each in told.opt_outs} == {"reserved"}
    assert "no line closes" in told.kept


PLAIN = [
    f"Title: Ada\nTDM-Reservation: 1\nDate: 2024-01-01\n\n{BODY}",
    f"tdm_reservation: 1\n{BODY}",
    f"# The boat\n\ntdm-reservation: 1\n\n{BODY}",
    f"Content-Usage: train-ai=n\n\n{BODY}",
    f"noai: true\n\n{BODY}",
    f"Robots: noindex, noai\n\n{BODY}",
    f"**TDM-Reservation:** 1\n\n{BODY}",
    f"<!-- tdm-reservation: 1 -->\n{BODY}",
    f"<!--\ntitle: Ada\nrobots: noai\n-->\n# The boat\n\n{BODY}",
    f"--- My head\ntdm-reservation: 1\n---\n{BODY}",
    f"---\ntitle: Ada\n---\n\ntdm-reservation: 1\n\n{BODY}",
    f'{{"tdm-reservation": 1}} is its head.\n{BODY}',
]


@pytest.mark.parametrize("text", PLAIN)
def test_a_line_at_the_beginning_that_only_a_rule_can_be_reserves(text: str) -> None:
    """Protects MultiMarkdown's heads, and those whose fences nobody knows; they stay text."""
    rest, told = split(text)
    assert [each.says for each in told.opt_outs] == ["reserved"]
    assert rest == text or told.left_out


SCRIPT = "ANNA: Good morning, keeper.\n\nBEN: Is it? The robots: they came.\n\nANNA: No.\n"
HONEST = [
    f"---\n\nThe night was long.\n\n---\n\n{BODY}",
    f"---\n\n{SCRIPT}\n---\n\n{BODY}",
    "---\nAnna: Good morning.\nBen: Is it?\nAnna: No.\n---\n" + BODY,
    "---\nANNA: Good: morning.\nBEN: Is it?\n---\n" + BODY,
    "---\nNote: the boat came late.\n---\n" + BODY,
    "---\nanna: good morning\nben: is it\nanna: no\n---\n" + BODY,
    "---\nDr. Smith: Good morning.\nAn Old Man: Is it?\n--- # x\n" + BODY,
    "---\n安娜: 早上好。\n本: 是吗?\n---\n" + BODY,
    "---\nAnna: Good morning.\n",
    "---\nAnna: Good morning.\n\nBen: Is it?\n",
    SCRIPT,
    "Anna: Hello\n\n" + BODY,
    "Note: this is a story about noai and train-ai=n.\n",
    "No AI: a manifesto for keepers of lights\n\n" + BODY,
    "Robot: There is no AI here, only noai tags.\n\nAbbot: Indeed.\n",
    "AI: No.\n\nANNA: Yes.\n",
    "| a | b |\n| --- | --- |\n| tdm | 1 |\n",
    "---\na | b\n--- | ---\n1 | 2\n",
    "---\nName: a | b\n--- | ---\n1 | 2\n---\n",
    "{The boat} came late.\n\n" + BODY,
    "{\n" + BODY,
    "{Note: the boat} came late.\n",
    "{Note: the boat came}\n\n" + BODY,
    '{"boat": 1} is JSON.\n\n' + BODY,
    "{: .class}\n" + BODY,
    "{% include a.md %}\n{{ page.title }}\n" + BODY,
    "--- the boat came ---\n" + BODY,
    "-- Anna\n" + BODY,
    "    ---\n    tdm: a sample of code\n    ---\n" + BODY,
    "```yaml\n---\ntitle: Ada\n---\n```\n" + BODY,
    BODY + "\n---\ntdm-reservation: 1\n---\n",
    "<!-- tdm: a note on the law -->\n" + BODY,
    "<!-- never closed\n---\n" + BODY,
    "...\n" + BODY,
    "---\n",
    "+++\nThe boat came.\n",
    "\ufeff" + BODY,
]


@pytest.mark.parametrize("text", HONEST)
def test_prose_speech_and_tables_are_kept_and_reserve_nothing(text: str) -> None:
    """Protects the author: no word is lost, and nobody is refused for what people say."""
    rest, told = split(text)
    assert rest == text
    assert told.opt_outs == [] and told.left_out == ""


def test_scripts_of_any_speakers_are_kept_with_any_breaks() -> None:
    """Protects dialogue whoever speaks it, between breaks and without."""
    names = ["ANNA", "Anna", "Robot", "THE ABBOT", "Frau Müller", "É.", "O'Brien", "Narrator"]
    words = ["Hello.", "No: never.", "It is 5 o'clock: go!", "a {b} [c", "- - -", "“Why?”"]
    shapes = ["{}", "---\n{}\n---\n", "---\n\n{}\n\n---\n\n", "---\n{}", "***\n{}", "{}\n---\n"]
    for one, two in itertools.permutations(names, 2):
        for said, answered in itertools.permutations(words, 2):
            for gap, shape in itertools.product(("\n", "\n\n"), shapes):
                text = shape.format(f"{one}: {said}{gap}{two}: {answered}\n") + BODY
                rest, told = split(text)
                assert (rest, list(told.opt_outs)) == (text, []), text


def test_a_value_that_has_the_closing_line_in_it_hides_no_rule() -> None:
    """Protects a rule below a block of text that has a break of its own."""
    head = "abstract: |\n  The boat\n  ---\n  came.\nrobots: noai"
    rest, told = split(f"---\n{head}\n---\n{BODY}")
    assert rest == f"\n{BODY}"
    assert [each.scheme for each in told.opt_outs] == ["robots tag"]
    rest, told = split(f"---\ntitle: Ada\n  ---\n{BODY}Anna: Hello\n---\n")
    assert rest == f"\n{BODY}Anna: Hello\n---\n" and told.first("title") == "Ada"


def test_words_behind_a_closing_line_stay_text() -> None:
    rest, told = split(f"---\n{YAML}\n--- The night.\n{BODY}")
    assert rest == f"The night.\n{BODY}" and told.opt_outs


def test_a_hostile_beginning_is_read_in_time() -> None:
    """Protects the import: no form is searched for in a time that grows with its square."""
    many = 1 << 18
    for text in (
        "---\na: |\n" + "   ---\n" * many,
        "---\n" + "--- # x\n" * many,
        "<!--" * many,
        "<!---->" * many,
        "{" * many,
        '{"a":' * many,
        '{"a": "' + "\\" * many,
        "\n" * (1 << 22),
        "a: b\n" * many,
        "---\n" + "A: b\n" * many,
        "noai" + " " * many + ":",
        "a: x=" + "1,b=" * many,
    ):
        split(text)


@pytest.mark.parametrize("name", ["a.txt", "a.text", "a.mdown", "a.mkd", "a.html", "a.md", "a"])
def test_every_kind_of_text_file_is_searched_for_a_head(name: str) -> None:
    """Protects a reservation above a plain text or a page, as generators of sites write it."""
    body = "<html><body><p>The keeper was Ada.</p></body></html>\n" if ".html" in name else BODY
    answers: list[Any] = list(
        parse([SourceFile(name, f"---\n{YAML}\n---\n{body}".encode()) for _ in (1,)])
    )
    assert not isinstance(answers[0], Refused)
    assert [each["says"] for each in answers[0]["opt_outs"]] == ["reserved"]
    plain = answers[0]["source_kind"] == "text"
    assert ("title: Ada" in answers[0]["text"]) == plain
    assert "Ada." in answers[0]["text"]
    assert any("front matter" in note for note in answers[0]["notes"])


def test_what_became_of_a_head_is_told() -> None:
    files = [f"---\ntitle: Ada\n\n{BODY}", "---\ntitle: Ada\n---\n", "---\ntitle: Ada\n"]
    open_, empty, alone = parse([SourceFile("a.md", each.encode()) for each in files])
    assert any("no line closes" in note for note in open_["notes"]) and "title" in open_["text"]
    assert isinstance(empty, Refused) and "no text below" in empty.why
    assert "title: Ada" in alone["text"]


RESERVING = {
    "tdm-reservation": ("1", "true", "yes", "reserved", ""),
    "noai": ("true", "1", "yes", ""),
    "no-train": ("true",),
    "do-not-train": ("true",),
    "ai-training": ("no", "false", "0", "never", "ask me", ""),
    "allow-ai-training": ("false",),
    "tdm": (
        "opt-out",
        "prohibited",
        "disallow",
        "no",
        "false",
        "[reservation]",
        "reserved",
        "",
        "{policy: 'https://a.test/'}",
        "[]",
        "{a: {b: 0}}",
        "null",
        "yes",
        "{allowed: 1}",
    ),
    "content-usage": ("train-ai=n", "train-ai=0", "'train-ai: n'", "train-ai=maybe", "none", ""),
    "content-signal": ("search=yes, ai-train=no", "ai-train=off"),
    "aipref": ("'train-ai=n'", "ai=n", "never"),
    "cc-signals": ("train-ai=n",),
}


def test_a_name_reserves_however_it_is_written_and_whatever_its_odd_value() -> None:
    """Protects who writes a name in a program's or an own way, or a value that nobody knows."""
    for name, values in RESERVING.items():
        words = name.split("-")
        camel = words[0] + "".join(each.capitalize() for each in words[1:])
        shapes = {name, name.upper(), name.replace("-", "_"), name.replace("-", "."), camel}
        for written, value in itertools.product(sorted({*shapes, name.replace("-", " ")}), values):
            for head in (f"{written}: {value}", f"extra:\n  deep:\n    {written}: {value}"):
                told = split(f"---\ntitle: Ada\n{head}\n---\n{BODY}")[1]
                assert "reserved" in {each.says for each in told.opt_outs}, head
    for head in ("CC: {train-ai: n}", "cc: train-ai=n", "ai: {training: false}", "tdm: 1"):
        told = split(f"---\n{head}\n---\n{BODY}")[1]
        assert [each.says for each in told.opt_outs] == ["reserved"], head
    told = split(f"---\nai-training: ask me\n---\n{BODY}")[1]
    assert "not known" in told.opt_outs[0].value


def test_a_name_that_permits_or_is_about_something_else_reserves_nothing() -> None:
    """Protects honest heads: a letter's copy, a work's training plan, what search may do."""
    for head in (
        "content-usage: search=y", "content-signal: ai-train=yes", "ai-training: allowed",
        "noai: no", "tdm-reservation: 0", "tags: [no, ai]", "cc: by-sa",
        "cc: ada@alma.example", "training: hard",
        "tags: [training, ai, noai-free]", "ai: Ada",
        "tdm: {reservation: 0, policy: 'https://a.test/'}",
        "tdm: 0", "tdm: allowed", "tdm: [0]", "ai-generated: no",
        "usage: none", "signal: strong", "aipref: 'train-ai=y'",
    ):  # fmt: skip
        told = split(f"---\ntitle: Ada\n{head}\n---\n{BODY}")[1]
        assert "reserved" not in {each.says for each in told.opt_outs}, head
    for text in ("No AI: Basics\n\n", "AI training: History\n\n", "No training: today\n\n"):
        assert split(text + BODY) == (text + BODY, split(BODY)[1])
