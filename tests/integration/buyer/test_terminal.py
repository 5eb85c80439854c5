"""`viz buyer ask` at a node whose words are meant for the terminal, not for the reader."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.integration.api.harness import DEPOSIT, PAYER_KEY, running_node
from tests.integration.buyer.conftest import buying
from tests.integration.buyer.test_untrue_node import DONE, MODEL, Liar, said
from typer.testing import CliRunner, Result

from viz.buyer.control.commands import ChannelControl
from viz.cli.buyer import buyer as command
from viz.cli.main import app
from viz.domain.eip712 import public_address

# What each does to a terminal that obeys: colours, a title or a link and the clipboard (OSC), the
# same by one C1 byte, a bell, a return over what was written, text turned around or made invisible.
COMMANDS = (
    "\x1b[2J\x1b[31m",
    "\x1b]0;title\x07\x1b]8;;http://bad\x1b\\\x1b]52;c;cm0gLXJm\x07",
    "\x9b2J\x9d0;title\x9c\x85",
    "\x07\x08\r\x0b\x0c\x7f",
    "\u202a\u202b\u202c\u202d\u202e",
    "\u2066\u2067\u2068\u2069",
    "\u200e\u200f\u061c\u2028\u2029\ufeff\u00ad",
)
TEXT = "".join(f"a{each}b" for each in COMMANDS) + "[bold]c[/bold]\n\tné नमस्‍ते\u3000日本"
JOINERS = "\u200c\u200d"


def commands_in(printed: str) -> set[str]:
    """Return what a terminal might obey: controls, format characters, separators of lines."""
    return {
        letter
        for letter in printed
        if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp")
        and letter not in "\n\t" + JOINERS
    }


def ask_at(
    answer: Callable[[Liar], list[bytes]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *options: str,
) -> Result:
    """Run the command at a node that answers so."""

    @asynccontextmanager
    async def channel_control(*given: Any) -> AsyncIterator[ChannelControl]:
        (folder / "node").mkdir()
        async with running_node(folder / "node") as node, buying(node, folder / "b") as client:
            node.chain.balances[public_address(PAYER_KEY)] = 10**9
            await client.open_channel(PAYER_KEY, DEPOSIT)
            liar = Liar(client, monkeypatch)
            liar.answer = lambda: answer(liar)
            yield ChannelControl(client)

    monkeypatch.setattr(command, "channel_control", channel_control)
    words = ["buyer", "ask", "When?", "--model", MODEL, "--node", "http://node.test", *options]
    with capture_logs():  # the node's, which is in this process
        return CliRunner(env={"VIZ_KEY_PASSWORD": "p"}).invoke(app, words)


def test_nothing_in_an_answer_commands_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letters, lines and tabs are printed, with the joiners that scripts need; commands are not."""
    # Cut within sequences: what is harmless in each piece must be so in their sum.
    pieces = [TEXT[at : at + 3] for at in range(0, len(TEXT), 3)]
    done = ask_at(
        lambda liar: [*map(said, pieces), liar.receipt(TEXT, len(pieces)), DONE],
        tmp_path,
        monkeypatch,
    )
    assert done.exit_code == 0, done.output
    assert commands_in(done.stdout) == set()
    assert done.stdout.startswith("a[2J[31mba]0;title")
    assert "[bold]c[/bold]\n\tné नमस्‍ते\u3000日本\n" in done.stdout
    assert MODEL in done.stdout.splitlines()[-1]


def test_json_has_the_whole_answer_and_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program gets what was delivered and hashed; its escapes are JSON's, not the terminal's."""
    done = ask_at(
        lambda liar: [said(TEXT), liar.receipt(TEXT, 20), DONE], tmp_path, monkeypatch, "--json"
    )
    assert done.exit_code == 0, done.output
    assert commands_in(done.stdout) == set()
    assert json.loads(done.stdout)["text"] == TEXT


@pytest.mark.parametrize(
    "chunk",
    [
        {"error": {"code": "engine-error", "message": TEXT}},
        {"error": {"code": TEXT, "message": TEXT, TEXT: TEXT}},
        {"choices": [{"index": 0, "text": 7, "delta": None}]},
    ],
    ids=["an error", "an unknown error", "no chunk"],
)
def test_nothing_in_a_refusal_commands_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: dict[str, Any]
) -> None:
    """A node's reason is one line of letters, wherever it says it."""
    done = ask_at(
        lambda _: [b"data: " + json.dumps(chunk).encode() + b"\n\n"], tmp_path, monkeypatch
    )
    assert done.exit_code not in (0, 1) and done.stderr.count("\n") == 1, done.output
    assert commands_in(done.output) == set()


def test_a_chunk_without_choices_is_no_fault_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the ledger passes over, the printing passes over too."""
    odd = [{"choices": None}, {"choices": [{"index": 0, "delta": None, "text": "tide"}]}]
    frames = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in odd]
    done = ask_at(lambda liar: [*frames, liar.receipt("tide", 1), DONE], tmp_path, monkeypatch)
    assert done.exit_code == 0 and done.stdout.startswith("tide\n"), done.output
