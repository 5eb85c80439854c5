"""Front matter of Markdown: what it says about training, what it is not, and what is hostile."""

from __future__ import annotations

from typing import Any

import pytest

from viz.creator.intake.sandbox import Refused, SourceFile, parse

BODY = "The keeper was Ada.\n"


def yaml(head: str, mark: str = "---") -> str:
    return f"---\n{head}\n{mark}\n{BODY}"


def toml(head: str) -> str:
    return f"+++\n{head}\n+++\n{BODY}"


NO_AI = [("robots tag", "reserved")]
TDM = [("TDMRep", "reserved")]
USAGE = [("AI Preferences", "reserved")]
UNREAD = [("front matter", "reserved")]

SAID: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "a list in a line": (yaml("robots: [index, noai]"), NO_AI),
    "a list": (yaml("title: Ada\nrobots:\n  - noindex\n  - noai"), NO_AI),
    "a list at the margin": (yaml("robots:\n- NoAI\n- index"), NO_AI),
    "a text over lines": (yaml("robots: |\n  noai\n  noindex"), NO_AI),
    "a folded text": (yaml("robots: >-\n  index,\n  noai"), NO_AI),
    "names of a mapping": (yaml("robots: {noai, noindex}"), NO_AI),
    "true members": (yaml("robots:\n  index: false\n  noai: yes"), NO_AI),
    "a member alone": (yaml("noai: true"), NO_AI),
    "a member in capitals": (yaml("seo:\n  noAI: True"), NO_AI),
    "a member about pictures": (yaml("noimageai: true\nrobots: noimageai"), []),
    "a member that is not set": (yaml("noai: false\nseo: {noai: 'no', noimageai:}"), []),
    "a member that is nothing": (yaml("noai: null\nseo: {noai: ~}"), []),
    "a member of robots that is not set": (yaml("robots: {noai: false}"), []),
    "pairs as in meta elements": (yaml("meta:\n  - name: googlebot\n    content: noai"), NO_AI),
    "pairs in a line": (yaml("head: {meta: [{name: robots, content: [x, noai]}]}"), NO_AI),
    "pairs with the element's name": (
        yaml("head:\n  - [meta, {content: 1, property: 'tdm:reservation'}]"),
        TDM,
    ),
    "another pair": (yaml("meta:\n  - name: description\n    content: noai, a story"), []),
    "one crawler below robots": (yaml("robots:\n  googlebot: [index, noai]"), NO_AI),
    "TDMRep as a mapping": (yaml("tdm:\n  reservation: 1\n  policy: https://a.test/"), TDM),
    "TDMRep that permits": (yaml("tdm: {reservation: 0}"), [("TDMRep", "allowed")]),
    "TDMRep deeper": (yaml("params: {x: [{TDM-Reservation: '1'}]}"), TDM),
    "TDMRep by a name of one word": (yaml("tdmReservation: true"), TDM),
    "preferences": (yaml("content_usage: train-ai=n"), USAGE),
    "preferences as a list": (yaml("content-usage:\n  - search=y\n  - train-ai=n"), USAGE),
    "preferences as a mapping": (yaml("content-usage:\n  search: y\n  train-ai: no"), USAGE),
    "a second value of a name": (yaml("robots: noai\nrobots: index"), NO_AI),
    "an alias": (yaml("x: &all [noai]\nrobots: *all"), NO_AI),
    "a merged mapping": (yaml("x: &all {a: noai}\nrobots:\n  <<: *all"), NO_AI),
    "a tag": (yaml("robots: !!python/object/apply:os.system [noai]"), NO_AI),
    "closed by dots": (yaml("robots: noai", "..."), NO_AI),
    "blanks after the lines": (f"--- \nrobots: noai\n---  \n{BODY}", NO_AI),
    "after empty lines": (f"\n \n---\nrobots: noai\n---\n{BODY}", NO_AI),
    "line ends of an old Mac": (yaml("robots:\n - noai").replace("\n", "\r"), NO_AI),
    "TOML": (toml('title = "Ada"\nrobots = "noindex, noai"'), NO_AI),
    "a list in TOML": (toml('[params]\nrobots = [\n  "noindex",\n  "noai",\n]'), NO_AI),
    "pairs in TOML": (toml('[[meta]]\nname = "robots"\ncontent = "noai"'), NO_AI),
    "members in TOML": (toml("noai = true\n[tdm]\nreservation = 1"), NO_AI + TDM),
    "members in TOML, not set": (
        toml("noai = false\ntdm.reservation = 0"),
        [("TDMRep", "allowed")],
    ),
    "preferences in TOML": (toml("[content-usage]\ntrain-ai = false"), USAGE),
    "JSON": ('{\n\t"title": "Ada",\n\t"robots": ["noai"]\n}\n' + BODY, NO_AI),
    "nothing about training": (yaml("title: noai, a story\ntags: [robots]\ndate: 2024-01-01"), []),
    "a comment": (yaml("title: Ada\n# robots: noai"), []),
    "a broken list": (yaml("robots: [noai"), UNREAD),
    "a name below a tab": (yaml("seo:\n\trobots: noai"), UNREAD),
    "a value without a blank": (yaml("title: Ada\nrobots:noai"), UNREAD),
    "a broken pair": (yaml("head: [{name: robots, content: noai}"), UNREAD),
    "broken beside prose": (yaml("title: Ada\n\nrobots: a: noai\n\nAnd more."), UNREAD),
    "broken, without a rule": (yaml("title: Ada: her story\ntags: [x]"), UNREAD),
    "broken TOML": (toml("title = Ada\n\n[params]\n"), UNREAD),
    "broken JSON": ('{\n"robots": "noai"; }\n}\n' + BODY, UNREAD),
    "too long": (yaml("title: Ada\n" + "# more\n" * 10_000 + "x: y"), UNREAD),
    "an escape that is no character": (yaml('title: "\\UFFFFFFFF"'), UNREAD),
    "half of a surrogate pair": (yaml('robots: "noai \\uD800"'), NO_AI),
    "a control character": (yaml("title: a\x01b"), UNREAD),
    "aliases that grow": (
        yaml(
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "\n".join(
                f"{to}: &{to} [{', '.join([f'*{of}'] * 9)}]"
                for of, to in zip("abcdefgh", "bcdefghi", strict=True)
            )
        ),
        UNREAD,
    ),
    "an alias of itself": (yaml("a: &a [*a, {b: *a}]"), UNREAD),
    "an alias of nothing": (yaml("a: *b"), UNREAD),
    "deep lists": (yaml("a: " + "[" * 60_000), UNREAD),
    "deep lists over lines": (yaml("a:\n" + " [\n" * 20_000), UNREAD),
    "deep mappings": (yaml("\n".join(" " * n + f"a{n}:" for n in range(300))), UNREAD),
    "a mebibyte of lists": (yaml("a: " + "[" * (1 << 20)), UNREAD),
    "a mebibyte of mappings": (yaml("a: " + "{robots: " * (1 << 17)), UNREAD),
    "deep TOML": (toml("a = " + "[" * 60_000), UNREAD),
    "long names in TOML": (toml(".".join("a" * 5_000) + " = 1"), UNREAD),
}

