"""Heads and honest texts of many hands: each head reserves, and each honest text stays whole."""

from __future__ import annotations

from typing import Any

import pytest

from viz.creator.intake.front_matter import split
from viz.creator.intake.heads import is_speech
from viz.creator.intake.sandbox import Refused, SourceFile, parse

# These two sets were written before the reader was looked at, and are not fitted to it.
RESERVING = {
    "class_and_agent_list": "---\nClass: Essay\nPerplexityBot: [noai, noindex]\n---\nBody.\n",
    "capital_usage": "---\nLayout: Page\nContent-Usage: train-ai=n\n---\nBody.\n",
    "nested_permissions": "---\nKind: Note\nPermissions:\n  AI:\n    Train: no\n---\nBody.\n",
    "robots_header": "---\nHeadline: The Quay\nX-Robots-Tag: 'CCBot: noai'\n---\nBody.\n",
    "folded_robots": "---\nSection: Blog\nRobots: >-\n  noai,\n  noimageai\n---\nBody.\n",
    "head_of_metas": (
        "---\nTemplate: Post\nMeta:\n  - name: robots\n    content: noai\n---\nBody.\n"
    ),
    "tdm_word": "---\ntitle: The Mill\ntdm: reserved\n---\nBody.\n",
    "tdm_empty": "---\ntitle: The Mill\ntdm:\n---\nBody.\n",
    "tdm_unknown_word": "---\ntitle: The Mill\ntdm-reservation: perhaps\n---\nBody.\n",
    "tdm_list": "---\ntitle: The Mill\ntdm-reservation: [1]\n---\nBody.\n",
    "comment_below": "---\ntitle: The Mill\n---\n\n<!-- robots: noai -->\n\nBody.\n",
    "comment_below_heading": "# The Mill\n\n<!-- tdm-reservation: 1 -->\n\nBody.\n",
    "comment_of_lines": "<!--\nContent-Usage: train-ai=n\n-->\n# The Mill\n\nBody.\n",
    "meta_in_block": (
        '---\ntitle: The Mill\nextra_head: |\n  <meta name="robots" content="noai">\n---\nBody.\n'
    ),
    "look_alike": "---\ntitle: The Mill\n\uff52obots: noai\n---\nBody.\n",
    "zero_width": "---\ntitle: The Mill\ntdm\u200b-reservation: 1\n---\nBody.\n",
    "tags": "---\ntitle: The Mill\ntags: [rivers, noai]\n---\nBody.\n",
}

HONEST = {
    "play": (
        "---\nAnna: Did you see the robots file?\nBen: I did. It says noai, in capitals.\n"
        "Anna: Then we must not train on it.\n---\n\nThey leave.\n"
    ),
    "bots_as_persons": (
        "---\nGPTBot: I would like to read your site, if I may.\n"
        "Gardener: You may not. I have written it on the gate.\n---\n\nThe gate closes.\n"
    ),
    "recipe": "---\nFlour: 200 g\nButter: 100 g\nSugar: 50 g\n---\n\nMix all and bake.\n",
    "letter": (
        "Dear Ines,\n\n---\n\nTo: the harbour office\nDate: 3 May 1921\n\n---\n\n"
        "The boat is lost.\n"
    ),
    "about_tdm": (
        "# On mining\n\nThe line `tdm-reservation: 1` reserves a page against text and data "
        "mining; we do not use it.\n"
    ),
    "comment_editor": "---\ntitle: The Mill\n---\n<!-- edited in May, twice -->\n\nBody.\n",
    "comment_talks": (
        "# The Mill\n\n<!-- a reader asked whether robots may read this; they may. -->\n\nBody.\n"
    ),
    "tdm_zero": "---\ntitle: The Mill\ntdm: 0\n---\nBody.\n",
    "tdm_allowed": "---\ntitle: The Mill\ntdm-reservation: 0\n---\nBody.\n",
    "plain_head": "---\nTitle: The Mill\nAuthor: A. Weir\nTags: [rivers, mills]\n---\nBody.\n",
    "robots_allow": "---\ntitle: The Mill\nrobots: index, follow\n---\nBody.\n",
    "code_block": "# How to\n\n```html\n<!-- tdm-reservation: 1 -->\n```\n\nWrite it so.\n",
    "interview": (
        "---\n\nAuthor: Where does the noise come from?\nSource: From the weir, at night.\n"
        "Author: And the title?\nTitle: I chose myself.\n\n---\n\nSo it went.\n"
    ),
    "bench": (
        "---\nTrain: ten past four, platform two.\nAI: three letters short of a poem.\n---\n\nX.\n"
    ),
    "tags_about": "---\ntitle: The Mill\ntags: [ai, training, robots]\n---\nBody.\n",
    "subject": "One.\n\n---\n\nSubject: Re: the weir\n\n---\n\nTwo.\n",
    "permission": "---\ntitle: The Mill\npermissions: {ai: {train: yes}}\n---\nBody.\n",
}

