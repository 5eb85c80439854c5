"""The summary of a license: what hostile names cannot do, and what every page says."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from tests.fakes.licenses import WHERE, changed, of_public_domain, preset

from viz.domain.display import visible
from viz.domain.units import hex_of
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_document.presets import PRESETS
from viz.protocol.license_forms.facts import sections
from viz.protocol.license_forms.place import LicensePlace
from viz.protocol.license_forms.summary import summary_html, summary_markdown

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></tr></table><iframe src=//evil.test>",
    "&lt;script&gt;",
    "{{7*7}} ${7*7}",
    "](javascript:alert(1)) [x](javascript:alert(1))",
    "| a | b |",
    "`code` *bold* <http://evil.test>",
]
TAGS = {
    "html", "head", "meta", "link", "title", "style", "body", "h1", "h2", "p", "table", "tr", "th",
    "td", "bdi", "a",
}  # fmt: skip


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def named(name: str) -> LicenseDocument:
    return changed(
        {"work.title": name, "licensor.name": name, "work.creators": [name], "text": name,
         "law.governing": name, "law.courts": name}
    )  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_and_nothing_else(name: str) -> None:
    """A name that looks like HTML, Markdown or a template is shown as it was written."""
    page = Page(summary_html(named(name), WHERE))
    assert page.tags <= TAGS
    assert not any(key.startswith("on") for key, _ in page.attributes)
    links = [str(value) for key, value in page.attributes if key in ("href", "src")]
    assert all(link.startswith(WHERE.forms_url) for link in links)
    assert page.text.count(name) >= 6
    rows = [line for line in summary_markdown(named(name), WHERE).splitlines() if "| " in line]
    assert all(line.count("|") - line.count("\\|") == 3 for line in rows if line.startswith("| "))
    assert not re.search(r"(?<!\\)\]\(", summary_markdown(named(name), WHERE))


@pytest.mark.parametrize(
    ("letter", "mark"),
    [
        ("\u202e", "[U+202E]"),
        ("\u2066", "[U+2066]"),
        ("\u200b", "[U+200B]"),
        ("\u2028", "[U+2028]"),
        ("\ufeff", "[U+FEFF]"),
        ("\U000e0041", "[U+E0041]"),
    ],
)
def test_a_character_that_nobody_sees_is_shown(letter: str, mark: str) -> None:
    """Letters that reverse or hide text cannot make a page say something else."""
    name = f"pay{letter}pal"
    for page in (summary_html(named(name), WHERE), summary_markdown(named(name), WHERE)):
        assert letter not in page and mark in page.replace("\\", "")
    assert visible(name) == f"pay{mark}pal"


def test_what_is_seen_stays() -> None:
    """Scripts of all people, joiners that they need, and wide spaces are no trick."""
    for name in ("Zoë", "山田 太郎", "نوعة", "क\u200dष", "a\u3000b"):
        assert visible(name) == name
    assert visible("a\x1b[2Jb\x00") == "a[U+001B][2Jb[U+0000]"
    assert visible("a\nb", keep="\n") == "a\nb"


@pytest.mark.parametrize("name", PRESETS)
def test_the_page_says_what_counts(name: str) -> None:
    """Fee, royalty, end, hash, and what no contract can hold stand on every page."""
    document = preset(name)
    page = Page(summary_html(document, WHERE)).text
    for words in (
        f"{document.money.training_fee} vUSD",
        "What the contracts on the chain hold",
        "What a licensee promises, and no contract can hold",
        hex_of(document.license_hash),
        document.work.sha256,
        "The document with the hash below is what binds",
    ):
        assert words in page
    titles = [section.title for section in sections(document, None)]
    assert len(titles) == len(set(titles)) == 6


def test_a_withdrawn_work_s_page_says_so_first() -> None:
    gone = LicensePlace(WHERE.work_path, WHERE.forms_url, 1, withdrawn_at=1_800_000_000)
    assert sections(preset(), gone)[0].title == "This work was withdrawn"
    assert "2027-01-15" in summary_html(preset(), gone)


@pytest.mark.parametrize("withdrawn_at", [0, 1_800_000_000], ids=["open", "withdrawn"])
@pytest.mark.parametrize("name", PRESETS)
def test_the_page_of_a_work_that_nobody_owns_permits_and_reserves_nothing(
    name: str, withdrawn_at: int
) -> None:
    """It says that no permission is needed, and what the registration is for."""
    document = of_public_domain(name)
    where = LicensePlace(WHERE.work_path, WHERE.forms_url, 1, withdrawn_at=withdrawn_at)
    page = Page(summary_html(document, where)).text
    for text in (page, summary_markdown(document, where)):
        assert "Public domain: " in text and "nobody needs a permission" in text
        assert "none is needed, from anybody, for any use" in text
        assert ("stays in the public domain" in text) is bool(withdrawn_at)
        for owned in (
            "License: ", "licensor", "licensee", "reserved", "permitted", "of the rights",
            "fee of a grant", "purposes that are", "at least",
        ):  # fmt: skip
            assert owned not in text, owned
    assert hex_of(document.license_hash) in page
    titles = [section.title for section in sections(document, where)]
    assert titles[0] == "In the public domain" and len(set(titles)) == len(titles) == 6


def test_a_work_that_nobody_owns_registered_without_training_names_no_adapter() -> None:
    """The contract refuses such an adapter, whoever owns the work: the page says so."""
    document = of_public_domain()
    rights = document.rights.model_copy(update={"serve": False})
    told = sections(document.model_copy(update={"rights": rights}), WHERE)
    assert "is not possible" in told[2].rows[0][1]
