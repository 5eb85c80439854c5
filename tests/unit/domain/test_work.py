"""Works: formats, chunks, Merkle tree and commitment."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from viz.domain.units import Hash32, parse_address
from viz.domain.work import (
    MAX_CHUNK_CHARS,
    MAX_CHUNKS,
    MAX_LINE_BYTES,
    MAX_MARKS,
    MAX_WORK_BYTES,
    ChunkProof,
    check_commitment,
    merkle_proofs,
    merkle_root,
    parse_work,
    verify_chunk,
)
from viz.errors import CommitmentMismatch, InvalidWork

CREATOR = parse_address("0x00000000000000000000000000000000000000aa")
SALT = bytes(range(32))
LINE = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'

MARKS = "\u2014" * 40 + "a" + "\u0300\u0316" * (MAX_MARKS // 2)
TWICE = LINE.replace('"content": "a"', '"content": "a", "content": "z"')


def _line(*roles: str, content: object = "x") -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role in roles]})


def test_the_commitment_is_the_abi_encoding_the_contracts_use() -> None:
    """A creator can recompute what the chain holds with any ABI library."""
    work = parse_work("text", b"One.\n\nTwo.\n\nThree.")
    leaves = [keccak(b"\0" + chunk) for chunk in (b"One.", b"Two.", b"Three.")]
    top = keccak(b"\1" + keccak(b"\1" + leaves[0] + leaves[1]) + leaves[2])
    root = keccak(b"\2" + bytes([0, 0, 0, 3]) + top)
    assert work.merkle_root == root
    expected = keccak(encode(["address", "bytes32", "bytes32"], [CREATOR, SALT, root]))
    assert work.commitment(CREATOR, SALT) == expected


def test_line_ends_and_composition_do_not_change_a_work() -> None:
    """The same prose saved by another editor is the same work."""
    one = parse_work("text", "Caf\u00e9\nbar\n\nnext".encode())
    two = parse_work("text", b"\xef\xbb\xbf" + "Cafe\u0301\r\nbar\r\n\r\n\r\nnext\r\n".encode())
    assert one.chunks == two.chunks


def test_key_order_and_spaces_do_not_change_a_dialogue() -> None:
    """The chunk is canonical JSON, not the line as typed."""
    other = '{"messages":[{"content":"a","role":"user"},{"content":"b","role":"assistant"}]}\n\n'
    assert (
        parse_work("dialogue", LINE.encode()).chunks
        == parse_work("dialogue", other.encode()).chunks
    )


def test_a_long_paragraph_is_cut_without_losing_a_word() -> None:
    """No chunk is longer than allowed, and the words stay in order."""
    words = [f"word{i}" for i in range(2_000)]
    work = parse_work("text", " ".join(words).encode())
    assert len(work.chunks) > 1
    assert all(len(chunk.text) <= MAX_CHUNK_CHARS for chunk in work.chunks)
    assert " ".join(chunk.text for chunk in work.chunks).split() == words


def test_line_breaks_tabs_and_every_script_are_taken() -> None:
    """The rule for characters refuses nothing that people write: joiners, marks, emoji, code."""
    for words in ("a\tb\nc", "a\r\nb", "می\u200cخواهم", "न\u200dम", "👩\u200d🔬", "é", "7"):
        dialogue = parse_work("dialogue", _line("user", "assistant", content=words).encode())
        assert dialogue.chunks[0].messages[1].content == unicodedata.normalize("NFC", words)
        assert parse_work("text", words.encode()).chunks


def test_every_example_work_parses() -> None:
    """The works that the demo registers are readable."""
    root = Path("examples/works")
    assert parse_work("text", (root / "orrin-railway/work.txt").read_bytes()).chunks
    for name in ("varn-point", "dunmallow-bakery"):
        work = parse_work("dialogue", (root / name / "work.jsonl").read_bytes())
        assert len(work.chunks) == 30


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=33), st.data())
def test_proofs_prove_their_chunk_and_nothing_else(
    chunks: list[bytes], data: st.DataObject
) -> None:
    """A proof fails for other bytes, another place, another count or another tree."""
    root, proofs = merkle_root(chunks), merkle_proofs(chunks)
    assert all(verify_chunk(root, c, p) for c, p in zip(chunks, proofs, strict=True))
    at = data.draw(st.integers(0, len(chunks) - 1))
    proof = proofs[at]
    assert not verify_chunk(root, chunks[at] + b"!", proof)
    assert not verify_chunk(merkle_root([*chunks, b"more"]), chunks[at], proof)
    assert not verify_chunk(root, chunks[at], ChunkProof(at, len(chunks) + 1, proof.siblings))
    longer = ChunkProof(at, len(chunks), (*proof.siblings, Hash32(bytes(32))))
    assert not verify_chunk(root, chunks[at], longer)
    other = data.draw(st.integers(0, len(chunks) - 1))
    if chunks[other] != chunks[at]:
        assert not verify_chunk(
            root, chunks[at], ChunkProof(other, len(chunks), proofs[other].siblings)
        )


def test_an_inner_node_is_not_a_chunk() -> None:
    """Leaves and nodes are hashed apart, so a shorter tree cannot pose as this one."""
    chunks = [b"a", b"b", b"c", b"d"]
    inner = [keccak(b"\0" + c) for c in chunks]
    assert merkle_root([inner[0] + inner[1], inner[2] + inner[3]]) != merkle_root(chunks)


def test_another_file_salt_or_creator_is_refused() -> None:
    """Training starts only on the very work that was registered."""
    work = parse_work("text", b"mine")
    committed = work.commitment(CREATOR, SALT)
    check_commitment(work, CREATOR, SALT, committed)
    other = parse_address("0x00000000000000000000000000000000000000bb")
    for found, creator, salt in (
        (parse_work("text", b"thine"), CREATOR, SALT),
        (work, other, SALT),
        (work, CREATOR, bytes(32)),
    ):
        with pytest.raises(CommitmentMismatch):
            check_commitment(found, creator, salt, committed)
    with pytest.raises(InvalidWork, match="32 random bytes"):
        work.commitment(CREATOR, b"short")


@pytest.mark.parametrize(
    ("kind", "raw", "says"),
    [
        ("text", b"", "empty"),
        ("text", b" \n\n \n", "empty"),
        ("text", b"\xff\xfe", "not UTF-8"),
        ("text", b"a\x00b", "control character"),
        ("text", b"x" * (MAX_WORK_BYTES + 1), "at most"),
        ("text", b"\n\n".join([b"x"] * 65_537), "at most 65536"),
        ("poem", b"x", "not a kind"),
        ("dialogue", b"\n\n", "empty"),
        ("dialogue", b"hello", "line 1: is not JSON"),
        ("dialogue", b"[" * 60_000, "line 1: is not JSON"),
        ("dialogue", (LINE + "\n[]").encode(), "line 2: must be an object"),
        ("dialogue", b'{"messages": "x"}', "must be a list"),
        ("dialogue", b'{"messages": [1, 2]}', "exactly"),
        ("dialogue", _line("user").encode(), "2 to"),
        ("dialogue", _line("user", "user").encode(), "in turn"),
        ("dialogue", _line("user", "assistant", "user").encode(), "in turn"),
        ("dialogue", LINE.replace('"user"', '["user"]').encode(), "in turn"),
        ("dialogue", _line("user", "assistant", content=" ").encode(), "line 1: .* is empty"),
        ("dialogue", _line("user", "assistant", content="\u200b").encode(), "line 1: .* is empty"),
        ("dialogue", _line("user", "assistant", content="\ufeff").encode(), "line 1: .* is empty"),
        ("dialogue", _line("user", "assistant", content="\u3164\xad").encode(), "is empty"),
        ("dialogue", _line("user", "assistant", content="a\0").encode(), "line 1: .* U\\+0000"),
        ("dialogue", _line("user", "assistant", content="\x1b[31mred").encode(), "U\\+001B"),
        ("dialogue", _line("user", "assistant", content="\x9b31mred").encode(), "U\\+009B"),
        ("dialogue", (LINE + "\n" + TWICE).encode(), "line 2: the member 'content' is there twice"),
        ("dialogue", b'{"messages": [], ' + LINE[1:].encode(), "'messages' is there twice"),
        ("text", "One.\n\n\u200b\n\nThree.".encode(), "paragraph 2: the text is empty"),
        ("text", b"One.\n\n\x1b[2J", "paragraph 2: .* U\\+001B"),
        ("dialogue", _line("user", "assistant", content=7).encode(), "not empty"),
        ("dialogue", _line("user", "assistant", content="\ud800").encode(), "surrogate"),
        ("dialogue", b"x" * (MAX_LINE_BYTES + 1), "longer than"),
        ("text", f"One.\n\n\n\n{MARKS}\u0316".encode(), "paragraph 2: .* 64 combining marks"),
        ("dialogue", _line("user", "assistant", content=MARKS + "\u0f73").encode(), "64 combining"),
    ],
)
def test_bad_works_are_refused_in_one_clear_line(kind: str, raw: bytes, says: str) -> None:
    """Whatever is wrong with the file, the creator learns what and where."""
    with pytest.raises(InvalidWork, match=says) as caught:
        parse_work(kind, raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "chunk"),
    [("text", "\u2014x\n\n".encode()), ("dialogue", LINE.encode() + b"\n")],
)
def test_chunks_are_counted_before_they_are_kept(kind: str, chunk: bytes) -> None:
    """A custodian opens the works of strangers: one of short pieces costs no more than others.

    Reading stops at the bound, before the control character behind it.
    """
    with pytest.raises(InvalidWork, match=f"at most {MAX_CHUNKS}"):
        parse_work(kind, chunk * (MAX_CHUNKS + 1) + b"\0")


def test_the_most_chunks_are_taken() -> None:
    """A long book with as many paragraphs as are allowed is a work."""
    assert len(parse_work("text", b"x\n\n" * MAX_CHUNKS).chunks) == MAX_CHUNKS


def test_what_is_no_mark_may_stand_in_a_row() -> None:
    """A line of dashes is no row of marks, and 64 marks are allowed."""
    assert parse_work("text", f"{MARKS}\n\n{chr(0x2014) * 500}".encode()).chunks


def test_every_letter_that_is_sorted_counts_as_a_mark() -> None:
    """NFC sorts the marks of a row; a mark that is not counted lets a row of any length through."""
    for letter in map(chr, range(0x80, sys.maxunicode + 1)):
        if unicodedata.combining(unicodedata.normalize("NFD", letter)[0]):
            with pytest.raises(InvalidWork, match="combining marks"):
                parse_work("text", f"a{letter * (MAX_MARKS + 1)}".encode())