# The heads of persons who write a name with a capital, as speakers are written.
RESERVING |= {
    f"capitals {number}": f"---\n{head}\n---\nBody.\n"
    for number, head in enumerate(
        [
            "Class: Post\nGPTBot: [noai]",
            "Kind: Post\nCC: train-ai=n",
            "Kind: Post\nCC: train-ai=n # no machine",
            "Permissions: {ai: {train: no}}",
            "X-Robots-Tag: 'GPTBot: noai'",
            "X-Robots-Tag: 'GPTBot: noai, noindex'",
            "AI: {training: no}",
            "Meta-Robots: >-\n  noai",
            "Meta-Robots: noindex,\n  noai",
            "Head: [{name: robots, content: noai}]",
            "Kind: !!seq [a]\nGPTBot: [noai",
            "GPTBot: noai\nGPTBot: index\nCCBot: [noai]",
            "Kind: Post\nHeader: |\n  <meta name=robots content=noai>",
            "Kind: [a]\nHeader: |\n  ```{=html}\n  <meta name=tdm content=opt-out>\n  ```",
            "To: Ada\nCC: train-ai=n",
            "Keywords: boats, No-AI",
            "Author: Ada\nAuthor: Eve\nGPTBot: noai",
            "Robots\u2060: n\u00adoai",
        ]
    )
}
# Comments at the beginning of a text, wherever they stand among its headings.
RESERVING |= {
    f"comment {number}": text
    for number, text in enumerate(
        [
            "---\ntitle: A\n---\n<!-- tdm-reservation: 1 -->\nBody.\n",
            "---\ntitle: A\n---\n# A\n<!-- made -->\n\n<!-- noai -->\nBody.\n",
            "---\ntitle: A\n---\n\nA\n===\n\n<!-- robots: noindex, noai -->\nBody.\n",
            "# A <!-- Content-Usage: train-ai=n -->\n\nBody.\n",
            "# A\n## One\n\n  <!--\ntitle: A\ntdm: opt-out\n-->\nBody.\n",
            "Title: A\n\n<!-- tdm-reservation: 1 -->\n\nBody.\n",
            "---\n\nANNA: Hello.\n\n---\n\n<!-- noai -->\n\nBody.\n",
            "---\ntitle: A\n\n<!-- tdm_reservation: 1 -->\n\nBody.\n",
        ]
    )
}
HONEST |= {
    f"text {number}": text
    for number, text in enumerate(
        [
            "---\nRobot: You wrote noai, and train-ai=n, I saw.\nAnna: I did.\n---\n\nX.\n",
            "---\nAnna: Look: it says noai.\nRobot: I see: noai.\n---\n\nX.\n",
            "---\nANNA: [sighs]\nBEN: Well?\nANNA: [exits]\n---\n\nX.\n",
            "---\nANNA: [sighs] Well, well.\nBEN: Go [points].\n---\n\nX.\n",
            "---\nTitle: I am on the cover.\nAuthor: I wrote you.\nTitle: Did you?\n---\n\nX.\n",
            "---\nflour: 200 g\nbutter: 100 g\nsalt: a pinch\n---\n\nX.\n",
            "---\nflour: 200 g\nmilk: \u00bd l\neggs: 2, beaten\n---\n\nX.\n",
            "---\nTo: the harbour office\nDate: 3 May 1921\n---\n\nX.\n",
            "---\nFrom: Ada\nTo: Eve\nDate: 1921-05-03\nSubject: Re: boat\n---\n\nX.\n",
            "---\nSubject: Re: the boat\n---\n\nX.\n",
            "# TDM: Basics\n\nX.\n",
            "# A\n\n    <!-- tdm-reservation: 1 -->\n\nis how it is written.\n",
            "# A\n\nX.\n\n<!-- tdm-reservation: 1 -->\n",
            "# A\n\n<!-- we say noai to robots, we say: train-ai=n -->\n\nX.\n",
            "# A\n\n<!-- never closed\ntdm: 1\n\nX.\n",
        ]
    )
}
# Of these the head is no part of the text.
HEADS = {
    "comment_editor", "tdm_zero", "tdm_allowed", "plain_head", "robots_allow", "tags_about",
    "permission", "about meta", "about noai",
}  # fmt: skip
HONEST["about meta"] = (
    "---\ntitle: A\nsummary: how <meta name=robots content=noai> is read\n---\nX.\n"
)
HONEST["about noai"] = "---\ntitle: noai\ntags: [noai in the press, no ai]\n---\nX.\n"


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    texts = [*RESERVING.items(), *HONEST.items()]
    answers = parse([SourceFile("a.md", text.encode()) for _, text in texts])
    return dict(zip((name for name, _ in texts), answers, strict=True))


