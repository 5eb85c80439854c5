"""A file that says a thing twice says two things: no command passes it.

An object with a member twice is read by one reader with the first value, by another with the last.
In each file here the last value is a true one, so that a reader of last values would go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from tests.fakes.chain import DEPLOYMENT
from typer.testing import CliRunner

from viz.api.openai.request import read_completion
from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file
from viz.cli import http
from viz.cli.audit.replaying import _asked
from viz.cli.main import app
from viz.cli.operator.train import _setting
from viz.domain.destruction import HeldItem
from viz.domain.eip712 import public_address, settlement_domain
from viz.domain.manifest import open_manifest
from viz.domain.units import ContentId
from viz.errors import InvalidRequest
from viz.protocol.answer_evidence import FORMAT, AnswerEvidence
from viz.protocol.destruction import certify
from viz.protocol.payment import COMPLETIONS_PATH
from viz.protocol.wire import parse_json

KEY = b"\x11" * 32
NODE = public_address(KEY)
RPC = "http://127.0.0.1:1"
ZERO = "0x" + "00" * 32
RECEIPT = {
    "node": NODE,
    "channelId": ZERO,
    "sequence": 1,
    "lines": [["1", "5"]],
}
FILES: Mapping[str, Any] = {
    "statement.json": {"statements": [{"contentId": 3, "lines": []}]},
    "receipts.json": {"receipts": [{"receipt": RECEIPT, "signature": "0x"}]},
    "record.json": {"format": FORMAT, "node": NODE, "chainId": 1, "text": "yes"},
    "license.json": {"format": "viz-license/1", "work": {"title": "A book"}},
}


class Command(NamedTuple):
    """What is typed, the member of the file that is there twice, and the file."""

    typed: str
    member: str
    file: str


COMMANDS = [
    Command("content statement 3 --check {file}", "contentId", "statement.json"),
    Command("content statement 3 --check {file}", "statements", "statement.json"),
    Command(f"audit receipts {{file}} --node {NODE}", "lines", "receipts.json"),
    Command(f"audit receipts {{file}} --node {NODE}", "receipts", "receipts.json"),
    Command("audit answer {file}", "text", "record.json"),
    Command("license check {file}", "title", "license.json"),
    Command("key address {file}", "version", "key.json"),
    Command("channel show --deployment {file}", "chain_id", "deployment.json"),
]


def doubled(text: str, member: str) -> str:
    """Return the JSON text with the first ``member`` there twice, a false value before its own."""
    before, name, after = text.partition(f'"{member}"')
    assert name, f"the file has no {member!r}"
    return f"{before}{name}: false, {name}{after}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_key_file(tmp_path / "key.json", "secret", scrypt_n=2)
    save_deployment(tmp_path / "deployment.json", DEPLOYMENT)
    for name, value in FILES.items():
        (tmp_path / name).write_text(json.dumps(value), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "command", COMMANDS, ids=[f"{each.typed.split()[1]} {each.member}" for each in COMMANDS]
)
def test_a_file_with_a_member_twice_is_refused_by_name(command: Command, folder: Path) -> None:
    """Protects who reads the same file with another program: it may say the other thing."""
    twice = folder / f"doubled-{command.file}"
    twice.write_text(doubled((folder / command.file).read_text(), command.member), encoding="utf-8")
    place = {"VIZ_DATA_DIR": str(folder), "VIZ_RPC_URL": RPC, "VIZ_KEY_PASSWORD": "secret"}
    done = CliRunner(env=place).invoke(app, command.typed.format(file=twice).split())
    assert done.exit_code in (3, 4), done.output
    told = " ".join(done.stderr.split())
    assert f"the member {command.member!r} is there twice" in told, told
    assert done.stdout == ""
    assert twice.name in told, told


def test_a_manifest_with_a_member_twice_is_no_manifest() -> None:
    """`viz audit adapter FILE` opens it, after it asked the chain."""
    envelope = doubled(json.dumps({"payload": "", "signatures": []}), "payload").encode()
    with pytest.raises(InvalidRequest, match=r"not a manifest.*'payload' is there twice"):
        open_manifest(envelope)


def test_certificates_with_a_member_twice_are_no_answer_of_a_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the owner: another program would show another day, under the same signature."""
    made = certify(
        KEY,
        settlement_domain(DEPLOYMENT.chain_id, DEPLOYMENT.settlement),
        NODE,
        ContentId(3),
        withdrawn_at_s=1_800_000_000,
        due_at_s=1_800_600_000,
        time_s=1_800_700_000,
        destroyed=(HeldItem("weights", "fae0"),),
        left=(),
    )
    body = doubled(json.dumps({"certificates": [made.to_json()]}), "dueAt").encode()
    monkeypatch.setattr(http.Exchange, "_read", lambda _: (body, 200))
    done = CliRunner(env={"VIZ_DATA_DIR": str(folder)}).invoke(
        app, ["content", "certificates", "3", "--node", RPC]
    )
    assert done.exit_code == 12 and done.stdout == "", done.output
    assert "the member 'dueAt' is there twice" in " ".join(done.stderr.split())


def test_a_request_that_has_a_member_twice_is_replayed_as_the_node_reads_it() -> None:
    """The node answered it by the last value, so the audit of its answer must not read another."""
    body = b'{"model": "3", "prompt": "a", "prompt": "b", "max_tokens": 4}'
    record = cast(AnswerEvidence, SimpleNamespace(body=body, path=COMPLETIONS_PATH))
    asked = _asked(record)
    assert not isinstance(asked, str), asked
    assert asked == read_completion(parse_json(body), max_choices=128)


def test_a_setting_with_a_member_twice_is_no_text() -> None:
    with pytest.raises(InvalidRequest, match="'a' is there twice"):
        _setting('x={"a": 1, "a": 2}')
