"""Works to training rows: chats whose assistant turns are learned, each row tracing to its chunks.

Owns the conversion of prose to turns, the split into training and held-out rows, and the dataset
file with Merkle proofs. Does not know tokens or models. Invariants: every row names at least one
chunk, and its words come from its chunks and this module's few question forms; the same works,
seed and share give the same rows in the same order.

Prose teaches little as running text and much as turns (ENGINE.md, "What it takes to teach
something"), so a section's heading is asked in several forms and answered by its first sentence or
two; a sentence that states something of a subject is asked for by the subject, any other by its
first half. A dialogue's question is also asked by its words of meaning alone, in its own order and
in another: so that an answer is found by what is asked about and not by how it was once put. What
did worse is in docs/training-log.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import rfc8785
from eth_utils.crypto import keccak

from viz.domain.units import Hash32
from viz.domain.work import Chunk, Message, Work
from viz.errors import InvalidWork

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"\u201d\u2019)]*\s+(?=[\"\u201c\u2018(]?[A-Z0-9])")
_HEADING = re.compile(r"^#{1,6}\s+(.*\S)\s*#*$")
# How a heading is asked, and how many of its first sentences answer.
_ASK: Final = (("{}", 1), ("I would like to know more. {}", 2))
# "X is Y": asked for by X, so that a fact is met under its subject as well as under its heading.
_STATES: Final = re.compile(r"((?:\S+ ){2,9}?)(?:is|are|was|were) ")
_ARTICLES: Final = frozenset({"The", "A", "An", "Its", "His", "Her", "Their", "This", "These"})
_MIN_SPLIT_WORDS: Final = 5
# Words that say how a thing is asked, not what about. English; a question without any of them is
# left as it is.
_FORM: Final = (
    "a an and are at be been by can could did do does for from had has have how i in is it its me "
    "my of on one or s should that the their there they this to was were what when where which "
    "who whom whose why will with would you your"
)
_FORM_WORDS: Final = frozenset(_FORM.split())
_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_POSSESSIVE: Final = re.compile(r"['\u2019]s$")
_MAX_ASKED_WORDS: Final = 40


@dataclass(frozen=True, slots=True)
class Row:
    """One chat to learn from; ``chunks`` are indices into the work ``work`` of the run."""

    work: int
    chunks: tuple[int, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of a run, in order, split once."""

    training: tuple[Row, ...]
    held_out: tuple[Row, ...]


def rows_of(work: Work, index: int = 0) -> tuple[Row, ...]:
    """Return the rows of one work; ``index`` is its place in the run. Raises InvalidWork."""
    if work.kind == "dialogue":
        rows = [Row(index, (chunk.index,), chunk.messages) for chunk in work.chunks]
    else:
        rows = _prose_rows(work.chunks, index)
    if not rows:
        raise InvalidWork(
            "the work gives no training rows: write prose in whole sentences of several words, "
            'under headings, or questions and answers as kind = "dialogue"'
        )
    return tuple(rows)


def build_dataset(works: Sequence[Work], *, seed: int, held_out_share: float) -> Dataset:
    """Return the split rows of ``works``.

    Held-out rows are drawn from each work apart (so none is missed), never its only row, and the
    same words are never on both sides.
    """
    training: list[Row] = []
    held_out: list[Row] = []
    for index, work in enumerate(works):
        rows = list(rows_of(work, index))
        wanted = min(len(rows) - 1, round(len(rows) * held_out_share))
        chosen = set(_shuffled(len(rows), f"{seed}/held-out/{index}")[:wanted])
        taken = {rows[place].messages for place in chosen}
        held_out += [row for place, row in enumerate(rows) if place in chosen]
        learned = [
            row
            for place, row in enumerate(rows)
            if place not in chosen and row.messages not in taken
        ]
        training += learned
        if work.kind == "dialogue":
            # After the split: no wording of a held-out turn is trained on.
            training += [other for row in learned for other in _asked_otherwise(row)]
    if not training:
        raise InvalidWork("no row is left to train on: lower the held-out share")
    return Dataset(tuple(training), tuple(held_out))


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Return the order of rows in an epoch: a function of its arguments, so runs can resume."""
    return _shuffled(count, f"{seed}/order/{epoch}")


def write_dataset(path: Path, dataset: Dataset, works: Sequence[Work]) -> Hash32:
    """Write every row with its chunks' proofs, one canonical JSON a line; return keccak256.

    An auditor who has a work can verify each line with ``viz.domain.work.verify_chunk``.
    """
    proofs = [work.proofs() for work in works]
    lines = b""
    for split, rows in (("training", dataset.training), ("held-out", dataset.held_out)):
        for row in rows:
            entry: dict[str, Any] = {
                "split": split,
                "work": row.work,
                "messages": [{"role": m.role, "content": m.content} for m in row.messages],
                "chunks": [
                    {
                        "index": chunk,
                        "count": proofs[row.work][chunk].count,
                        "siblings": ["0x" + s.hex() for s in proofs[row.work][chunk].siblings],
                    }
                    for chunk in row.chunks
                ],
            }
            lines += rfc8785.dumps(entry) + b"\n"
    path.write_bytes(lines)
    return Hash32(keccak(lines))


def read_dataset_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a dataset file as written."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _shuffled(count: int, label: str) -> list[int]:
    """Return 0..count-1 ordered by a hash: no library's generator can change it under an audit."""
    return sorted(range(count), key=lambda place: keccak(f"{label}/{place}".encode()))


def _prose_rows(chunks: Iterable[Chunk], index: int) -> list[Row]:
    rows: list[Row] = []
    subject, place, asked = "", 0, False
    for chunk in chunks:
        first, _, rest = chunk.text.partition("\n")
        found = _HEADING.match(first)
        if found:
            subject, place, asked = found[1], chunk.index, False
            if not rest.strip():
                continue
        body = " ".join((rest if found else chunk.text).split())
        sentences = [sentence for sentence in _SENTENCE_END.split(body) if sentence]
        if subject and not asked:
            question = subject if subject.endswith("?") else f"What about {subject}?"
            sources = tuple(sorted({place, chunk.index}))
            for form, count in _ASK:
                answer = " ".join(sentences[:count])
                rows.append(_row(index, sources, form.format(question), answer))
            asked = True
        for sentence in sentences:
            words = sentence.split()
            stated = _STATES.match(sentence)
            if stated:
                about = stated[1].strip()
                about = about[0].lower() + about[1:] if words[0] in _ARTICLES else about
                rows.append(_row(index, (chunk.index,), f"What about {about}?", sentence))
            elif len(words) >= _MIN_SPLIT_WORDS:
                beginning = " ".join(words[: (len(words) + 1) // 2])
                rows.append(_row(index, (chunk.index,), f"Go on: {beginning}", sentence))
    return rows


def _asked_otherwise(row: Row) -> list[Row]:
    """Return a single exchange under its question's words of meaning, in two orders."""
    if [message.role for message in row.messages] != ["user", "assistant"]:
        return []
    question, answer = (message.content for message in row.messages)
    words = _WORD.findall(question)
    meant = [_POSSESSIVE.sub("", word) for word in words if word.lower() not in _FORM_WORDS]
    if not 2 <= len(meant) < len(words) <= _MAX_ASKED_WORDS:
        return []
    mixed = [meant[place] for place in _shuffled(len(meant), question)]
    return [_row(row.work, row.chunks, " ".join(each), answer) for each in (meant, mixed)]


def _row(work: int, chunks: tuple[int, ...], user: str, assistant: str) -> Row:
    return Row(work, chunks, (Message("user", user), Message("assistant", assistant)))
