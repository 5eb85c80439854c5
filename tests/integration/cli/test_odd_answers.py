"""A page, or the JSON of another program, in answer to each command that asks a node."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT
from typer.testing import CliRunner

from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file, development_account
from viz.cli.main import app
from viz.cli.operator.answers import FORMS
from viz.errors import NodeRefused, NodeUnreachable

ROOT = Path(__file__).parents[3]
PASSWORD = "correct horse"
ALMA, TRAINER = str(development_account(3).address), str(development_account(4).address)
UNREACHABLE, REFUSED = NodeUnreachable.code, NodeRefused.code
NODE_FAILS = 12

ANSWERS = {
    "a page": (200, b"<html>back soon</html>", UNREACHABLE),
    "nothing": (200, b"", UNREACHABLE),
    "half": (200, b'{"node": "0x', UNREACHABLE),
    "a gateway's page": (502, b"<html>502</html>", UNREACHABLE),
    "a redirect": (301, b"<html>moved</html>", UNREACHABLE),
    "null": (200, b"null", REFUSED),
    "a list": (200, b'[{"owner": 1}]', REFUSED),
    "a number": (200, b"1e999", REFUSED),
    "a member twice": (200, b'{"node": "0x", "node": "0x"}', REFUSED),
    "another program": (200, b'{"status": "ok", "owner": null}', REFUSED),
}
HERE = ["--data-dir", "{home}"]
SIGNED = ["--key", "{home}/alma.json", "--node", "{node}", "--yes", *HERE]
COMMANDS = [
    ["content", "list", ALMA, "--node", "{node}", *HERE],
    ["content", "show", "1", "--node", "{node}", *HERE],
    ["content", "show", "1", "--node", "{node}", "--json", *HERE],
    ["wallet", "balance", ALMA, "--node", "{node}", *HERE],
    ["content", "search", "keeper", "--node", "{node}"],
    ["content", "keys", "1", "--node", "{node}"],
    ["content", "certificates", "1", "--node", "{node}", "--json", *HERE],
    ["license", "show", "--content", "1", "--node", "{node}"],
    ["content", "terms", "1", "{home}/work", *SIGNED],
    ["content", "approve", "1", TRAINER, *SIGNED],
    ["content", "withdraw", "1", *SIGNED],
    ["content", "register", "{home}/work", *SIGNED],
    ["content", "end-custody", "1", *SIGNED],
    ["adapter", "provenance", "1", "--node", "{node}"],
    ["adapter", "list", "--node", "{node}"],
    ["adapter", "show", "1", "--node", "{node}"],
    ["trust", "{node}", "--yes", "--data-dir", "{home}/new"],
    ["channel", "open", "1.50", "--key", "{home}/alma.json", "--node", "{node}", *HERE],
    ["status", "--node", "{node}", *HERE],
    ["content", "license", "1", "--node", "{node}", *HERE],
    ["settle", "--node", "{node}", *HERE],
    ["training", "list", "--node", "{node}", *HERE],
]


@dataclass
class OddServer:
    """Gives one answer to everything, and notes what was sent to it."""

    status: int = 200
    body: bytes = b""
    sent: list[bytes] = field(default_factory=list)
    url: str = ""


@pytest.fixture(scope="module")
def server() -> Iterator[OddServer]:
    odd = OddServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            odd.sent.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            self.send_response(odd.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(odd.body)))
            self.end_headers()
            self.wfile.write(odd.body)

        do_POST = do_DELETE = do_GET  # noqa: N815  the standard library's names

        def log_message(self, *_: object) -> None:
            return

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    odd.url = f"http://127.0.0.1:{running.server_port}"
    Thread(target=running.serve_forever, daemon=True).start()
    yield odd
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("home")
    save_deployment(made / "deployment.json", DEPLOYMENT)
    create_key_file(made / "alma.json", PASSWORD, account=development_account(3), scrypt_n=2)
    (made / "operator.token").write_text("a token")
    shutil.copytree(ROOT / "examples" / "works" / "varn-point", made / "work")
    return made


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: " ".join(each[:2]))
def test_an_answer_of_no_node_ends_a_command_in_one_line(
    server: OddServer,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    answer: str,
) -> None:
    """It was a traceback, or an error of the person who asked; nothing is signed for it."""
    monkeypatch.setenv("VIZ_KEY_PASSWORD", PASSWORD)
    server.status, server.body, code = ANSWERS[answer]
    server.sent.clear()
    words = [word.format(home=home, node=server.url) for word in command]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "500"})
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == NODE_FAILS, done.output
    said = done.output.strip().splitlines()[-1]
    assert said.startswith(f"{code}: ") and ("URL" in said or "again" in said), said
    assert not any(b"signature" in body for body in server.sent)


OPERATED = [
    ["status"],
    ["settle", "--collect"],
    ["content", "license", "1", "--max-fee", "2"],
    ["training", "list"],
    ["training", "show", "t1"],
    ["training", "cancel", "t1"],
    ["train", "1", "--dry-run"],
    ["adapter", "register", "t1"],
    ["adapter", "activate", "1", "--prompt-price", "2"],
    ["adapter", "permit", "1", ALMA],
    ["adapter", "revoke", "1", ALMA],
    ["adapter", "succeed", "1", "--dry-run"],
    ["notice", "list"],
    ["notice", "show", "1"],
    ["notice", "answer", "1", "reject", "--reason", "no"],
]
ODD: list[object] = [None, [], {}, "x", True, -1, 1.5, 10**400, [[1]], "9" * 100]


def _good(form: Any) -> Any:
    """An answer that has a form of pydantic's core."""
    kind = form["type"]
    if kind == "typed-dict":
        return {name: _good(field["schema"]) for name, field in form["fields"].items()}
    if kind == "tuple":
        return [_good(each) for each in form["items_schema"]]
    if kind == "list":
        return [_good(form["items_schema"])]
    if kind == "dict":
        return {"1": _good(form["values_schema"])}
    if kind == "nullable":
        return _good(form["schema"])
    return {"int": 6, "float": 6, "union": 6, "str": "done", "bool": True}[kind]


