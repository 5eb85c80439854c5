"""What is inside a sealed work, by a committed example and by what may be wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from viz.domain.ports.chain import ContentState
from viz.domain.questions import parse_questions
from viz.domain.units import ZERO_HASH, ContentId, parse_address, parse_hash
from viz.errors import CommitmentMismatch, InvalidRequest, InvalidWork, VizError
from viz.services.custody.sealed_works import MAX_RECORD_BYTES, opened_work, plain_bytes
from viz.storage.sealing import recipient_of, unseal_bytes, unwrap
from viz.storage.unixfs import root_of

VECTOR: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[3] / "vectors" / "sealed.json").read_text(encoding="utf-8")
)
PLAIN: Final[bytes] = VECTOR["plain"].encode()
CREATOR: Final = parse_address(VECTOR["creator"])


def content(**changes: Any) -> ContentState:
    """Return the work of the vector as the chain has it."""
    state = ContentState(
        ContentId(3), CREATOR, CREATOR, parse_hash(VECTOR["commitment"]), ZERO_HASH, 0
    )
    return replace(state, **changes)


def test_the_committed_example_opens_to_the_registered_work(tmp_path: Path) -> None:
    """A blob that was sealed once must open for ever, with its key, and under its CID."""
    sealed = bytes.fromhex(VECTOR["sealed"][2:])
    assert root_of(sealed) == VECTOR["cid"]
    assert recipient_of(VECTOR["key"]) == VECTOR["recipient"]
    wrapped = VECTOR["wrappedFor"]
    key = unwrap(bytes.fromhex(wrapped["wrappedKey"][2:]), wrapped["identity"])
    assert key == VECTOR["key"]
    (tmp_path / "sealed").write_bytes(sealed)
    plain = unseal_bytes(tmp_path / "sealed", key, max_bytes=len(PLAIN))
    assert plain == PLAIN
    opened = opened_work(plain, content())
    assert opened.raw.startswith(b"The keeper of Varn Point")
    assert opened.record.content_id == 3 and opened.record.creator == CREATOR
    (question,) = parse_questions(opened.questions)
    assert question.accepted == ("dusk",)


def test_what_is_sealed_is_what_is_opened() -> None:
    """Record, questions and file come back; signatures that are out do not travel."""
    opened = opened_work(PLAIN, content())
    again = plain_bytes(opened.record, opened.raw, opened.questions)
    assert opened_work(again, content()) == opened
    assert b'"signed":null' in again.partition(b"\n")[0]


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return the plain bytes with another record."""
    line, _, raw = PLAIN.partition(b"\n")
    record = json.loads(line)
    change(record)
    return json.dumps(record).encode() + b"\n" + raw


@pytest.mark.parametrize(
    ("plain", "error"),
    [
        (b"", InvalidWork),
        (PLAIN.partition(b"\n")[0], InvalidWork),
        (b"{}\n" + PLAIN.partition(b"\n")[2], InvalidWork),
        (b"[]\n", InvalidWork),
        (b" " * (MAX_RECORD_BYTES + 1) + b"\n", InvalidWork),
        (changed(lambda record: record.update(salt="0x" + "00" * 32)), CommitmentMismatch),
        (changed(lambda record: record.update(kind="film")), InvalidWork),
        (changed(lambda record: record.update(kind="dialogue")), InvalidWork),
        (changed(lambda record: record.update(questions=[{"id": 1}])), InvalidWork),
        (changed(lambda record: record.update(questions="all")), InvalidWork),
        (PLAIN + b"And one line more.\n", CommitmentMismatch),
        (PLAIN.replace(b"lamp", b"l\0mp"), InvalidWork),
    ],
)
def test_what_is_not_the_committed_work_is_refused(plain: bytes, error: type[VizError]) -> None:
    """A key holder who sealed something else is found out before anything is written."""
    with pytest.raises(error):
        opened_work(plain, content())


def test_a_file_name_from_the_record_is_never_used() -> None:
    """A record that names ../../.bashrc writes nothing there."""
    plain = changed(lambda record: record.update(file="../../.bashrc", creator="0x" + "11" * 20))
    record = opened_work(plain, content()).record
    assert record.file == "work.txt" and record.creator == CREATOR


def test_another_work_or_creator_of_the_chain_does_not_fit() -> None:
    """The commitment binds the creator: the same text of somebody else is another work."""
    for wrong in (content(commitment=ZERO_HASH), content(creator=parse_address("0x" + "11" * 20))):
        with pytest.raises(CommitmentMismatch):
            opened_work(PLAIN, wrong)


def test_what_cannot_be_sealed_is_said() -> None:
    """Before the work is registered, and with a record beyond its bound."""
    record = opened_work(PLAIN, content()).record
    with pytest.raises(InvalidRequest, match="register it"):
        plain_bytes(replace(record, content_id=None), b"text")
    with pytest.raises(InvalidRequest, match="shorten"):
        plain_bytes(replace(record, license={"text": "x" * MAX_RECORD_BYTES}), b"text")
    with pytest.raises(InvalidWork):
        plain_bytes(record, b"text", b"{}")
