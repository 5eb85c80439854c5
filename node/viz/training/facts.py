"""Find the facts of a work: what can be asked of it, and the work's own words that answer.

Owns the conversion of dialogues and texts. Does not know in how many wordings a fact is asked
(``wordings`` does), seeds or tokens. Invariant: an answer holds words of the work alone, and a fact
names the chunks that they come from.

Prose teaches little as running text and much as turns (docs/training-log.md, "Questions answered").
A dialogue's fact is one assistant turn with what was said before it; of a turn
that is too long for one answer each sentence is a fact. A text's fact is a sentence, a list's item,
a table's row, a piece of code or a stanza, under its headings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import regex

from viz.domain.work import Message, Work
from viz.training.blocks import TextBlock, blocks_of
from viz.training.sentences import sentences
from viz.training.words import FORM_WORDS, words_of

# A longer answer is cut between sentences, and each part is a fact: as a rule some 250 tokens.
_MOST_ANSWER_BYTES: Final = 900
# How a heading is asked, and how many of its first sentences answer.
_ASK: Final = (("{}", 1), ("What about {}?", 1), ("I would like to know more. {}", 2))
# "X is Y": asked for by X, so that a fact is met under its subject as well as under its heading.
_STATES: Final = regex.compile(r"((?:[^\s.!?:;]+ ){2,9}?)(?:is|are|was|were) ")
_ARTICLES: Final = frozenset({"The", "A", "An", "Its", "His", "Her", "Their", "This", "These"})
_MIN_SPLIT_WORDS: Final = 5
_FEWEST_WORDS: Final = 3
_NUMBERING: Final = regex.compile(r"^(?:\d{1,3}[.)]|\d{1,3}(?:\.\d{1,3})+[.)]?)\s+")
_EMPHASIS: Final = regex.compile(
    r"(?<![\p{L}\p{N}_*])(\*{1,3}|_{1,3})(?=\S)(.+?)(?<=\S)\1(?![\p{L}\p{N}_*])"
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer and what it is asked by.

    ``questions`` are asked as they stand (the work's own, or made of its heading or subject);
    ``history`` is said before them. ``asked`` is the work's own question, where it has one, and
    ``about`` are texts around that say what the answer is about. A fact whose answer other facts
    have too is not ``reworded``: it is asked as it stands.
    """

    work: int
    chunks: tuple[int, ...]
    answer: str
    questions: tuple[str, ...] = ()
    history: tuple[Message, ...] = ()
    asked: str = ""
    about: tuple[str, ...] = ()
    reworded: bool = True


def facts_of(work: Work, index: int = 0) -> list[Fact]:
    """Return the facts of one work, in its order; ``index`` is its place in the run."""
    if work.kind == "dialogue":
        return list(_of_dialogue(work, index))
    return list(_of_text(blocks_of(work.chunks), index))


# dialogues


def _of_dialogue(work: Work, index: int) -> Iterator[Fact]:
    for chunk in work.chunks:
        for place, message in enumerate(chunk.messages):
            if message.role != "assistant":
                continue
            history, asked = chunk.messages[: place - 1], chunk.messages[place - 1].content
            before = tuple(m.content for m in history if m.role != "system")[-2:]
            parts = _parts(message.content)
            whole = parts[0] if len(parts) > 1 else message.content
            fact = Fact(index, (chunk.index,), whole, (asked,), history, asked, before)
            yield fact
            said = sentences(message.content)
            if len(parts) > 1 and len(said) > 1 and "\n" not in message.content.strip():
                for number, sentence in enumerate(said):
                    about = (*said[max(0, number - 1) : number], *before)
                    yield replace(fact, answer=sentence, questions=(), history=(), about=about)
            else:
                for part in parts[1:]:
                    yield replace(fact, answer=part, questions=(), history=())


# texts


def _of_text(blocks: Sequence[TextBlock], index: int) -> Iterator[Fact]:
    headings: tuple[str, ...] | None = None
    for place, block in enumerate(blocks):
        facts = list(_of_block(block, index))
        if not facts:
            continue
        if block.headings and block.headings != headings:
            yield from _asked_by_heading(block, facts, index)
        headings = block.headings
        yield from facts
        follows = blocks[place + 1] if place + 1 < len(blocks) else None
        if block.kind in ("item", "row") and (
            follows is None
            or follows.kind != block.kind
            or follows.headings != block.headings
            or follows.lead != block.lead
        ):
            yield from _whole_list(blocks, place, index)


def _of_block(block: TextBlock, index: int) -> Iterator[Fact]:
    about = (*block.headings[-2:],)
    if block.kind == "paragraph":
        said = _spoken(plain(block.text))
        for number, sentence in enumerate(said):
            around = (*about, *said[max(0, number - 1) : number])
            for part in _parts(sentence):
                yield Fact(index, block.chunks, part, _by_subject(part), about=around)
    elif block.kind == "item":
        lead = sentences(block.lead)[-1:]
        numbered = block.number.isdigit() and about
        title = _NUMBERING.sub("", about[-1]) if about else ""
        step = (f"What is step {block.number} of {title}?",) if numbered else ()
        for part in _parts(plain(block.text)):
            yield Fact(index, block.chunks, part, step or _by_subject(part), about=(*about, *lead))
    elif block.kind == "row":
        names = tuple(name for name, _ in block.cells if name)
        first = plain(block.cells[0][1])
        asked = (first, f"What about {first}?")
        yield Fact(index, block.chunks, plain(block.text), asked, about=(*about, *names))
    elif block.kind == "code":
        yield from _of_code(block, index, about)
    else:
        yield from _of_verse(block, index, about)


