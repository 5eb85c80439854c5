"""A book's own entities: text within bounds, and a loss that is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes import documents

from viz.creator.intake.entities import ELSEWHERE, NESTED, UNKNOWN, with_entities
from viz.creator.intake.importing import import_sources, sources_of
from viz.errors import InvalidWork

SUBSET = """<!-- it's "her" name -->
  <!ENTITY hero "Ilse Brandt">
  <!ENTITY hero "Somebody Else">
  <!ENTITY land '[the &#8220;marsh&#8221; &amp; the dyke]'>
  <!ENTITY nbsp "&#160;">
  <!ENTITY lt "gone">
  <!ENTITY both "&pair;&nbsp;&lt;">
  <!ENTITY pair "&hero; &hero;">
  <!ENTITY part "of &rest;">
  <!ENTITY less "&none;">
  <!ENTITY self "&self2;"> <!ENTITY self2 "&self;">
  <!ENTITY rest SYSTEM "file:///etc/hostname">
  <!ENTITY % outside PUBLIC "-//a" "http://a.test/a.dtd"> %outside;
"""
PAGE = (
    '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" '
    f'"http://www.w3.org/TR/xhtml11.dtd" [{SUBSET}]><html xmlns="http://www.w3.org/1999/xhtml">'
    "<head><title/></head><body>{}</body></html>"
)


def test_a_books_own_entities_are_text_and_what_is_lost_is_told(tmp_path: Path) -> None:
    """The hero's name vanished from the work, and nothing said so."""
    body = "<p>&hero; of &land;&nbsp;&lt; &copy; &both;&rest;&none;&part;&less;&self;.</p>"
    path = tmp_path / "a.epub"
    path.write_bytes(documents.epub(["x"], more={"OEBPS/page0.xhtml": PAGE.format(body)}))
    made = import_sources(*sources_of([path])[:1])
    assert made.raw.decode().strip() == (
        "Ilse Brandt of [the \u201cmarsh\u201d & the dyke] < \u00a9 Ilse Brandt Ilse Brandt <."
    )
    (source,) = made.sources
    told = [note for note in source["notes"] if "entities" in note]
    counts = ((3, NESTED), (1, ELSEWHERE), (1, UNKNOWN))
    assert sorted(told) == sorted(f"left out: {count} {each}" for count, each in counts)


def test_half_of_a_surrogate_pair_is_no_character(tmp_path: Path) -> None:
    """A reference that no text can hold refused the whole book in the decoder's words."""
    path = tmp_path / "a.epub"
    body = "<p>A &#xD83D;&#56832; &#233;.</p>"
    path.write_bytes(documents.epub(["x"], more={"OEBPS/page0.xhtml": PAGE.format(body)}))
    made = import_sources(*sources_of([path])[:1])
    assert (
        made.raw.decode().strip() == "A \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} \u00e9."
    )


def test_entities_make_no_page_grow_without_end(tmp_path: Path) -> None:
    """An entity gives at most 2,000 characters; a page that gets a MiB of them is refused."""
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    text, lost = with_entities(f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><x>&l9;</x>')
    assert (text, lost) == ("<x></x>", {NESTED: 1})
    page = f'<!DOCTYPE x [<!ENTITY a "{"a" * 2_000}">]><x>{"&a;" * 10_000}</x>'
    with pytest.raises(InvalidWork, match=r"add more than 1,048,576 characters to it: replace"):
        with_entities(page)
    path = tmp_path / "a.epub"
    path.write_bytes(documents.epub(["x"], more={"OEBPS/page0.xhtml": page}))
    with pytest.raises(InvalidWork, match="a page of the book declares"):
        import_sources(*sources_of([path])[:1])
    chain = "".join(f'<!ENTITY c{n} "&c{n - 1};">' for n in range(1, 4_000))
    text, lost = with_entities(f'<!DOCTYPE x [<!ENTITY c0 "ha">{chain}]><x>&c7;&c3999;</x>')
    assert (text, lost) == ("<x>ha</x>", {NESTED: 1})
    assert with_entities('<!DOCTYPE x [<!ENTITY a "b">]><x><![CDATA[&a;]]></x>') == (
        "<x><![CDATA[&a;]]></x>",
        {},
    )
    # A DOCTYPE that cannot be read declares nothing.
    _, lost = with_entities("<!DOCTYPE x [<!ENTITY a \"b'>]><x>&a;</x>")
    assert lost == {UNKNOWN: 1}
    hostile = "<!DOCTYPE x [" + "<!-- ' " * 2_000 + "&a;"
    assert with_entities(hostile)[1] == {UNKNOWN: 1}
