"""Other words for a word: what a base's embeddings hold to be alike."""

from __future__ import annotations

import pytest
import torch

from viz.domain.work import parse_work
from viz.training.dataset import build_dataset
from viz.training.facts import facts_of
from viz.training.neighbours import Neighbours
from viz.training.wordings import Wordings
from viz.training.words import words_of

# A vocabulary of four subjects with six words each; words of a subject point the same way.
SUBJECTS = {
    "owns": ("owns", "owner", "possesses", "holds", "keeps", "belongs"),
    "bread": ("bread", "loaf", "bun", "roll", "toast", "crust"),
    "river": ("river", "stream", "brook", "creek", "canal", "ditch"),
    "music": ("music", "song", "tune", "melody", "hymn", "waltz"),
}


def _base() -> tuple[dict[int, bytes], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    names: dict[int, bytes] = {0: b"<s>", 1: b" The", 2: b"x"}
    rows = [torch.randn(32, generator=generator) for _ in names]
    for words in SUBJECTS.values():
        centre = torch.randn(32, generator=generator)
        for word in words:
            names[len(rows)] = f" {word}".encode()
            rows.append(centre + 0.4 * torch.randn(32, generator=generator))
    return names, torch.stack(rows).bfloat16()


@pytest.fixture(name="near")
def _near() -> Neighbours:
    return Neighbours(*_base())


def test_words_of_one_subject_are_near_each_other(near: Neighbours) -> None:
    """Who asks for the owner is answered by who owns it."""
    for words in SUBJECTS.values():
        found = near.near(words[0])
        assert found and set(found) <= set(words[1:])


def test_a_word_that_the_base_does_not_have_is_near_those_that_begin_alike(
    near: Neighbours,
) -> None:
    """A base knows "owner" and not "owners"; what is in no family has nothing near it."""
    assert near.near("owners") == ("owner",)
    assert near.near("zyxwv") == near.near("ab") == ()


def test_neither_threads_nor_the_order_of_tokens_decide_anything(near: Neighbours) -> None:
    """An audit on another machine must make the same rows: products of integers are exact."""
    names, table = _base()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again = Neighbours(dict(reversed(names.items())), table)
        assert {w: again.near(w) for w in near.words} == {w: near.near(w) for w in near.words}
    finally:
        torch.set_num_threads(threads)


def test_wordings_use_words_that_the_work_does_not_have(near: Neighbours) -> None:
    """And never one that it has, which would ask for another of its facts."""
    work = parse_work(
        "dialogue",
        b'{"messages": [{"role": "user", "content": "Who owns the old bread oven of the valley?"},'
        b' {"role": "assistant", "content": "The old bread oven of the valley is Tove\'s."}]}\n'
        b'{"messages": [{"role": "user", "content": "What song is sung at the loaf feast?"},'
        b' {"role": "assistant", "content": "The song of the loaf feast is a long one."}]}',
    )
    plain = {w.casefold() for c in work.chunks for m in c.messages for w in words_of(m.content)}
    wordings = Wordings([work], 7, near)
    first = facts_of(work)[0]
    asked = wordings.of(first, 0, 24)
    own = Wordings([work], 7).of(first, 0, 24)
    used = {word.casefold() for text in asked for word in words_of(text)}
    others = {"owner", "possesses", "holds", "keeps", "belongs", "bun", "roll", "toast", "crust"}
    assert used & others
    assert not used & {"loaf", "song"}
    assert asked != own
    assert others.isdisjoint(plain)


def test_what_measures_uses_words_that_no_row_teaches(near: Neighbours) -> None:
    """A neighbour that is kept for the evaluation stands in no training row as such."""
    work = parse_work(
        "dialogue",
        "\n".join(
            '{"messages": [{"role": "user", "content": "Who owns the river house ' + str(n) + '?"},'
            ' {"role": "assistant", "content": "River house ' + str(n) + " is Ann's.\"}]}"
            for n in range(12)
        ).encode(),
    )
    dataset = build_dataset([work], seed=7, held_out_share=1.0, vocabulary=near)
    kept = {near.near(word)[3] for word in ("owns", "river")}
    asked = {w for row in dataset.held_out for w in words_of(row.messages[-2].content)}
    assert asked & kept
