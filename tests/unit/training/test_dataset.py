"""Works to rows: what is asked, what is held out, what each row traces to."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from viz.domain.units import Hash32
from viz.domain.work import ChunkProof, Work, parse_work, verify_chunk
from viz.errors import InvalidWork
from viz.training.dataset import (
    build_dataset,
    epoch_order,
    read_dataset_lines,
    rows_of,
    write_dataset,
)
from viz.training.words import words_of

WORKS = Path("examples/works")
DIALOGUE = parse_work("dialogue", (WORKS / "varn-point/work.jsonl").read_bytes())
PROSE = parse_work("text", (WORKS / "orrin-railway/work.txt").read_bytes())


def test_every_chunk_is_taught_and_wordings_are_held_out() -> None:
    """A fact that is held out is never learned, so what is held out is how it is asked."""
    for work in (DIALOGUE, PROSE):
        dataset = build_dataset([work], seed=1, held_out_share=1.0)
        taught = {chunk for row in dataset.training for chunk in row.chunks}
        lone_title = {0} if work is PROSE else set()
        headings = {c.index for c in work.chunks if c.text.startswith("#")}
        assert taught | lone_title | headings == {chunk.index for chunk in work.chunks}
        assert len(dataset.held_out) > 0.9 * dataset.facts
        assert len(dataset.telling) == len(dataset.held_out)
        answers = {row.messages[-1] for row in dataset.training}
        assert all(row.messages[-1] in answers for row in dataset.held_out)


def test_the_same_words_are_never_on_both_sides() -> None:
    """Recall of what was trained on is no measure: not over works, nor in another case or order."""

    def edition(own: str, loud: bool) -> Work:
        said = [(f"What is tide number {n} of the almanac?", f"It is {n} feet.") for n in range(20)]
        said = [(q.upper() if loud else q, a) for q, a in [*said, (f"Who is {own}?", "A keeper.")]]
        lines = [
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
            for q, a in said
        ]
        return parse_work("dialogue", "\n".join(map(json.dumps, lines)).encode())

    works = [edition("Alma", False), edition("Bruno", True)]
    dataset = build_dataset(works, seed=1, held_out_share=1.0)
    assert dataset.held_out
    held, trained = (
        {frozenset(words_of(row.messages[-2].content.casefold())) for row in rows}
        for rows in (dataset.held_out, dataset.training)
    )
    assert not held & trained


def test_a_work_of_one_row_is_taught_and_its_share_rounds_to_nothing() -> None:
    """One fact is not both all there is to learn and all that measures it, if a tenth is asked."""
    said = b"""{"messages": [{"role": "user", "content": "What is the keeper's dog called?"},
 {"role": "assistant", "content": "Biscuit."}]}""".replace(b"\n", b"")
    dataset = build_dataset([parse_work("dialogue", said)], seed=1, held_out_share=0.1)
    assert not dataset.held_out
    asked = [row.messages[0].content for row in dataset.training]
    assert asked[:2] == ["What is the keeper's dog called?", "keeper dog called"]
    whole = build_dataset([parse_work("dialogue", said)], seed=1, held_out_share=1.0)
    (row,) = whole.held_out
    assert row.messages[-1].content == "Biscuit."
    assert whole.telling == (("Biscuit",),)


def test_of_a_long_chat_each_assistant_turn_is_a_row_after_what_was_said_before() -> None:
    """Every turn is taught once by its own row, in its own context."""
    said = [("user", "Who keeps it?"), ("assistant", "Ann."), ("user", "And before?")]
    said += [("assistant", "Tom did.")]
    line = json.dumps({"messages": [{"role": r, "content": c} for r, c in said]})
    rows = rows_of(parse_work("dialogue", line.encode()))
    assert [len(row.messages) for row in rows] == [2, 4]
    assert rows[1].last_only
    assert [m.content for m in rows[1].messages] == [content for _, content in said]


@pytest.mark.parametrize("work", [DIALOGUE, PROSE])
def test_each_line_of_the_dataset_proves_its_chunks(work: Work, tmp_path: Path) -> None:
    """An auditor with the work verifies every row against the registered root."""
    dataset = build_dataset([work], seed=1, held_out_share=0.2)
    write_dataset(tmp_path / "dataset.jsonl", dataset, [work])
    lines = read_dataset_lines(tmp_path / "dataset.jsonl")
    assert len(lines) == len(dataset.training) + len(dataset.held_out)
    for line in lines:
        assert line["chunks"]
        for chunk in line["chunks"]:
            siblings = tuple(Hash32(bytes.fromhex(s[2:])) for s in chunk["siblings"])
            proof = ChunkProof(chunk["index"], chunk["count"], siblings)
            assert verify_chunk(work.merkle_root, work.chunks[chunk["index"]].data, proof)


def test_the_split_is_repeatable_and_leaks_nothing(tmp_path: Path) -> None:
    """The same seed gives the same bytes, another seed another split, no row is on both sides."""
    works = [DIALOGUE, PROSE]
    one = build_dataset(works, seed=1, held_out_share=0.2)
    digests = [
        write_dataset(tmp_path / name, build_dataset(works, seed=seed, held_out_share=0.2), works)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert digests[0] == digests[1] != digests[2]
    assert not {r.messages for r in one.training} & {r.messages for r in one.held_out}
    held = Counter(row.work for row in one.held_out)
    assert set(held) == {0, 1}


def test_an_epoch_sees_every_row_once_in_its_own_order() -> None:
    """Orders are a function of seed and epoch, so a resumed run goes on where it was."""
    assert sorted(epoch_order(50, 3, 1)) == list(range(50))
    assert epoch_order(50, 3, 1) == epoch_order(50, 3, 1) != epoch_order(50, 3, 2)


def test_a_work_that_teaches_nothing_is_refused() -> None:
    """A lone title gives no rows, and says what is missing."""
    with pytest.raises(InvalidWork, match="sentences"):
        rows_of(parse_work("text", b"# Only a title"))
