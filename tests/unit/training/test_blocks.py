"""How the layout of a text is read."""

from __future__ import annotations

from viz.domain.work import parse_work
from viz.training.blocks import TextBlock, blocks_of

MANUAL = """# Meter

## 1. Measuring

Do this:

1. Stand downwind.
   Keep still.
2. Press the button.

> **WARNING.** Never heat the bottle above 48 degrees.

| Code | Meaning | What to do |
|------|---------|------------|
| E1 | Battery empty | Charge it |

```python
import serial

print("x")
```

Care
----

- wipe the dome
* oil nothing"""


def _blocks(text: str) -> list[TextBlock]:
    return blocks_of(parse_work("text", text.encode()).chunks)


def test_markdown_is_read_as_it_is_laid_out() -> None:
    """Lists, tables, quotes, fences and both kinds of headings; no line is lost."""
    found = _blocks(MANUAL)
    assert [(block.kind, block.text) for block in found] == [
        ("paragraph", "Do this:"),
        ("item", "Stand downwind. Keep still."),
        ("item", "Press the button."),
        ("paragraph", "**WARNING.** Never heat the bottle above 48 degrees."),
        ("row", "E1: Meaning: Battery empty; What to do: Charge it"),
        ("code", 'import serial\n\nprint("x")'),
        ("item", "wipe the dome"),
        ("item", "oil nothing"),
    ]
    assert found[1].headings == ("Meter", "1. Measuring")
    assert (found[1].lead, found[2].number) == ("Do this:", "2")
    assert found[4].cells[1] == ("Meaning", "Battery empty")
    assert found[-1].headings == ("Meter", "Care")
    assert len(found[5].chunks) == 2, "a fence with a blank line lies in two chunks"


def test_a_letter_s_head_stands_over_it_and_its_closing_does_not_stand_over_the_next() -> None:
    """Who writes to whom, when and where is context; the next letter has its own."""
    first = (
        "Thistle House\n4 March\n\nDear Caspar,\n\nThe roof fell on Sunday.\n\nYour sister,\nOrla"
    )
    second = "Camp Three\n29 March\n\nDear Orla,\n\nOne eats lentils here."
    found = _blocks(f"{first}\n\n{second}")
    assert [block.headings for block in found] == [
        ("Thistle House, 4 March", "Dear Caspar"),
        ("Thistle House, 4 March", "Dear Caspar"),
        ("Camp Three, 29 March", "Dear Orla"),
    ]
    assert found[1].text == "Your sister, Orla"


def test_verse_keeps_its_lines_and_wrapped_prose_does_not() -> None:
    """The shape of a stanza is part of it; a line break of an editor says nothing."""
    stanza = "The lamp is low,\nthe tide is slow.\nWe row, we row."
    wrapped = "word " * 14 + "\n" + "word " * 14 + "\nend."
    found = _blocks(f"The boat\n\n{stanza}\n\n{wrapped}")
    assert [(block.kind, block.headings) for block in found] == [
        ("verse", ("The boat",)),
        ("paragraph", ("The boat",)),
    ]
    assert found[0].text == stanza
    assert "\n" not in found[1].text


def test_a_paragraph_that_was_cut_for_its_length_is_whole_again() -> None:
    """A chunk's bound falls in the middle of a sentence; the sentence names both chunks."""
    long = " ".join(f"Sentence number {n} tells of the sea." for n in range(60))
    work = parse_work("text", long.encode())
    assert len(work.chunks) > 1
    (block,) = blocks_of(work.chunks)
    assert block.text == long
    assert block.chunks == tuple(range(len(work.chunks)))


def test_a_text_of_short_lines_alone_is_not_all_titles() -> None:
    """A poem of lines without full stops is taught, and not read as titles of nothing."""
    found = _blocks(
        "An old silent pond\nA frog jumps into the pond\nSplash\n\nWinter\nOne colour\nWind"
    )
    assert [block.kind for block in found] == ["verse", "verse"]