def _of_code(block: TextBlock, index: int, about: tuple[str, ...]) -> Iterator[Fact]:
    """The whole, asked by what leads to it, and where lines stand for themselves each line."""
    lead = tuple(sentences(block.lead)[-1:])
    for part in _parts(block.text):
        yield Fact(index, block.chunks, part, lead or about[-1:], about=(*about, *lead))
    lines = [line.strip() for line in block.text.split("\n") if line.strip()]
    if len(lines) > 1 and not any(line[:1] in " \t" for line in block.text.split("\n")):
        for line in lines:
            if len(line.split()) > 1:
                yield Fact(index, block.chunks, " ".join(line.split()), about=(*about, *lead))


def _of_verse(block: TextBlock, index: int, about: tuple[str, ...]) -> Iterator[Fact]:
    """The stanza, asked by its heading and its first line, and each line with the next."""
    lines = block.text.split("\n")
    title = about[-1:]
    for part in _parts(block.text):
        first = part.split("\n", 1)[0].strip()
        yield Fact(index, block.chunks, part, (f"Go on: {first}",), about=(*title, first))
    for line, after in pairwise(lines):
        two = f"{line.strip()}\n{after.strip()}"
        yield Fact(index, block.chunks, two, (f"Go on: {line.strip()}",), about=title)


def _asked_by_heading(block: TextBlock, facts: Sequence[Fact], index: int) -> Iterator[Fact]:
    """What a heading is about is told by the first sentence under it, or the first two."""
    title = _NUMBERING.sub("", plain(block.headings[-1])).rstrip(".:;,") or block.headings[-1]
    for form, count in _ASK:
        question = title if title.endswith("?") and count == 1 else form.format(title)
        said = facts[:count] if block.kind == "paragraph" else facts[:1]
        answer = " ".join(fact.answer for fact in said)
        yield Fact(index, block.chunks, answer, (question,), reworded=False)


def _whole_list(blocks: Sequence[TextBlock], last: int, index: int) -> Iterator[Fact]:
    """A list as a whole, asked by what leads to it, where it is short enough to be said."""
    end = blocks[last]
    first = last
    while first and (
        blocks[first - 1].kind,
        blocks[first - 1].headings,
        blocks[first - 1].lead,
    ) == (
        end.kind,
        end.headings,
        end.lead,
    ):
        first -= 1
    members = blocks[first : last + 1]
    asked = tuple(sentences(end.lead)[-1:]) or end.headings[-1:]
    text = "\n".join(
        f"{m.number}. {plain(m.text)}" if m.number else f"- {plain(m.text)}" for m in members
    )
    if len(members) > 1 and asked and len(text.encode()) <= _MOST_ANSWER_BYTES:
        chunks = tuple(sorted({chunk for member in members for chunk in member.chunks}))
        yield Fact(index, chunks, text, tuple(map(plain, asked)), about=end.headings[-1:])


def _spoken(text: str) -> list[str]:
    """Return the sentences of ``text``, each with at least a few words."""
    said: list[str] = []
    carried = ""
    for sentence in sentences(text):
        together = f"{carried} {sentence}".strip()
        carried = together if len(words_of(together)) < _FEWEST_WORDS else ""
        if not carried:
            said.append(together)
    if carried:
        said[-1:] = [f"{said[-1]} {carried}" if said else carried]
    return said


def _by_subject(sentence: str) -> tuple[str, ...]:
    words = sentence.split()
    stated = _STATES.match(sentence)
    if stated and (words[0] in _ARTICLES or words[0].lower() not in FORM_WORDS):
        about = stated[1].strip()
        about = about[0].lower() + about[1:] if words[0] in _ARTICLES else about
        return (f"What about {about}?",)
    if len(words) >= _MIN_SPLIT_WORDS:
        return (f"Go on: {' '.join(words[: (len(words) + 1) // 2])}",)
    return ()


def plain(text: str) -> str:
    """Return ``text`` without Markdown's marks of emphasis and code."""
    without: str = _EMPHASIS.sub(r"\2", text)
    return without.replace("`", "")


def _parts(text: str) -> list[str]:
    """Return ``text``, or its parts where it is too long for one answer.

    Lines stay whole, then sentences, then words; what has no spaces is cut between characters.
    """
    if len(text.encode()) <= _MOST_ANSWER_BYTES:
        return [text]
    for pieces, joint in (
        (text.split("\n"), "\n"),
        (sentences(text), " "),
        (text.split(" "), " "),
        (regex.findall(r"\X", text), ""),
    ):
        if len(pieces) > 1:
            return [part for group in _grouped(pieces, joint) for part in _parts(group)]
    return [text]


def _grouped(pieces: Sequence[str], joint: str) -> Iterator[str]:
    group = ""
    for piece in pieces:
        longer = f"{group}{joint}{piece}" if group else piece
        if group and len(longer.encode()) > _MOST_ANSWER_BYTES:
            yield group
            longer = piece
        group = longer
    if group.strip():
        yield group
