"""Records of answers, as whoever has one may give them to an auditor."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.tiny_base import make_tiny_base
from tests.unit.audit.test_answer_audit import audited, record_of

from viz.audit.answer_audit import Judge
from viz.basemodel.source import LoadedBase
from viz.errors import InvalidRequest
from viz.protocol.answer_evidence import AnswerEvidence


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


RECORD_CHANGES: tuple[tuple[str, Any], ...] = (
    ("format", "viz-answer/2"), ("format", None), ("node", "0x1"), ("chainId", -1),
    ("chainId", 10**400), ("settlement", []), ("path", "/v1/models"), ("path", 7), ("body", None),
    ("text", "\ud800"), ("text", {}), ("finish", "cancelled"), ("receipt", None), ("receipt", []),
    ("receipt.lines", []), ("receipt.lines", [[7]]), ("receipt.lines", None),
    ("receipt.signature", 1), ("receipt.receipt", {}), ("receipt.requestSalt", "0x"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "value"), RECORD_CHANGES)
def test_every_member_of_a_record_is_checked_when_it_is_read(
    base: LoadedBase, name: str, value: Any
) -> None:
    """Whoever sends an auditor a record cannot end the audit with anything but a sentence."""
    record = record_of(base).to_json()
    *path, last = name.split(".")
    inside = record
    for each in path:
        inside = inside[each]
    for changed in ({**inside, last: value}, {k: v for k, v in inside.items() if k != last}):
        whole = {**record, path[0]: changed} if path else changed
        with pytest.raises(InvalidRequest):
            AnswerEvidence.read(json.dumps(whole).encode())


@pytest.mark.parametrize("signature", ["", "0x" + "ff" * 64, "0x" + "00" * 65])
def test_a_signature_that_is_none_is_a_finding(base: LoadedBase, signature: str) -> None:
    record = record_of(base).to_json()
    record["receipt"]["signature"] = signature
    read = AnswerEvidence.read(json.dumps(record).encode())
    assert "not signed by the node" in audited(read, Judge(base, None)).findings[0]


@pytest.mark.parametrize("where", [(), ("receipt",), ("receipt", "receipt")])
def test_a_member_that_no_signature_covers_is_a_finding(
    base: LoadedBase, where: tuple[str, ...]
) -> None:
    """Nobody may believe what somebody wrote beside a receipt."""
    record = record_of(base).to_json()
    inside = record
    for name in where:
        inside = inside[name]
    inside["tip"] = 1
    read = AnswerEvidence.read(json.dumps(record).encode())
    assert "a member 'tip'" in audited(read, Judge(base, None)).findings[0]


def test_a_long_answer_has_a_record_that_is_read(base: LoadedBase) -> None:
    """Long answers tell more about the weights than short ones."""
    record = replace(record_of(base), text="When is the lamp lit? " * 1_000)
    assert AnswerEvidence.read(json.dumps(record.to_json()).encode()) == record
