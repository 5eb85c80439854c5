"""`viz up` as the README shows it: its own commands, a Ctrl-C, and the same again after it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from examples.demo.world import World
from tests.e2e import readme
from tests.e2e.conftest import new_world

from viz.protocol.payment import Challenge

pytestmark = pytest.mark.timeout(900)

OPERATORS, BUYERS = "For node operators", "For buyers"
FIRST: Final = ("viz key new", "viz testnet fund", "viz channel open", "viz buyer ask")
STOP_S: Final = 60
MARK: Final = "STARTED_FOR"


class Home:
    """A folder in which the README is followed to the letter, on ports of its own."""

    def __init__(self, world: World) -> None:
        self.world, self.folder = world, world.folder
        self.model, self.cwd = "", world.folder

    @property
    def environment(self) -> dict[str, str]:
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return self.world.environment() | {
            "PATH": programs,
            "VIZ_NODE_URL": self.world.node_url,
            "VIZ_RPC_URL": self.world.rpc_url,
        }

    def adapted(self, text: str) -> str:
        """Change of the README only what differs here: ports, and the name of a trained adapter."""
        places = {"http://127.0.0.1:8402": self.world.node_url,
                  "http://127.0.0.1:8403/v1": self.world.proxy_url,
                  "http://127.0.0.1:8545": self.world.rpc_url,
                  "viz-adapter-1": self.model}  # fmt: skip
        for theirs, ours in places.items():
            text = text.replace(theirs, ours)
        return text

    def run(self, command: str) -> str:
        """Run one of the README's commands in a shell; return what it printed."""
        done = subprocess.run(
            ["bash", "-c", self.adapted(command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            env=self.environment,
            cwd=self.cwd,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, command: str, name: str) -> Iterator[list[str]]:
        """Run a command that keeps running; yield what it prints until it is ready.

        Ctrl-C ends it: the whole foreground group gets the signal. It must leave with 0, and leave
        none of its processes behind.
        """
        mark = f"{self.folder}/{name}"
        with (self.folder / f"{name}.err").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment | {MARK: mark},
                cwd=self.cwd,
                start_new_session=True,
            )
        assert process.stdout is not None
        lines: list[str] = []
        try:
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith(("Stop with Ctrl-C", "OPENAI_BASE_URL", "{")):
                    break
            assert process.pid in marked(mark)
            yield lines
        finally:
            os.killpg(process.pid, signal.SIGINT)
            code = process.wait(STOP_S)
            process.stdout.close()
        errors = (self.folder / f"{name}.err").read_text(encoding="utf-8")
        assert code == 0 and "Traceback" not in errors, errors
        assert not marked(mark), f"{command} left processes behind"

    def up(self, *more: str) -> str:
        (command,) = readme.commands(OPERATORS, "viz up")
        ports = f"--port {self.world.node_port} --rpc-port {self.world.rpc_port}"
        return " ".join([command, ports, *more])

    def ask_through_the_proxy(self) -> None:
        """Start the README's proxy and run its `openai` program against it."""
        (command,) = set(readme.commands(BUYERS, "viz buyer proxy"))
        with self.running(f"{command} --port {self.world.proxy_port}", "proxy") as lines:
            assert self.adapted("OPENAI_BASE_URL=http://127.0.0.1:8403/v1 ") in lines[0]
            program = self.cwd / "program.py"
            program.write_text(self.adapted(readme.program(BUYERS)), encoding="utf-8")
            assert self.run(f"python {program.name}").strip()


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(new_world(tmp_path_factory.mktemp("up") / "town"))


def marked(mark: str) -> list[int]:
    """Return the processes that were started, by whatever parents, with this mark."""
    wanted = f"{MARK}={mark}\0".encode()
    found = []
    for each in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in each.read_bytes():
                found.append(int(each.parent.name))
    return found


def addresses(lines: list[str]) -> dict[str, str]:
    """Return what `viz up` says, by the first word of each line."""
    return {line.split()[0]: line.partition(" ")[2].strip() for line in lines if line.strip()}


def test_up_as_the_readme_shows_it_and_again_after_a_stop(home: Home) -> None:
    """Protects the first hour with Viz: what the README shows works, and a restart keeps it all."""
    with home.running(home.up(), "up") as lines:
        first = addresses(lines)
        shown = addresses(readme.printed(OPERATORS, "viz up"))
        assert [*first] == [*shown]
        (curl,) = (line.strip() for line in lines if line.strip().startswith("curl"))
        info = json.loads(home.run(curl))
        assert info["settlement"] == first["settlement"] and info["node"] in first["node"]
        home.model = info["baseModel"]
        for start in FIRST:
            command, *_ = readme.commands(BUYERS, start)
            said = home.run(command)
        assert said.strip()
        home.ask_through_the_proxy()
        refused = home.run(readme.commands(BUYERS, "curl")[0])
        assert refused.startswith("HTTP/1.1 402 ")
        (challenge,) = re.findall(r"^WWW-Authenticate: (.*)$", refused, re.MULTILINE)
        assert Challenge.from_header(challenge.strip()).node == info["node"]
        assert json.loads(refused.split("\n")[-1])["code"] == "payment-required"
        before, channel = status(home), home.run("viz channel show --json")

    with home.running(home.up("--json"), "again") as lines:
        again = json.loads(lines[0])
        assert (again["node"], again["rpc"], again["deployment"]["settlement"]) == (
            info["node"],
            home.world.rpc_url,
            first["settlement"],
        )
        assert status(home) == before and int(before["billed"]) > 0
        assert home.run("viz channel show --json") == channel
        home.ask_through_the_proxy()
        assert int(status(home)["billed"]) > int(before["billed"])
        tests_own = ("up.err", "again.err", "proxy.err", "program.py")
        assert open_to_others(home.folder, tests_own) == []
        taken = home.world.viz(*shlex.split(home.up())[1:], fails=True)
        assert taken.startswith("config: another process runs") and "\n" not in taken


def open_to_others(folder: Path, made_here: tuple[str, ...]) -> list[str]:
    """Return what below ``folder`` others on this machine may read, but for what is public."""
    found = []
    for path in folder.rglob("*"):
        public = path.name == "deployment.json" or path.is_symlink() or path.is_socket()
        if not public and path.name not in made_here and path.stat().st_mode & 0o077:
            found.append(str(path.relative_to(folder)))
    return found


def status(home: Home) -> dict[str, Any]:
    """Return what of `viz status` a restart must not change."""
    found = json.loads(home.run("viz status --json"))
    same = (
        "node",
        "balance",
        "collectable",
        "channels",
        "receipts",
        "billed",
        "unclaimed",
        "adapters",
    )
    return {name: found[name] for name in same}
