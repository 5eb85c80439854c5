"""Bad input to commands that need no node: one line that says what to do, and an own exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.fakes.chain import DEPLOYMENT
from typer.testing import CliRunner

from viz import node
from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file
from viz.cli.main import app
from viz.errors import ConfigError

CONFIG, INPUT = 3, 4
PASSWORD = "correct horse"


class Case(NamedTuple):
    """What is typed, and what must be answered. ``{0}`` in the arguments is the test's folder."""

    what: str
    arguments: str
    code: int
    name: str
    says: str
    environment: dict[str, str | None] = {}  # noqa: RUF012  read only


CASES = [
    Case("no key file", "key address {0}/none.json", INPUT, "invalid-key-file", "viz key new"),
    Case("no JSON", "key address {0}/text.json", INPUT, "invalid-key-file", "not a key file"),
    Case("no key", "key address {0}/list.json", INPUT, "invalid-key-file", "not a key file"),
    Case("a wrong password", "key address {0}/key.json", INPUT, "invalid-key-file",
         "the password does not open", {"VIZ_KEY_PASSWORD": "guess"}),
    Case("no password", "key address {0}/key.json", INPUT, "invalid-key-file",
         "--password-file", {"VIZ_KEY_PASSWORD": None}),
    Case("no password file", "key address {0}/key.json --password-file {0}/none", INPUT,
         "invalid-key-file", "none cannot be read"),
    Case("a password file that is no text", "key address {0}/key.json --password-file {0}/latin",
         INPUT, "invalid-key-file", "not UTF-8"),
    Case("no password file of the environment", "key address {0}/key.json", CONFIG, "config",
         "VIZ_KEY_PASSWORD_FILE", {"VIZ_KEY_PASSWORD_FILE": "/nowhere/password"}),
    Case("a password file that is named by nothing", "key address {0}/key.json", CONFIG, "config",
         "VIZ_KEY_PASSWORD_FILE is set and names no file", {"VIZ_KEY_PASSWORD_FILE": ""}),
    Case("a key that is there", "key new {0}/key.json", INPUT, "invalid-key-file",
         "exists already"),
    Case("no settings file", "node --config {0}/none.toml", CONFIG, "config", "cannot be read"),
    Case("settings that are no TOML", "node --config {0}/text.json", CONFIG, "config", "not TOML"),
    Case("an unknown setting", "node --config {0}/unknown.toml", CONFIG, "config",
         "setting api.prot: unknown key"),
    Case("an unknown setting, with viz up", "up --config {0}/unknown.toml", CONFIG, "config",
         "setting api.prot: unknown key"),
    Case("an unknown setting of the environment", "node", CONFIG, "config",
         "setting api.prot: unknown key", {"VIZ_API__PROT": "1"}),
    Case("a section that is no section", "node", CONFIG, "config", "VIZ_", {"VIZ_API": "1,"}),
    Case("a port that is none", "node --port 70000", CONFIG, "config", "setting api.port"),
    Case("a secret in the settings", "node --config {0}/secret.toml", CONFIG, "config",
         "VIZ_KEY_PASSWORD_FILE"),
    Case("no operator's token", "status --data-dir {0}/none", CONFIG, "config", "--data-dir"),
    Case("no deployment", "channel show --data-dir {0}/none", CONFIG, "config",
         "no deployment file"),
    Case("half a deployment", "buyer ask hi --deployment {0}/half.json", CONFIG, "config",
         "not a complete deployment"),
    Case("an address that is none", "testnet fund 0x12 --tokens 1 --data-dir {0}", INPUT,
         "invalid-request", "0x12"),
    Case("a duration that is none", "testnet pass 25", INPUT, "invalid-request", "25h"),
    Case("an amount that is none",
         "testnet fund 0x00000000000000000000000000000000000000AA --tokens 1,5 --data-dir {0}",
         INPUT, "invalid-request", "1,5"),
    Case("a node's address that is none", "buyer ask hi --node nowhere --data-dir {0}", CONFIG,
         "config", "http://host:port"),
    Case("a training setting that is none", "train {0}/text.json --set steps --data-dir {0}", INPUT,
         "invalid-request", "NAME=VALUE"),
    Case("a work without its terms", "train {0} --data-dir {0}", INPUT, "invalid-work",
         "terms.toml"),
    Case("a share that is none", "adapter register a --share 1 --data-dir {0}", INPUT,
         "invalid-request", "WORK:BPS"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of every wrong kind, and a good key and deployment."""
    create_key_file(tmp_path / "key.json", PASSWORD, scrypt_n=2)
    save_deployment(tmp_path / "deployment.json", DEPLOYMENT)
    (tmp_path / "operator.token").write_text("token\n", encoding="utf-8")
    (tmp_path / "latin").write_bytes("pässword".encode("latin-1"))
    files = {
        "text.json": "this is = no JSON, [no TOML",
        "list.json": "[1, 2]",
        "half.json": json.dumps({"chain_id": 1}),
        "unknown.toml": "[api]\nprot = 1\n",
        "secret.toml": "key_password = 'x'\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_a_bad_command_gets_one_line_and_an_exit_code(case: Case, folder: Path) -> None:
    """Protects whoever mistypes: no trace, the remedy named, nothing on the disk touched."""
    before = _contents(folder)
    given = {"VIZ_KEY_PASSWORD": PASSWORD, "VIZ_KEY_PASSWORD_FILE": None, "VIZ_DATA_DIR": None}
    environment: dict[str, Any] = given | case.environment
    done = CliRunner(env=environment).invoke(app, case.arguments.format(folder).split())
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == case.code, done.output
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"{case.name}: "), done.stderr
    assert case.says in done.stderr, done.stderr
    assert "guess" not in done.stderr and PASSWORD not in done.stderr
    assert _contents(folder) == before


def test_a_node_in_an_empty_folder_is_told_how_to_begin_whatever_its_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newcomer's first fault is the missing node; a taken port would lead them astray."""

    def taken(host: str, port: int) -> None:
        raise ConfigError(f"{host}:{port} is taken")

    monkeypatch.setattr(node, "refuse_taken_port", taken)
    command = ["node", "--data-dir", str(tmp_path)]
    done = CliRunner(env={"VIZ_KEY_PASSWORD": PASSWORD}).invoke(app, command)
    assert done.exit_code == CONFIG and "there is no node in" in done.stderr, done.output
    assert "viz up" in done.stderr and "taken" not in done.stderr
    assert not _contents(tmp_path)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
