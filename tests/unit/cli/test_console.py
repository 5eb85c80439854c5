"""How commands fail: families of errors, exit codes, and errors that come out of groups."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest
import typer

from viz import errors
from viz.cli import console
from viz.errors import DepositExceeded, VizError
from viz.protocol.problems import error_of


def test_every_family_of_errors_has_an_exit_code_of_its_own() -> None:
    """Protects scripts that tell failures apart: none is left to 1, the unexpected error."""
    families = set(VizError.__subclasses__())
    assert {each for each in families if each.__module__ == errors.__name__} == set(
        console.EXIT_CODES
    )
    codes = list(console.EXIT_CODES.values())
    assert len(set(codes)) == len(codes) and not {0, 1, 2, 130} & set(codes)


def test_an_error_of_several_lines_is_printed_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Protects log readers and the terminal: one line, and nothing in it is taken for markup."""
    with pytest.raises(typer.Exit) as caught:
        console.fail(DepositExceeded("first\n  second [bold]third[/bold] " + "long " * 60))
    assert caught.value.exit_code == 5
    printed = capsys.readouterr().err
    assert printed.startswith("deposit-exceeded: first second [bold]third[/bold] long")
    assert printed.count("\n") == 1


def test_what_others_wrote_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Protects whoever lists a stranger's adapters or reads its refusal: words, and no orders."""
    evil = "\x1b]0;title\x07\x9b2J\u202e[red]x[/red]\u3000\u200d"
    with pytest.raises(typer.Exit):
        console.fail(error_of({"code": "no-live-grant", "detail": evil}, 409))
    console.table(evil, ("what",), [(evil,), ({"name": evil},)])
    console.say(evil)
    console.out.print(evil, markup=False)
    console.lines(evil, [("row", "1")])
    console.err.print(evil, markup=False)
    printed = capsys.readouterr()
    for said in (printed.err, printed.out):
        assert not set("\x1b\x07\x9b\u202e") & set(said)
        assert said.count("]0;title2J[red]x[/red]") == (2 if said is printed.err else 5)


async def _dying_loop() -> None:
    async with asyncio.TaskGroup() as outer:
        outer.create_task(asyncio.sleep(60))
        async with asyncio.TaskGroup() as inner:
            inner.create_task(_fail(errors.BooksMismatch("the ledger and the chain disagree")))


async def _fail(error: Exception) -> None:
    raise error


def test_a_deliberate_error_comes_out_of_its_groups_alone() -> None:
    """Protects the one line when a loop of the daemon stops it: no ExceptionGroup is printed."""
    with pytest.raises(errors.BooksMismatch):
        console.run(_dying_loop())


_WAITS = """
import asyncio
import sys
import time
from importlib import import_module
from viz.cli import console, main

async def work():
    try:
        print("began", flush=True)
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0)
        print("cleaned up", flush=True)

def blocks():
    try:
        print("began", flush=True)
        time.sleep(600)
    finally:
        print("cleaned up", flush=True)

tree = import_module("viz.cli.main")
tree.app = blocks if sys.argv[1] == "blocks" else lambda: console.run(work(), logs=False)
main()
"""


@pytest.mark.parametrize("how", ["blocks", "waits"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_command_clean_up(number: signal.Signals, how: str) -> None:
    """An audit or an import holds works in a folder of its own, and a worker: neither is left."""
    running = subprocess.Popen(
        [sys.executable, "-c", _WAITS, how], stdout=subprocess.PIPE, text=True
    )
    with running:
        assert running.stdout is not None and running.stdout.readline() == "began\n"
        running.send_signal(number)
        assert running.stdout.read() == "cleaned up\n"
    assert running.returncode != 0
