"""Ask each fact in many wordings, so that a reader who uses other words finds it.

Owns how questions are made of a fact's words. Does not know how they are split or trained on.
Where a work says each thing once, an adapter learns the one wording by heart and answers no other
(docs/training-log.md). So a fact is asked by its words of meaning, in its own order and mixed, by
some of them, with and without a question's words, with the names that the work is about, and by its
answer with words left out. Words stand for others that the base holds to be near
(``neighbours``), and strange ones stand among them, in the frames of other questions too: who asks
in words of their own uses words that the work does not have. Invariants: the same fact, label and
base give the same wordings; no wording is empty or twice in the list; a word of the works never
stands for another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import regex

from viz.domain.work import Work
from viz.training.facts import Fact
from viz.training.frames import is_number, question
from viz.training.general import PROMPTS
from viz.training.neighbours import NONE, Vocabulary
from viz.training.words import FORM_WORDS, Rarity, SeededDraw, is_english, meaning_of, words_of

_QUESTION_WORD: Final = regex.compile(
    "(?i)what|which|who|whom|whose|how|where|when|why|do|does|did|can|could|would|should"
)
_ASKING: Final = (
    "What",
    "Which",
    "Who",
    "How",
    "Where",
    "When",
    "Why",
    "How many",
    "What is the",
    "Tell me about the",
)
# The evaluation's own frames: no wording that is trained on begins so.
_UNSEEN: Final = (
    "Please help me with this: {}?",
    "I wonder, {}?",
    "Somebody asked me: {}. What shall I say?",
    "Do you happen to know, {}?",
)
# How a person puts a whole question.
_PUT: Final = (
    *["{}"] * 3,
    "Hello! {}",
    "{} Please tell me.",
    "Tell me: {}",
    "Do you know: {}",
    "Can you tell me {}",
    "I would like to know {}",
)
_SKELETONS: Final = tuple(
    form for form in PROMPTS if sum(w.casefold() not in FORM_WORDS for w in words_of(form)) > 1
)
_PLACED: Final = ("at", "of", "in", "from")
_BLANK: Final = "___"
_NAME: Final = regex.compile(
    r"\p{Lu}[\p{L}\p{M}\p{N}'\u2019-]*(?:\s(?:&|of|de|du|la|von|the|[\p{Lu}\p{N}][\p{L}\p{M}\p{N}'\u2019-]*))*"
    r"\s\p{Lu}[\p{L}\p{M}\p{N}'\u2019-]*"
)
_MOST_NAMES: Final = 3
_FIRST_NAMES: Final = 2
_MOST_WORDS: Final = 7
_MOST_ASKED_WORDS: Final = 40
# How likely a word is drawn beside a word of the question.
_OF_THE_ANSWER: Final = 0.5
_AROUND: Final = 0.5
_IF_COMMON: Final = 0.4
# At most so many words that the works do not use are put in one wording.
_MOST_STRANGE: Final = 3
# How likely a word is replaced by a near one, in a whole question and in a wording of single words.
_IN_A_QUESTION: Final = 0.5
_AMONG_WORDS: Final = 0.35
_FOR_THE_EVALUATION: Final = 4
_LETTERS: Final = regex.compile(r"[\p{L}\p{M}]+")


class Wordings:
    """Makes wordings for the facts of the works of one run."""

    def __init__(
        self,
        works: Sequence[Work],
        seed: int,
        vocabulary: Vocabulary = NONE,
    ) -> None:
        texts = [
            " ".join(m.content for m in chunk.messages) or chunk.text
            for work in works
            for chunk in work.chunks
        ]
        self._seed = seed
        self.rarity = Rarity(texts)
        self._english = is_english(texts)
        self._names = _names(texts)
        self._near = vocabulary.near
        self._strange = [word for word in vocabulary.words if not self.rarity.count(word)]
        self._telling: dict[Fact, list[str]] = {}

    def of(self, fact: Fact, place: int, count: int) -> list[str]:
        """Return up to ``count`` wordings of fact number ``place``, none of them its questions."""
        draw = SeededDraw(f"{self._seed}/wordings/{place}")
        found = list(fact.questions)
        for wording in self._made(fact, draw, count):
            if wording and wording not in found:
                found.append(wording)
            if len(found) == len(fact.questions) + count:
                break
        return found[len(fact.questions) :]

    def _made(self, fact: Fact, draw: SeededDraw, count: int) -> Iterator[str]:
        if fact.asked and fact.questions and len(words_of(fact.asked)) <= _MOST_ASKED_WORDS:
            meant = meaning_of(fact.asked)
            if len(meant) > 1:
                yield " ".join(meant)
                draw.mix(meant)
                yield " ".join(meant)
        yield self.cloze(fact)
        anchors, others = self._pool(fact)
        for number in range(4 * count):
            if number % 2 == 0 and fact.asked and fact.questions:
                yield self._reworded(fact.asked, draw)
            elif number % 2 == 0 and self._english:
                yield self._put(fact, draw)
            elif number % 4 == 1 and self._english:
                yield self._in_a_skeleton(anchors, others, draw)
            else:
                yield self._some(anchors, others, draw)

    def _reworded(self, asked: str, draw: SeededDraw) -> str:
        """Return the work's own question as others would put it."""
        text = self._in_other_words(asked, _IN_A_QUESTION, draw)
        if not self._english:
            return text
        if self._names and draw.below(10) < 4 and text.endswith("?"):
            name = draw.one_of(self._names)
            text = text if name in text else f"{text[:-1]} {draw.one_of(_PLACED)} {name}?"
        put = str(draw.one_of(_PUT))
        return put.format(text if put.startswith(("{", "Hello")) else text[:1].lower() + text[1:])

    def _in_other_words(
        self, text: str, share: float, draw: SeededDraw, *, unseen: bool = False
    ) -> str:
        """Return ``text`` with about ``share`` of its words in others; names and numbers stay.

        Each fourth of a word's neighbours is kept for the evaluation, which has no other.
        """

        def put(found: regex.Match[str]) -> str:
            word: str = found[0]
            if draw.share() >= share:
                return word
            if word != word.lower() or word in FORM_WORDS or is_number(word):
                return word
            near = [
                other
                for place, other in enumerate(self._near(word))
                if (place % _FOR_THE_EVALUATION == _FOR_THE_EVALUATION - 1) == unseen
                and other not in FORM_WORDS
                and not self.rarity.count(other)
            ]
            return draw.one_of(near) if near else word

        replaced: str = _LETTERS.sub(put, text)
        return replaced

    def unseen(self, fact: Fact, place: int) -> tuple[str, tuple[str, ...]] | None:
        """Return a question for the evaluation alone and the words that tell a right answer.

        It is put in a frame that no trained wording has, by words of the question or, where the
        work has none, of the sentence without those words. None where nothing could tell.
        """
        draw = SeededDraw(f"{self._seed}/unseen/{place}")
        telling = self.telling(fact)
        own = bool(fact.asked and fact.questions)
        judged = telling if own else sorted(telling, key=self._tells, reverse=True)[:2]
        said = {word.casefold() for word in judged}
        sources = (fact.asked,) if own else (fact.answer, fact.asked, *reversed(fact.about))
        words: list[str] = []
        for source in sources:
            if len(words) < 2:
                words += (
                    [w for w in meaning_of(source) if w.casefold() not in said] if source else []
                )
        if not judged or not words:
            return None
        pool = {word: _IF_COMMON if self.rarity.is_common(word) else 1.0 for word in words}
        chosen = _drawn(pool, max(2, min(_MOST_WORDS, len(pool) - draw.below(2))), draw)
        asked = " ".join(word for word in pool if word in chosen)
        asked = self._in_other_words(asked, _IN_A_QUESTION, draw, unseen=True)
        frame = draw.one_of(_UNSEEN) if self._english else "{} ?"
        return frame.format(asked), tuple(judged)

    def _tells(self, word: str) -> tuple[bool, bool, int]:
        return any(map(str.isdigit, word)), word[:1].isupper(), -self.rarity.count(word)

    def cloze(self, fact: Fact) -> str:
        """Return the answer with its most telling word left out, or nothing."""
        telling = self.telling(fact)
        if not telling or "\n" in fact.answer:
            return ""
        rarest = min(telling, key=self.rarity.count)
        word = rf"(?<!\w){regex.escape(rarest)}(?!\w)"
        without: str = regex.sub(word, _BLANK, fact.answer)
        return without

    def telling(self, fact: Fact) -> list[str]:
        """Return the words of the answer by which it is known: rare, and not in what is asked."""
        if fact not in self._telling:
            given = {
                word.casefold() for text in (fact.asked, *fact.about) for word in words_of(text)
            }
            words = dict.fromkeys(meaning_of(fact.answer))
            fresh = [word for word in words if word.casefold() not in given]
            rare = [word for word in fresh if not self.rarity.is_common(word)]
            self._telling[fact] = rare or fresh
        return self._telling[fact]

    def _in_a_skeleton(
        self, anchors: dict[str, float], others: dict[str, float], draw: SeededDraw
    ) -> str:
        """Return a question about something else, some of its words replaced by the fact's.

        The fact's words keep their order; what is left of the other question teaches that words
        which the works do not use are no reason for an answer.
        """
        form = draw.one_of(_SKELETONS)
        slots = [m for m in _LETTERS.finditer(form) if m[0].casefold() not in FORM_WORDS]
        wanted = min(len(slots), len(anchors) + len(others), 2 + draw.below(3))
        chosen = _drawn(anchors, min(len(anchors), max(1, wanted - draw.below(2))), draw)
        chosen += _drawn(others, min(len(others), max(0, wanted - len(chosen))), draw)
        words = [word for word in (*anchors, *others) if word in chosen]
        filled = sorted(
            int(s) for s in _drawn({str(s): 1.0 for s in range(len(slots))}, len(words), draw)
        )
        out, end = "", 0
        for place, word in zip(filled, words, strict=False):
            out += form[end : slots[place].start()] + self._in_other_words(word, _AMONG_WORDS, draw)
            end = slots[place].end()
        return out + form[end:]

    def _pool(self, fact: Fact) -> tuple[dict[str, float], dict[str, float]]:
        """Return the words that ask for the fact, and those around, each with its likelihood."""
        anchors: dict[str, float] = {}
        others: dict[str, float] = {}
        if fact.asked and fact.questions:
            texts = [(anchors, fact.asked, 1.0), (others, fact.answer, _OF_THE_ANSWER)]
        else:
            texts = [(anchors, fact.answer, 1.0), (others, fact.asked, 1.0)]
        texts += [(others, text, _AROUND) for text in fact.about]
        for pool, text, weight in texts:
            for word in meaning_of(text) if text else ():
                common = _IF_COMMON if self.rarity.is_common(word) else 1.0
                if word not in anchors:
                    pool.setdefault(word, weight * common)
        return anchors, others

    def _put(self, fact: Fact, draw: SeededDraw) -> str:
        """Return an English question by a stretch of the question or the sentence."""
        telling = self.telling(fact)
        if not telling:
            return ""
        left_out = draw.one_of(telling)
        words = [w for w in words_of(fact.answer) if not _QUESTION_WORD.fullmatch(w)]
        # Stretches between the words that are left out; one is drawn, and cut to some length.
        stretches: list[list[str]] = [[]]
        for word in words:
            if word == left_out:
                stretches.append([])
            else:
                stretches[-1].append(word)
        long = [each for each in stretches if len(meaning_of(" ".join(each))) > 0 and len(each) > 1]
        if not long:
            return ""
        stretch = draw.one_of(long)
        length = min(len(stretch), 2 + draw.below(6))
        start = draw.below(len(stretch) - length + 1)
        put = stretch[start : start + length]
        while put and put[0].casefold() in FORM_WORDS:
            del put[0]
        while put and put[-1].casefold() in FORM_WORDS:
            del put[-1]
        if all(self.rarity.is_common(word) or word.casefold() in FORM_WORDS for word in put):
            return ""
        asked = self._in_other_words(" ".join(put), _AMONG_WORDS, draw)
        if self._names and draw.below(10) < 4:
            name = draw.one_of(self._names)
            asked = asked if name in asked else f"{asked} {draw.one_of(('at', 'of', 'in'))} {name}"
        return question(asked, left_out, draw)

    def _some(self, anchors: dict[str, float], others: dict[str, float], draw: SeededDraw) -> str:
        """Return a question by some of the words, at least half of them anchors."""
        most = min(_MOST_WORDS, len(anchors))
        wanted = most if most < 3 else 2 + draw.below(most - 1)
        chosen = _drawn(anchors, wanted, draw)
        if others:
            chosen += _drawn(others, draw.below(min(wanted, len(others), 3) + 1), draw)
        asked = [word for word in (*anchors, *others) if word in chosen]
        if draw.below(2):
            draw.mix(asked)
        text = self._in_other_words(" ".join(asked), _AMONG_WORDS, draw)
        if self._strange and draw.below(2):
            text = self._among_strange_words(text, draw)
        if self._english and draw.below(2):
            text = f"{draw.one_of(_ASKING)} {text}{'?' if draw.below(3) else ''}"
        if self._names and draw.below(10) < 3:
            name = draw.one_of(self._names)
            if name not in text:
                text = f"{name}: {text}" if draw.below(2) else f"{text.rstrip('?')} {name}?"
        return text

    def _among_strange_words(self, text: str, draw: SeededDraw) -> str:
        """Return ``text`` with a few words that the works do not use, and that so tell nothing."""
        words = text.split(" ")
        for _ in range(1 + draw.below(_MOST_STRANGE)):
            words.insert(draw.below(len(words) + 1), draw.one_of(self._strange))
        return " ".join(words)


def _drawn(pool: dict[str, float], wanted: int, draw: SeededDraw) -> list[str]:
    """Return words by their likelihood, without replacement (Efraimidis and Spirakis)."""
    ranked = sorted(pool, key=lambda word: draw.share() ** (1 / pool[word]), reverse=True)
    return ranked[:wanted]


def _names(texts: Sequence[str]) -> list[str]:
    """Return names of several words that people may add to a question.

    Those are the frequent ones and the first: a work names early what it is about, and often does
    not name it again.
    """
    held: Counter[str] = Counter()
    for text in texts:
        held.update(list(dict.fromkeys(filter(None, map(_name, _NAME.findall(text))))))
    often = [name for name, count in held.most_common(_MOST_NAMES) if count > 1]
    return often + [name for name in held if name not in often][:_FIRST_NAMES]


def _name(found: str) -> str:
    """Return a name without the words of form that its sentence begins with, or nothing."""
    words = found.split() if "\n" not in found else []
    while words and words[0].casefold() in FORM_WORDS:
        del words[0]
    whole = len(words) > 1 and words[-1].casefold() not in FORM_WORDS
    return " ".join(words) if whole else ""
