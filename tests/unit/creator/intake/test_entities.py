"""A book's own entities: text within bounds, and a loss that is told."""

from __future__ import annotations

from pathlib import Path

from tests.fakes import documents

from viz.creator.intake.entities import ELSEWHERE, NESTED, UNKNOWN, with_entities
from viz.creator.intake.importing import import_sources, sources_of

SUBSET = """<!-- it's "her" name -->
  <!ENTITY hero "Ilse Brandt">
  <!ENTITY hero "Somebody Else">
  <!ENTITY land '[the &#8220;marsh&#8221; &amp; the dyke]'>
  <!ENTITY nbsp "&#160;">
  <!ENTITY lt "gone">
  <!ENTITY both "&hero; &hero;">
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
    body = "<p>&hero; of &land;&nbsp;&lt; &copy; &both;&rest;&none;.</p>"
    path = tmp_path / "a.epub"
    path.write_bytes(documents.epub(["x"], more={"OEBPS/page0.xhtml": PAGE.format(body)}))
    made = import_sources(*sources_of([path])[:1])
    assert made.raw.decode().strip() == (
        "Ilse Brandt of [the \u201cmarsh\u201d & the dyke] < \u00a9 ."
    )
    (source,) = made.sources
    told = [note for note in source["notes"] if "entities" in note]
    assert sorted(told) == sorted(f"left out: 1 {each}" for each in (NESTED, ELSEWHERE, UNKNOWN))


def test_entities_make_no_page_grow_without_end() -> None:
    """A value is put in once, at most 2,000 characters of it, and a MiB of them all together."""
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    text, lost = with_entities(f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><x>&l9;</x>')
    assert (text, lost) == ("<x></x>", {NESTED: 1})
    page = f'<!DOCTYPE x [<!ENTITY a "{"a" * 2_000}">]><x>{"&a;" * 10_000}</x>'
    text, lost = with_entities(page)
    assert len(text) < (1 << 20) + 100 and lost[NESTED] > 9_000
    assert with_entities('<!DOCTYPE x [<!ENTITY a "b">]><x><![CDATA[&a;]]></x>') == (
        "<x><![CDATA[&a;]]></x>",
        {},
    )
    # A DOCTYPE that cannot be read declares nothing.
    _, lost = with_entities("<!DOCTYPE x [<!ENTITY a \"b'>]><x>&a;</x>")
    assert lost == {UNKNOWN: 1}
    hostile = "<!DOCTYPE x [" + "<!-- ' " * 2_000 + "&a;"
    assert with_entities(hostile)[1] == {UNKNOWN: 1}
