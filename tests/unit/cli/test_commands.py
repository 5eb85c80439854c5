"""Every command of the tree, walked: JSON for scripts, help for people, exit codes for errors.

A command that is added without them fails here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from viz.cli import console
from viz.cli.main import app

USAGE, CONFIG, INPUT, PAYMENT = 2, 3, 4, 5
NOWHERE = "--data-dir {0}/none"


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its whole name."""
    children: dict[str, Any] = getattr(command, "commands", {})
    if not children or getattr(command, "invoke_without_command", False):
        yield name.strip(), command
    for each, child in children.items():
        yield from leaves(child, f"{name} {each}")


COMMANDS = dict(leaves(get_command(app)))
# The likeliest wrong use of each, as far as it needs no chain and no node: test_bad_input.py and
# tests/e2e/test_bad_input.py have what needs them.
WRONG = {
    "up": ("--rpc-port 99999", USAGE),
    "node": ("--config {0}/none.toml", CONFIG),
    "node announce": (NOWHERE, CONFIG),
    "node withdraw": (NOWHERE, CONFIG),
    "status": ("--node 127.0.0.1:8402 --data-dir {0}", CONFIG),
    "train": ("{0} --royalty-bps 10001", USAGE),
    "training list": (NOWHERE, CONFIG),
    "training show": (f"run {NOWHERE}", CONFIG),
    "training watch": (f"run {NOWHERE}", CONFIG),
    "training cancel": (f"run {NOWHERE}", CONFIG),
    "settle": (NOWHERE, CONFIG),
    "trust": ("nowhere --data-dir {0}", CONFIG),
    "key new": ("{0}/operator.token/key.json", INPUT),
    "key address": ("{0}", INPUT),
    "content register": ("{0} --key {0}/none.json", INPUT),
    "content publish": ("{0} --key {0}/none.json", INPUT),
    "content keys": ("0", USAGE),
    "content search": ("tide --node nowhere", CONFIG),
    "content check": ("{0}/none.txt", INPUT),
    "content import": ("{0}/none.txt", INPUT),
    "content license": ("-- -1", USAGE),
    "content show": ("0", USAGE),
    "license new": ("{0} --preset royal", INPUT),
    "license check": ("{0}/none.toml", INPUT),
    "license show": ("{0}/none.toml", INPUT),
    "license export": ("{0}/none.toml", USAGE),
    "content list": ("nobody --deployment {0}/none.json", CONFIG),
    "content terms": ("1 {0} --key {0}/none.json", INPUT),
    "content approve": ("1", USAGE),
    "content withdraw": ("0 --key {0}/none.json", USAGE),
    "content transfer": ("1 0x12 --key {0}/none.json --deployment {0}/none.json", CONFIG),
    "content enforce": ("1 --deployment {0}/none.json", CONFIG),
    "content royalties": ("1 --deployment {0}/none.json", CONFIG),
    "content statement": ("1 --deployment {0}/none.json", CONFIG),
    "content end-custody": ("1 --key {0}/none.json --deployment {0}/none.json", CONFIG),
    "content certificates": ("1 --deployment {0}/none.json", CONFIG),
    "content notice": ("no --kind other --key {0}/none.json", INPUT),
    "notice list": (NOWHERE, CONFIG),
    "notice show": (f"1 {NOWHERE}", CONFIG),
    "notice answer": (f"1 reject --reason no {NOWHERE}", CONFIG),
    "wallet balance": ("--deployment {0}/none.json", CONFIG),
    "channel open": ("2.50", USAGE),
    "channel show": (NOWHERE, CONFIG),
    "channel receipts": (f"{{0}}/receipts.json {NOWHERE}", CONFIG),
    "channel close": ("--key {0}/none.json", INPUT),
    "channel forgive": (NOWHERE, CONFIG),
    "channel renew": ("--deployment {0}/none.json", CONFIG),
    "channel leave": ("--key {0}/none.json --deployment {0}/none.json", CONFIG),
    "buyer ask": ("hi --max-tokens 0", USAGE),
    "buyer models": (NOWHERE, CONFIG),
    "buyer spending": (NOWHERE, CONFIG),
    "buyer proxy": ("--port 99999", USAGE),
    "adapter list": ("--node nowhere", CONFIG),
    "adapter show": ("first", USAGE),
    "adapter register": ("run --share 1 --data-dir {0}", INPUT),
    "adapter activate": ("1 --title 1 --data-dir {0}", INPUT),
    "adapter permit": ("1 nobody --data-dir {0}", INPUT),
    "adapter revoke": ("1 nobody --data-dir {0}", INPUT),
    "adapter drop": ("0", USAGE),
    "adapter provenance": ("1 --format spdx", USAGE),
    "adapter succeed": ("0", USAGE),
    "storage gc": ("--config {0}/none.toml", CONFIG),
    "storage verify": ("--config {0}/none.toml", CONFIG),
    "audit node": ("http://127.0.0.1:9 --key {0}/none.json --deployment {0}/none.json", CONFIG),
    "audit answer": ("{0}/none --deployment {0}/none.json", CONFIG),
    "audit adapter": ("1 {0} --manifest {0}/none", INPUT),
    "base export": ("{0}/new --base-digest 0x12", INPUT),
    "audit payouts": ("--deployment {0}/none.json", CONFIG),
    "audit receipts": ("{0}/none.json --node 0x12 --deployment {0}/none.json", CONFIG),
    "testnet run": ("--data-dir {0}/operator.token", CONFIG),
    "testnet pass": ("a day", USAGE),
    "testnet fund": ("0x12", CONFIG),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_json_and_says_what_it_does(name: str) -> None:
    """Protects scripts and newcomers: no command is left out of either."""
    options = {option for each in COMMANDS[name].params for option in each.opts}
    assert "--json" in options
    assert all(each.help for each in COMMANDS[name].params if each.name != "help")
    assert (COMMANDS[name].help or "").strip().endswith((".", ")"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_chain_s_url_may_stand_in_the_environment_for_every_command(name: str) -> None:
    """The buyer's commands ignored VIZ_RPC_URL, and said that only the node says so."""
    for each in COMMANDS[name].params:
        if {"--rpc", "--rpc-url"} & set(each.opts):
            assert each.envvar == "VIZ_RPC_URL"


def test_every_command_has_its_wrong_use_in_the_table() -> None:
    """Protects the table below from a command that nobody has used wrongly yet."""
    assert set(WRONG) == set(COMMANDS)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_use_is_answered_not_traced(name: str, tmp_path: Path) -> None:
    """Protects whoever errs: the documented exit code, nothing on standard output, no trace."""
    (tmp_path / "operator.token").write_text("token\n", encoding="utf-8")
    arguments, code = WRONG[name]
    given: dict[str, Any] = {"VIZ_KEY_PASSWORD": "p", "VIZ_NODE_URL": None, "VIZ_DATA_DIR": None}
    words = [*name.split(), *arguments.format(tmp_path).split()]
    done = CliRunner(env=given).invoke(app, words)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code in console.MEANINGS, done.output
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert code == USAGE or done.stderr.count("\n") == 1, done.stderr


def test_help_says_what_the_exit_codes_mean() -> None:
    """Protects scripts that branch on them: each code is in `viz --help` with its meaning."""
    said = " ".join(CliRunner().invoke(app, ["--help"]).stdout.split())
    assert set(console.EXIT_CODES.values()) < set(console.MEANINGS)
    for code, meaning in console.MEANINGS.items():
        assert f"{code} {meaning}" in said


def test_a_command_that_runs_on_prints_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Protects whoever reads a daemon's first line: the value is whole when the line is."""
    assert console.show({"url": "http://here", "more": [1, 2]}, as_json=True, runs_on=True)
    assert capsys.readouterr().out == '{"url": "http://here", "more": [1, 2]}\n'
    assert not console.show({}, as_json=False) and capsys.readouterr().out == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_an_empty_value_is_wrong_usage(name: str) -> None:
    """A script whose variable is not set must not turn a check off, or use the present folder.

    Each option and argument is tried alone, and the one at fault is named.
    """
    params = [each for each in COMMANDS[name].params if not getattr(each, "is_flag", False)]
    arguments = [each for each in params if each.param_type_name == "argument"]
    filled = ["1" for each in arguments]
    for each in params:
        words = [*name.split(), *filled]
        if each in arguments:
            words[len(name.split()) + arguments.index(each)] = ""
            told = str(each.metavar or each.name)
        else:
            words += [each.opts[0], ""]
            told = str(each.opts[0])
        others = [
            word
            for other in params
            if other is not each and other not in arguments and other.required
            for word in (other.opts[0], "other" if other.opts[0] == "--kind" else "1")
        ]
        done = CliRunner().invoke(app, [*words, *others])
        assert done.exit_code == USAGE and told in done.output, (words, done.output)
        assert "the value is empty" in " ".join(done.output.replace("│", " ").split()), words
    if name in ("content show", "content statement", "content license", "adapter show"):
        done = CliRunner().invoke(app, [*name.split(), str(2**256)])
        assert done.exit_code == USAGE and "less than or equal to" in done.output
    if name in ("content import", "content check", "license new"):
        done = CliRunner().invoke(app, [*name.split(), ""])
        assert done.exit_code == USAGE and "the value is empty" in done.output