# Heads in other forms, and other names: what each says.
SAID |= {
    "YAML that names itself": (f"---yaml\nrobots: noai\n---\n{BODY}", NO_AI),
    "JSON that names itself": (f'---json\n{{"tdm-reservation": 1}}\n---\n{BODY}', TDM),
    "JSON between its own lines": (f';;;\n{{"robots": "noai"}}\n;;;\n{BODY}', NO_AI),
    "TOML that names itself": (f"--- toml\nnoai = true\n---\n{BODY}", NO_AI),
    "JSON from the first line on": (f'{{"title": "Ada",\n"noai": true}}\n{BODY}', NO_AI),
    "JSON in one line": (f'{{"tdm-reservation": 1}}\n\n{BODY}', TDM),
    "JSON with a brace in a text": (f'{{"a": "}}\n", "noai": true}}\n{BODY}', NO_AI),
    "JSON with an escaped quotation mark": (f'{{"a": "\\"}}", "noai": 1}}\n{BODY}', NO_AI),
    "JSON with a slash escaped": (f'{{"a": "x\\/y", "noai": true}}\n{BODY}', NO_AI),
    "JSON with a name twice": (
        f'{{"tdm-reservation": 1, "tdm-reservation": 0}}\n{BODY}',
        [("TDMRep", "allowed"), ("TDMRep", "reserved")],
    ),
    "JSON that nothing closes": (f'{{"noai": true,\n"a": 1\n\n{BODY}', UNREAD),
    "a remark behind the last line": (f"---\nrobots: noai\n--- # end\n{BODY}", NO_AI),
    "a remark behind the first line": (f"--- # page\nrobots: noai\n---\n{BODY}", NO_AI),
    "indented": (f"   ---\n   robots: noai\n   seo:\n     a: b\n   ---\n{BODY}", NO_AI),
    "below a comment": (f"<!-- made by hand\n-->\n\n---\nrobots: noai\n---\n{BODY}", NO_AI),
    "below a comment in its line": (f"<!-- x --> <!-- y -->\n+++\nnoai = 1\n+++\n{BODY}", NO_AI),
    "never closed": (f"---\ntitle: Ada\ntdm-reservation: 1\n\n{BODY}", TDM),
    "never closed, after an empty line": (f"---\n\nnoai: true\n\n{BODY}", NO_AI),
    "never closed, and no text below": (f"---\n{BODY}robots: noai", UNREAD),
    "never closed, in TOML": (f"+++\nnoai = true\n\n{BODY}", NO_AI),
    "never closed, with a break below": (f"---\nnoai: true\n\n{BODY}\n---\nMore.\n", UNREAD),
    "lines": (f"Title: Ada\nTDM Reservation: 1\n\n{BODY}", TDM),
    "lines with an equal sign": (f"title = Ada\ncontent-usage = train-ai=n\n\n{BODY}", USAGE),
    "lines with the name's prefix": (f"tdm:reservation: 1\n\n{BODY}", TDM),
    "a signal": (yaml("content-signal: search=yes, ai-train=no"), USAGE),
    "preferences by their group's name": (yaml("aipref: train-ai=n"), USAGE),
    "a preference below another name": (yaml("CC: {train-ai: n}"), USAGE),
    "a preference alone": (yaml("ai_training: no"), USAGE),
    "a preference below its subject": (yaml("ai: {training: false}"), USAGE),
    "a preference that permits": (yaml("aiTraining: yes"), [("AI Preferences", "allowed")]),
    "a preference that nobody knows": (yaml("ai-training: ask me"), USAGE),
    "a name alone": (yaml("noai:"), NO_AI),
    "a name with blanks": (yaml("tdm reservation: 1"), TDM),
}

