"""How far a work's training wordings reach towards people's questions, without any training.

``python benchmarks/wordings.py WORK... [--base DIRECTORY]``: each WORK is a folder with a work and
its ``questions.json``. Each fact has the words of all wordings in which it is trained on. A
question counts the words that it shares with each fact, rare ones more, and finds the fact that
shares most. Printed are, for people's questions and for those of the run's own measure, how many of
their words of meaning their fact's wordings hold, and how often the fact stands first, or among
three. What words do not tell apart an adapter must know from its base, so this shows a conversion's
reach before it costs an hour. Needs the base, whose embeddings say which words are near.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from viz.basemodel.source import load_base
from viz.domain.questions import is_right
from viz.training.dataset import build_dataset
from viz.training.neighbours import Neighbours, neighbours_of
from viz.training.words import meaning_of

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from benchmarks.teaching import read_works, untrained  # noqa: E402

_AMONG: Final = 3
_Words = Mapping[str, set[str]]


@dataclass(frozen=True, slots=True)
class Reach:
    """Of ``asked`` questions the mean share of words that was seen, and how their facts rank."""

    asked: int
    seen: float
    first: int
    among: int


def main() -> None:
    chosen = untrained(__doc__)
    near = neighbours_of(load_base(chosen.base, cache_dir=chosen.cache))
    print(f"work | questions | asked | words seen | fact first | among {_AMONG}")
    for folder in chosen.works:
        for whose, found in reaches(folder, chosen.seed, near):
            share = f"{found.seen:.2f} | {found.first} | {found.among}"
            print(f"{folder.name} | {whose} | {found.asked} | {share}", flush=True)


def reaches(folder: Path, seed: int, near: Neighbours) -> list[tuple[str, Reach]]:
    """Return the reach of a work's wordings to people's questions, and to those of the measure."""
    works, questions = read_works([folder])
    dataset = build_dataset(works, seed=seed, held_out_share=1.0, vocabulary=near)
    facts: dict[str, set[str]] = defaultdict(set)
    for row in dataset.training:
        facts[row.messages[-1].content] |= _meaning(row.messages[-2].content)
    theirs = [(each.question, [a for a in facts if is_right(each, a)]) for each in questions]
    own = [(r.messages[-2].content, [r.messages[-1].content]) for r in dataset.held_out]
    return [("people's", reach(theirs, facts)), ("the measure's", reach(own, facts))]


def reach(asked: Sequence[tuple[str, Sequence[str]]], facts: _Words) -> Reach:
    """Return how far ``facts``, each answer's seen words, reach to questions of known answers."""
    facts_with = Counter(word for words in facts.values() for word in words)
    weight = {word: math.log(1 + len(facts) / count) for word, count in facts_with.items()}
    seen, ranks = 0.0, []
    for question, right in asked:
        words = _meaning(question)
        shared = {a: sum(weight[w] for w in words & have) for a, have in facts.items()}
        best = max((shared[a] for a in right if a in facts), default=0.0)
        if not best:
            ranks.append(len(facts))
            continue
        seen += max(len(words & facts[a]) / len(words) for a in right if a in facts)
        ranks.append(sum(of > best for a, of in shared.items() if a not in right))
    count = len(asked)
    first, among = sum(not rank for rank in ranks), sum(rank < _AMONG for rank in ranks)
    return Reach(count, seen / max(1, count), first, among)


def _meaning(text: str) -> set[str]:
    return {word.casefold() for word in meaning_of(text)}


if __name__ == "__main__":
    main()
