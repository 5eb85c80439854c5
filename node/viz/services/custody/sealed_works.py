"""Define what is inside a sealed work: its registration record, then its file.

The plain bytes are one line of canonical JSON, a line feed, and the file as it is. The line holds
the record that the creator keeps beside the work (with the salt, without signatures), and under
``questions`` the content of ``questions.json``, if there is one. So a trainer needs only the key to
check the work against the chain, and destroying the key destroys the salt too.

Invariant: what ``opened_work`` returns is the work that was committed to on the chain.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Final

from viz.domain.ports.chain import ContentState
from viz.domain.questions import parse_questions
from viz.domain.strict_json import load_json
from viz.domain.work import MAX_WORK_BYTES, Work, check_commitment, parse_work
from viz.errors import InvalidRequest, InvalidWork
from viz.protocol.wire import canonical_json
from viz.services.work_records import Registration

MAX_RECORD_BYTES: Final = 512 * 1024
MAX_PLAIN_BYTES: Final = MAX_RECORD_BYTES + 1 + MAX_WORK_BYTES
# File names that come from others are never used; the works' files get these names.
FILE_NAMES: Final = {"text": "work.txt", "dialogue": "work.jsonl"}


@dataclass(frozen=True, slots=True)
class OpenedWork:
    """A work that matches its commitment on the chain: its record and its file's bytes.

    ``questions`` is the content of the creator's questions.json; empty if there is none.
    """

    record: Registration
    work: Work
    raw: bytes
    questions: bytes = b""


def plain_bytes(record: Registration, raw: bytes, questions: bytes = b"") -> bytes:
    """Return the bytes to seal; ``questions`` is the creator's questions.json.

    Raises InvalidRequest if the record is too long or has no id, InvalidWork for invalid questions.
    """
    if record.content_id is None:
        raise InvalidRequest("the work is not registered yet: register it before it is sealed")
    said = replace(record, signed=None).to_json()
    if questions:
        said["questions"] = [asdict(each) for each in parse_questions(questions)]
    line = canonical_json(said)
    if len(line) > MAX_RECORD_BYTES:
        raise InvalidRequest(
            f"the work's record has {len(line)} bytes, at most {MAX_RECORD_BYTES} are sealed: "
            "shorten its license or its questions"
        )
    return line + b"\n" + raw


def opened_work(plain: bytes, content: ContentState) -> OpenedWork:
    """Return the work in the opened bytes of a sealed one.

    Raises InvalidWork if the bytes are not a sealed work's, CommitmentMismatch if it is not the
    work that ``content`` commits to.
    """
    line, feed, raw = plain.partition(b"\n")
    if not feed or len(line) > MAX_RECORD_BYTES:
        raise InvalidWork("the sealed work does not begin with its record")
    try:
        said = load_json(line)
        record = Registration.from_json(said)
        asked = canonical_json({"questions": said["questions"]}) if "questions" in said else b""
        if asked:
            parse_questions(asked)
    except (InvalidRequest, ValueError) as error:
        raise InvalidWork(f"the sealed work's record cannot be read: {error}") from error
    work = parse_work(record.kind, raw)
    check_commitment(work, content.creator, record.salt, content.commitment)
    return OpenedWork(
        replace(
            record,
            file=FILE_NAMES[record.kind],
            creator=content.creator,
            content_id=content.content_id,
            merkle_root=work.merkle_root,
            commitment=content.commitment,
            on_chain=True,
            signed=None,
        ),
        work,
        raw,
        asked,
    )