# What has a break at its beginning and is text: each with words that have to stay.
PROSE: dict[str, tuple[str, list[str]]] = {
    "a paragraph": ("---\nsome prose\n---", ["some prose"]),
    "a paragraph and more": (
        f"---\nsome prose\n\nmore of it\n---\n{BODY}",
        ["some", "more", "Ada"],
    ),
    "a paragraph with a colon": (
        f"---\nNote: the boat came late.\n\nShe saw it at last.\n---\n{BODY}",
        ["boat", "at last", "Ada"],
    ),
    "a name's look in a paragraph": (
        f"---\nHe said this: the robots: they came.\nAnd went.\n---\n{BODY}",
        ["robots", "Ada"],
    ),
    "a heading": (f"---\n# The boat\n---\n{BODY}", ["The boat", "Ada"]),
    "a list": (f"---\n- the boat\n- the robots: noon\n---\n{BODY}", ["boat", "noon", "Ada"]),
    "a link": (f"---\n[The boat](a.md) says: this: that\n---\n{BODY}", ["boat", "Ada"]),
    "a link between pages": (f"---\n[[The boat]] came.\n---\n{BODY}", ["boat", "Ada"]),
    "speech": (
        f"---\nAda: I say: no.\n\nChat: I say: yes.\n---\n{BODY}",
        ["I say: no", "I say: yes", "Ada"],
    ),
    "speakers who are programs": (
        f"---\nThe night was long.\n\nRobot: Who is there?\n\nAbbot: I: am.\n---\n{BODY}",
        ["Who is there", "Ada"],
    ),
    "a word in brackets": (
        f"---\nHe said [robot = slave] to: them: all.\nAnd went.\n---\n{BODY}",
        ["slave", "Ada"],
    ),
    "a long part": ("---\n" + "The boat came: late.\n\n" * 5_000 + f"---\n{BODY}", ["boat", "Ada"]),
    "breaks alone": (f"---\n---\n{BODY}", ["Ada"]),
    "one break": (f"---\n\n{BODY}", ["Ada"]),
    "dots": (f"---\nThe boat came\n...\n{BODY}", ["boat", "Ada"]),
    "signs of plus": (f"+++\nThe boat came = late.\n+++\n{BODY}", ["boat", "Ada"]),
    "breaks further below": (f"{BODY}\n---\nrobots: noai\n---\n", ["Ada", "noai"]),
    "braces": (f"{{\nThe boat\n}}\n{BODY}", ["boat", "Ada"]),
    "a quotation in braces": (
        f'{{"The boat!"}} she said, and {{left}}.\n\n{BODY}',
        ["boat", "Ada"],
    ),
    "an object in a sentence": (f'{{"a": 1}} is an object.\n\n{BODY}', ["is an object", "Ada"]),
    "a name and speech": (f"Note: the robots came.\nHe: no AI.\n\n{BODY}", ["robots", "no AI"]),
    "a play": (f"ADA: The robots?\n\nROBOT: No: AI.\n\n{BODY}", ["ADA", "ROBOT", "No: AI"]),
    "a play below a break": (f"---\nADA: The robots?\n\nROBOT: No.\n\n{BODY}", ["ADA", "ROBOT"]),
    "a head that nothing closes": (f"---\ntitle: The boat\n\n{BODY}", ["The boat", "Ada"]),
    "a head of lines": (f"Title: The boat\nAuthor: Ada\n\n{BODY}", ["The boat", "Ada"]),
    "an indented piece": (f"    ---\n    tdm-reservation: 1\n    ---\n\n{BODY}", ["tdm", "Ada"]),
    "a rule of dashes": (f"----\nrobots: noon\n----\n{BODY}", ["noon", "Ada"]),
    "a comment that nothing closes": (f"{BODY}\n<!-- ---\nrobots: noai\n---\n", ["Ada"]),
}


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    files = [SourceFile("a.md", text.encode()) for text, _ in SAID.values()]
    return dict(zip(SAID, parse(files), strict=True))