@pytest.mark.parametrize("name", RESERVING)
def test_a_head_of_anybody_reserves(name: str, given: dict[str, Any]) -> None:
    """Protects a reservation that was taken for speech, or not read where it stands."""
    assert not isinstance(given[name], Refused), given[name]
    assert {each["says"] for each in given[name]["opt_outs"]} == {"reserved"}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_text_reserves_nothing_and_stays_whole(name: str, given: dict[str, Any]) -> None:
    """Protects who writes plays, letters and recipes, or about machines."""
    assert not isinstance(given[name], Refused), given[name]
    assert "reserved" not in {each["says"] for each in given[name]["opt_outs"]}
    rest, told = split(HONEST[name])
    assert (rest == HONEST[name]) == (name not in HEADS)
    assert bool(told.left_out) == (name in HEADS)


def test_a_list_a_mapping_and_a_block_are_nobodys_speech() -> None:
    for value in ("[a, b]", "{a: b}", ">-\n  a", "|", "&x [a]", "[[a], b] # c", "[a,\n  b]"):
        assert not is_speech(f"Anna: Good morning.\nBen: {value}"), value
    assert is_speech("Anna: Good morning.\nBen: [aside] Is it [a] morning?")


def test_comments_and_names_without_end_are_read_in_time() -> None:
    """Protects the import: a pattern that tries every division of such a text would never end."""
    many = 1 << 17
    for text in (
        "# a\n" + "<!--" * many,
        "# a\n" + "<!---->" * many,
        "# " + "<!--" * many,
        "---\nA: " + "[" * many + "\n---\n",
        "---\na: " + "1 " * many + "\n---\n",
        "---\nTitle: " + "a. " * many + "\nTitle: b\n---\n",
        "# a\n" * many,
        "a: " + "nob:a," * many + " !\n",
        "<!-- " + "nob:a, " * many + " ! -->\n",
        "a\n-\n" * many,
    ):
        split(text)


@pytest.mark.parametrize("value", ["opt-out", "Prohibited", "no", "perhaps", "", "1"])
def test_tdm_of_an_unknown_value_reserves_in_pages_and_records(value: str) -> None:
    files = [
        SourceFile("a.html", f"<meta name=tdm content='{value}'><p>Body.</p>".encode()),
        SourceFile(
            "a.jsonl",
            f'{{"instruction": "Who?", "output": "Ada.", "tdm": "{value}"}}\n'.encode(),
        ),
        SourceFile(
            "b.jsonl",
            f'{{"prompt": "Who?", "output": "Ada.", "m": {{"tdm": ["{value}"]}}}}\n'.encode(),
        ),
    ]
    for answer in parse(files):
        assert [each["says"] for each in answer["opt_outs"]] == ["reserved"], answer
    for given in ("null", "[]", "{}"):
        raw = f'{{"instruction": "Who?", "output": "Ada.", "tdm": {given}}}\n'.encode()
        (answer,) = parse([SourceFile("a.jsonl", raw)])
        assert [each["says"] for each in answer["opt_outs"]] == ["reserved"], answer
    (answer,) = parse([SourceFile("a.html", b"<meta name=tdm content=0><p>Body.</p>")])
    assert [each["says"] for each in answer["opt_outs"]] == ["allowed"]


ONE = '{"instruction": "Who?", "output": "Ada."}'
TWICE = '{"instruction": "Who?", "output": "Ada.", "output": "Eve."}'
MESSAGE = '{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "content": "c"}'


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("a.jsonl", f"{ONE}\n\n{TWICE}\n", "line 3: the member 'output' is there twice: keep one"),
        ("a.jsonl", f'{{"messages": [{MESSAGE}]}}\n', "line 1: the member 'content'"),
        ("a.jsonl", f'{{"messages": [], "messages": [{MESSAGE}]}}\n', "line 1: the member"),
        ("a.json", f"[\n{ONE},\n{ONE}, {TWICE}]", "record 3, which begins on line 3: the member"),
    ],
)
def test_a_record_with_a_member_twice_is_refused_with_its_line(
    name: str, text: str, place: str
) -> None:
    """Protects the creator: the last one was taken, and `viz license new` refused what passed."""
    (answer,) = parse([SourceFile(name, text.encode())])
    assert isinstance(answer, Refused) and place in answer.why
