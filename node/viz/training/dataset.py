"""Make training rows of works: chats whose assistant turns are learned, each with its chunks.

Owns the rows of a run, the wordings that are held out, and the dataset file with Merkle proofs.
Does not know tokens or models. Every fact of every chunk is taught; held out are *wordings* of some
of them, so that what is measured is whether an answer is found by a question that was not trained
on. Invariants: every row names at least one chunk, and its answer is made of its chunks' words; no
question, ignoring letter case, word order and white space, is on both sides, over all works;
the same works, seed and share give the same rows in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import rfc8785
from eth_utils.crypto import keccak

from viz.domain.units import Hash32
from viz.domain.work import Message, Work
from viz.errors import InvalidWork
from viz.training.facts import Fact, facts_of
from viz.training.neighbours import NONE, Vocabulary
from viz.training.wordings import Wordings
from viz.training.words import words_of

# In how many wordings, beside its own questions, a fact is asked.
WORDINGS: Final = 24
# One of so many wordings teaches the whole answer, the others how it begins.
_WHOLE_EACH: Final = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One chat to learn from; ``chunks`` are indices into the work ``work`` of the run.

    ``last_only``: earlier assistant turns are read and not learned, as other rows teach them.
    ``opening_only``: of a long answer only the beginning is learned. It decides which answer is
    given, and that is what many wordings teach.
    """

    work: int
    chunks: tuple[int, ...]
    messages: tuple[Message, ...]
    last_only: bool = False
    opening_only: bool = False


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of a run, in order, split once.

    ``telling`` has for each held-out row the words by which its answer is known; ``facts`` counts
    those that are asked in many wordings.
    """

    training: tuple[Row, ...]
    held_out: tuple[Row, ...]
    telling: tuple[tuple[str, ...], ...] = ()
    facts: int = 0


def rows_of(work: Work, index: int = 0) -> tuple[Row, ...]:
    """Return the rows of one work as it asks itself; ``index`` is its place in the run.

    Raises InvalidWork when there is nothing to ask.
    """
    return tuple(row for fact in _facts(work, index) for row in _own_rows(fact))


def build_dataset(
    works: Sequence[Work],
    *,
    seed: int,
    held_out_share: float,
    vocabulary: Vocabulary = NONE,
) -> Dataset:
    """Return the split rows of ``works``; ``vocabulary`` is the base's (``neighbours``).

    ``held_out_share`` of each work's facts are asked, for the evaluation, in a wording that is not
    trained on (none where that rounds to no fact). Every fact is trained on in others.
    """
    facts = [_facts(work, index) for index, work in enumerate(works)]
    wordings = Wordings(works, seed, vocabulary)
    training: list[Row] = []
    held_out: dict[_Key, tuple[Row, tuple[str, ...]]] = {}
    place = 0
    for index, own in enumerate(facts):
        wanted = round(len(own) * held_out_share)
        chosen = set(_shuffled(len(own), f"{seed}/held-out/{index}")[:wanted])
        for number, fact in enumerate(own):
            made = wordings.of(fact, place, WORDINGS) if fact.reworded else []
            asked = fact.reworded and number in chosen
            unseen = wordings.unseen(fact, place) if asked else None
            if unseen is not None:
                row = _asked(fact, unseen[0])
                held_out.setdefault(_key(row), (row, unseen[1]))
            training += _own_rows(fact)
            for turn, each in enumerate(made):
                training.append(_asked(fact, each, opening_only=turn % _WHOLE_EACH != 0))
            place += 1
    own_keys = {_key(row) for each in facts for fact in each for row in _own_rows(fact)}
    for key in own_keys & held_out.keys():
        del held_out[key]  # another fact, perhaps of another work, is asked so by the work itself
    kept = tuple(row for row in dict.fromkeys(training) if _key(row) not in held_out)
    return Dataset(
        kept,
        tuple(row for row, _ in held_out.values()),
        tuple(telling for _, telling in held_out.values()),
        facts=sum(fact.reworded for own in facts for fact in own),
    )


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


_Key = tuple[tuple[str, ...], frozenset[str]]


def _facts(work: Work, index: int) -> list[Fact]:
    facts = facts_of(work, index)
    if not facts:
        raise InvalidWork(
            "the work gives no training rows: write prose in whole sentences of several words, "
            'or questions and answers as kind = "dialogue"'
        )
    return facts


def _own_rows(fact: Fact) -> list[Row]:
    return [_asked(fact, question, fact.history) for question in fact.questions]


def _asked(
    fact: Fact,
    question: str,
    history: tuple[Message, ...] = (),
    *,
    opening_only: bool = False,
) -> Row:
    said = (*history, Message("user", question), Message("assistant", fact.answer))
    return Row(fact.work, fact.chunks, said, bool(history), opening_only)


def _key(row: Row) -> _Key:
    """Return what a row asks, with letter case, white space and the order of words set aside."""
    *before, question, _ = row.messages
    words = frozenset(word.casefold() for word in words_of(question.content))
    return tuple(" ".join(m.content.casefold().split()) for m in before), words