@pytest.fixture(scope="module")
def prose() -> dict[str, Any]:
    files = [SourceFile("a.md", text.encode()) for text, _ in PROSE.values()]
    return dict(zip(PROSE, parse(files), strict=True))


@pytest.mark.parametrize("what", SAID)
def test_what_front_matter_says_about_training_is_found_once(
    what: str, said: dict[str, Any]
) -> None:
    """Protects the rights that a file reserves, in whatever form its site generator reads it."""
    assert not isinstance(said[what], Refused), said[what]
    found = [(each["scheme"], each["says"]) for each in said[what]["opt_outs"]]
    assert sorted(found) == sorted(SAID[what][1])
    assert "Ada." in said[what]["text"]


@pytest.mark.parametrize("what", PROSE)
def test_text_between_breaks_is_text_and_reserves_nothing(what: str, prose: dict[str, Any]) -> None:
    """Protects the author's text: what stands between two breaks was left out unseen."""
    assert not isinstance(prose[what], Refused), prose[what]
    assert prose[what]["opt_outs"] == []
    for words in PROSE[what][1]:
        assert words in prose[what]["text"]


def test_front_matter_is_no_text_and_names_title_language_and_reader() -> None:
    heads = [
        yaml("title: 'Ada & Eve'\nlang: de\nlist:\n  title: no"),
        toml('Title = "Ada & Eve"\nlanguage = "de"\n[list]\ntitle = "no"'),
        '{\n  "title": "Ada & Eve",\n  "lang": "de"\n}\n' + BODY,
    ]
    for answer in parse([SourceFile("a.md", head.encode()) for head in heads]):
        assert answer["text"] == BODY
        assert (answer["title"], answer["language"]) == ("Ada & Eve", "de")
        assert answer["notes"][0] in (f"left out: front matter with {n} names" for n in (2, 3))
    answers = list(parse([SourceFile("a.md", each.encode()) for each in (heads[0], BODY)]))
    assert [any(t.startswith("PyYAML") for t in each["tools"]) for each in answers] == [True, False]


def test_front_matter_that_cannot_be_read_names_its_line() -> None:
    (answer,) = parse([SourceFile("a.md", yaml("title: Ada\ntags: [x: y: z]").encode())])
    assert answer["opt_outs"][0]["value"] == (
        "it cannot be read: it is not valid, line 3: a value with a colon needs quotes"
    )
    assert answer["notes"] == ["left out: front matter that cannot be read"]


def test_a_head_that_stays_in_the_text_is_said_and_read_in_plain_text_too() -> None:
    """Protects the author's text: without a line that ends it, nobody knows where a head ends."""
    open_head = f"---\ntdm-reservation: 1\n\n{BODY}"
    files = [
        SourceFile("a.md", open_head.encode()),
        SourceFile("a.mdown", yaml("noai: true").encode()),
        SourceFile("a.txt", yaml("noai: true").replace("\n", "\r\n").encode()),
        SourceFile("b.txt", f"Robots: we came.\nNote: in peace.\n\n{BODY}".encode()),
    ]
    read = list(parse(files))
    said = [[(each["scheme"], each["says"]) for each in answer["opt_outs"]] for answer in read]
    assert said == [TDM, NO_AI, NO_AI, []]
    assert read[0]["notes"] == ["front matter that no line closes is part of the text"]
    assert "tdm-reservation" in read[0]["text"] and read[1]["text"] == BODY
    assert "noai: true" in read[2]["text"], "plain text is kept as it is"