def _merged(answers: list[Any]) -> Any:
    """One answer that has the members of all."""
    found: dict[str, Any] = {}
    for each in answers:
        for name, value in each.items():
            before = found.get(name)
            if isinstance(value, dict) and isinstance(before, dict):
                found[name] = _merged([before, value])
            elif isinstance(value, list) and isinstance(value[0], dict) and before:
                found[name] = [_merged([before[0], value[0]])]
            else:
                found[name] = value
    return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each object or list in an answer, with each name or number in it."""
    names = value if isinstance(value, dict) else range(len(value))
    for name in names:
        yield value, name
        if isinstance(value[name], dict | list):
            yield from _places(value[name])


@pytest.mark.parametrize("command", OPERATED, ids=lambda each: " ".join(each[:2]))
def test_a_member_of_the_wrong_kind_ends_an_operators_command_in_one_line(
    server: OddServer, home: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """Wherever it is in the answer: it was a traceback within a table."""
    answer = _merged([_good(form) for form in FORMS.values()])
    words = [*command, "--node", server.url, "--data-dir", str(home)]
    monkeypatch.setattr("viz.cli.http.require_not_foreign", lambda *_: None)
    for number, (holder, name) in enumerate(_places(answer)):
        kept, holder[name] = holder[name], ODD[(number + len(words)) % len(ODD)]
        server.status, server.body = 200, json.dumps(answer).encode()
        done = CliRunner().invoke(app, words, env={"COLUMNS": "500"})
        assert done.exit_code in (0, NODE_FAILS), (name, holder[name], done.output, done.exception)
        holder[name] = kept
    server.body = json.dumps(answer).encode()
    done = CliRunner().invoke(app, words, env={"COLUMNS": "500"})
    assert done.exit_code == 0, (done.output, done.exception)


def test_a_member_of_the_wrong_kind_is_told_and_not_shown(
    server: OddServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`viz content show` printed whatever a node wrote into an owner, a time and the terms."""
    monkeypatch.setenv("VIZ_KEY_PASSWORD", PASSWORD)
    hash_, good = "0x" + "11" * 32, str(ALMA)
    work = f'"contentId": 1, "owner": "{good}", "creator": "{good}", "commitment": "{hash_}"'
    ends = ('"withdrawnAt": 0', '"withdrawnAt": "soon"', '"withdrawnAt": 0, "terms": {"uses": 1}')
    server.status = 200
    for number, end in enumerate(ends):
        server.body = f'{{{work}, "termsHash": "{hash_}", {end}}}'.encode()
        words = ["content", "show", "1", "--node", server.url, "--data-dir", str(home), "--json"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == (NODE_FAILS if number else 0), done.output
