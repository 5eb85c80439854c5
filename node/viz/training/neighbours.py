"""Find other words for a word: those that are near it in the base model's embeddings.

Owns which words of the base's vocabulary stand near a word, by its spelling too. A base learned
from much text that "owns", "owner" and "possesses" go together. Who asks in other words than the
work uses mostly such words. Near words are not all synonyms
("coffee" and "tea"), so the caller leaves out those that its works use themselves.

Invariant: the same base gives the same words on every machine. Embeddings are rounded to integers
once; products of integers in float64 are exact, whatever the order of a sum. Distances are cosines
less the mean similarity of each word's nearest ones, so that words near to everything ("the",
"and") do not come first (Conneau et al., "Word Translation Without Parallel Data", 2018, CSLS).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import regex

if TYPE_CHECKING:
    import torch

    from viz.basemodel.source import LoadedBase

_WORD: Final = regex.compile(r" (\p{L}{3,})")
_MOST: Final = 8
_CANDIDATES: Final = 24
_MOST_OF_ITS_FAMILY: Final = 4
# Below these two words are as near as any two are.
_LEAST_ALIKE: Final = 0.36
_LEAST_ALIKE_IN_A_FAMILY: Final = 0.3
_LEAST_BEYOND_NEAREST: Final = -0.2
_LEVELS: Final = 1 << 10
_NEAREST: Final = 10
_SAMPLED: Final = 8
_LONGEST_ENDING: Final = 4
_SHORTEST_STEM: Final = 3
_UNKNOWN_ENDING: Final = 2


class Vocabulary(Protocol):
    """Words in lower case, and which are near a word."""

    @property
    def words(self) -> Sequence[str]:
        """Every word."""

    def near(self, word: str) -> tuple[str, ...]:
        """Return words near ``word``, nearest first; none where there is none."""


class Neighbours:
    """The vocabulary of a base; what is near a word is computed when asked for."""

    def __init__(self, token_bytes: Mapping[int, bytes], embeddings: torch.Tensor) -> None:
        """``embeddings`` has a row for each token (V x width)."""
        import torch

        self._places: dict[str, int] = {}
        tokens: list[int] = []
        for token, spelled in sorted(token_bytes.items()):
            found = _WORD.fullmatch(spelled.decode("utf-8", "ignore"))
            if found and found[1] == found[1].lower() and found[1] not in self._places:
                self._places[found[1]] = len(tokens)
                tokens.append(token)
        self._words = list(self._places)
        self._found: dict[str, tuple[str, ...]] = {}
        if not tokens:
            return
        rows = embeddings[torch.tensor(tokens)].double()
        rows -= rows.sum(0) / len(tokens)  # bf16 values: their sum is exact in float64
        self._rows = torch.round(rows * (_LEVELS / rows.abs().max()))
        self._lengths = (self._rows * self._rows).sum(1).sqrt().clamp_min(1)
        self._crowding = self._mean_of_nearest()

    @property
    def words(self) -> Sequence[str]:
        return self._words

    def near(self, word: str) -> tuple[str, ...]:
        """Return up to a dozen words near ``word``, nearest first; none where there is none."""
        if word not in self._found:
            self._found[word] = tuple(self._near(word) if word in self._places else self._kin(word))
        return self._found[word]

    def _near(self, word: str) -> list[str]:
        own = self._places[word]
        alike = self._cosines(own)
        beyond = 2 * alike - self._crowding - self._crowding[own]
        count = min(_CANDIDATES, len(self._words))
        ranked = sorted(beyond.topk(count).indices.tolist(), key=lambda p: (-float(beyond[p]), p))
        near = [
            self._words[place]
            for place in ranked
            if place != own
            and float(beyond[place]) >= _LEAST_BEYOND_NEAREST
            and float(alike[place]) >= _LEAST_ALIKE
        ][:_MOST]
        family = [
            kin
            for kin in self._kin(word)
            if kin not in near and float(alike[self._places[kin]]) >= _LEAST_ALIKE_IN_A_FAMILY
        ]
        return near + family[:_MOST_OF_ITS_FAMILY]

    def _kin(self, word: str) -> list[str]:
        """Return words that begin as ``word`` does and end otherwise: bake, baker, bakes."""
        if word in self._places:
            return [each for each in self._words if each != word and _one_family(each, word)]
        stem = word[:-_UNKNOWN_ENDING]
        if len(stem) < _SHORTEST_STEM:
            return []
        longest = len(word) + _UNKNOWN_ENDING
        return [w for w in self._words if w.startswith(stem) and len(w) <= longest][:_MOST]

    def _cosines(self, place: int) -> torch.Tensor:
        products = self._rows @ self._rows[place]
        return products / self._lengths / self._lengths[place]

    def _mean_of_nearest(self) -> torch.Tensor:
        """Return for each word its mean cosine with the nearest of every eighth word."""
        import torch

        sample = self._rows[::_SAMPLED]
        count = min(_NEAREST, len(sample))
        found = []
        for start in range(0, len(self._rows), 1024):
            products = self._rows[start : start + 1024] @ sample.T
            cosines = products / self._lengths[start : start + 1024, None]
            nearest = (cosines / self._lengths[::_SAMPLED]).topk(count).values
            total = nearest[:, 0].clone()
            for column in range(1, count):  # in this order on every machine
                total += nearest[:, column]
            found.append(total / count)
        return torch.cat(found)


class _NoWords:
    """The vocabulary of no base: rows can be counted without loading one."""

    words: Sequence[str] = ()

    def near(self, word: str) -> tuple[str, ...]:
        return ()


NONE: Final = _NoWords()


def neighbours_of(base: LoadedBase) -> Neighbours:
    """Return the words near each other to ``base``."""
    return Neighbours(base.tokenizer.token_bytes, base.embeddings())


def _one_family(one: str, other: str) -> bool:
    """Return whether all but an ending of the shorter word begins the other too."""
    same = 0
    for mine, its in zip(one, other, strict=False):
        if mine != its:
            break
        same += 1
    shorter = min(len(one), len(other))
    return (
        same >= max(_SHORTEST_STEM, shorter - 1) and abs(len(one) - len(other)) <= _LONGEST_ENDING
    )
