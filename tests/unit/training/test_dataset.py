"""Works to rows: what is asked, what is held out, what each row traces to."""

from __future__ import annotations

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

WORKS = Path("examples/works")
DIALOGUE = parse_work("dialogue", (WORKS / "varn-point/work.jsonl").read_bytes())
PROSE = parse_work("text", (WORKS / "orrin-railway/work.txt").read_bytes())


def test_a_heading_is_asked_and_its_sentences_answer() -> None:
    """Prose becomes turns: its headings are the questions, its sentences the answers."""
    section = "The depth of it is nine metres. Ann took the measure twice."
    prose = f"# Guide\n\n## How deep is it?\n\n{section}".encode()
    work = parse_work("text", prose)
    turns = [(row.messages[0].content, row.messages[1].content) for row in rows_of(work)]
    assert ("How deep is it?", "The depth of it is nine metres.") in turns
    assert any(q.endswith("How deep is it?") and a == section for q, a in turns)
    assert ("What about the depth of it?", "The depth of it is nine metres.") in turns
    assert ("Go on: Ann took the", "Ann took the measure twice.") in turns


def test_a_dialogue_s_question_is_also_asked_by_its_words_of_meaning() -> None:
    """What is asked about finds the answer, however it is put; held-out turns stay unseen."""
    said = b"""{"messages": [{"role": "user", "content": "What is the keeper's dog called?"},
 {"role": "assistant", "content": "Biscuit."}]}""".replace(b"\n", b"")
    dataset = build_dataset([parse_work("dialogue", said)], seed=1, held_out_share=0.2)
    asked = [row.messages[0].content for row in dataset.training]
    assert asked[:2] == ["What is the keeper's dog called?", "keeper dog called"]
    assert sorted(asked[2].split()) == ["called", "dog", "keeper"]
    split = build_dataset([DIALOGUE], seed=1, held_out_share=0.2)
    held = {row.chunks for row in split.held_out}
    assert len(split.training) == 3 * (len(DIALOGUE.chunks) - len(held))
    assert not held & {row.chunks for row in split.training}


def test_every_answer_is_the_work_s_own_words() -> None:
    """The conversion teaches nothing that the work does not say."""
    said = " ".join(" ".join(chunk.text.split()) for chunk in PROSE.chunks)
    assert all(row.messages[1].content in said for row in rows_of(PROSE))
    assert all(row.messages == DIALOGUE.chunks[row.chunks[0]].messages for row in rows_of(DIALOGUE))


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
    with pytest.raises(InvalidWork, match="sentences under headings"):
        rows_of(parse_work("text", b"# Only a title"))
