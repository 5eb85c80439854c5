"""The README's first ten minutes of three people, run as they stand, each in a folder of their own.

Changed of them are only the ports, and the size of the training. What the README shows below a
command is compared with what it prints, line by line, numbers and names of keys aside. The file
``transcript`` in the home folder has what was printed, for the README to show.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from examples.demo.world import ROOT, World
from tests.e2e import readme
from tests.e2e.conftest import TINY, new_world
from tests.e2e.readme import Step
from tests.e2e.test_up import Home
from tests.fakes.real_base import CACHE

pytestmark = pytest.mark.timeout(1_800)

OPERATORS, CREATORS, BUYERS = "For node operators", "For creators", "For buyers"
ANSWER: Final = re.compile(r"\[y/N\]: (\w)$")
RUNS_ON: Final = ("viz up", "viz buyer proxy")
# What a model says is not what is shown: the README's adapter was trained for longer.
SAID_BY_A_MODEL: Final = "viz buyer ask"


class People(Home):
    """One home folder with three people in it, who share nothing but the machine."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.model = "viz-adapter-1"
        self.untrue: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        given = super().environment | {"HOME": str(self.folder), "VIZ": str(ROOT)}
        return {name: value for name, value in given.items() if name != "VIZ_DATA_DIR"}

    def step(self, step: Step) -> list[str]:
        """Run one command in a shell that goes on where the last one ended; return its lines."""
        answers = [found[1] for line in step.shown if (found := ANSWER.search(line))]
        state = self.folder / "state"
        script = f"{self.smaller(self.adapted(step.command))}\ncode=$?; pwd >{state}; exit $code"
        keyboard, terminal = pty.openpty()
        try:
            os.write(keyboard, "".join(f"{each}\n" for each in answers).encode())
            done = subprocess.run(
                ["bash", "-c", script],
                stdin=terminal if answers else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
                env=self.environment,
                cwd=self.cwd,
            )
        finally:
            os.close(keyboard)
            os.close(terminal)
        assert done.returncode == 0, f"{step.command}\n{done.stdout}\n{done.stderr}"
        self.cwd = Path(state.read_text(encoding="utf-8").strip())
        return done.stdout.splitlines()

    def smaller(self, command: str) -> str:
        """Train two steps where the README trains a whole adapter: they teach nothing, which the
        gate before publishing would say."""
        if not command.startswith("viz train") or "--dry-run" in command:
            return command
        tiny = (f"--set={name}={value}" for name, value in TINY.items())
        return shlex.join([*shlex.split(command), *tiny, "--publish-anyway"])

    def walk(self, heading: str, *, only: Sequence[str] = (), but: Sequence[str] = ()) -> None:
        """Run a section's steps in order, and compare what each prints with what is shown."""
        for step in readme.steps(heading):
            left = step.command.startswith((*RUNS_ON, "curl", *but))
            if left or (only and not step.command.startswith(tuple(only))):
                continue
            printed = self.step(step)
            with (self.folder / "transcript").open("a", encoding="utf-8") as transcript:
                print(f"$ {step.command}", *printed, sep="\n", file=transcript)
            shown = [line for line in step.shown if not ANSWER.search(line)]
            if step.command.startswith(SAID_BY_A_MODEL):
                printed, shown = printed[-1:], shown[-1:]
            if shown and not alike([self.adapted(line) for line in shown], printed):
                self.untrue.append("\n".join([f"$ {step.command}", *printed]))


def alike(shown: list[str], printed: list[str]) -> bool:
    """Say whether each line that is shown was printed, in order; ``...`` stands for any lines."""
    lines = [like(line) for line in printed if line.strip()]
    wanted = [like(line) for line in shown]
    if "..." not in wanted:
        return lines == wanted
    rest = iter(lines)
    return all(line == "..." or line in rest for line in wanted)


def like(line: str) -> str:
    """Return what of a line is the same at every run: its words."""
    line = re.sub(r"0x[0-9a-fA-F]+|\b(?:baf[ky]|Qm)\w+", "KEY", line)
    line = re.sub(r"[─━┏┓┗┛┡┩╇┳┴┬└┘┼│┃╭╮╰╯]+", "|", line)
    return " ".join(re.sub(r"-?\d+(?:[.,:]\d+)*", "0", line).split())


def test_ten_minutes_of_three_people(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Protects everybody's first ten minutes: no folder but their own, and no step left out."""
    people = People(new_world(tmp_path_factory.mktemp("people") / "home"))
    node = people.folder / "node"
    (node / ".viz").mkdir(parents=True)
    (node / ".viz" / "models").symlink_to(CACHE)
    people.cwd = node
    with people.running(people.up(), "up") as lines:
        shown = readme.printed(OPERATORS, "viz up")
        assert [like(people.adapted(each)) for each in shown] == [
            like(each) for each in lines if each.strip()
        ]
        people.walk(CREATORS)
        people.walk(OPERATORS, but=("viz settle",))
        people.walk(BUYERS, but=("viz channel leave", "viz testnet pass"))
        people.ask_through_the_proxy()
        people.walk(OPERATORS, only=("cd ~/node", "mkdir", "viz settle"))
        people.walk(BUYERS, only=("mkdir", "viz channel leave", "viz testnet pass"))
    assert not people.untrue, "README.md shows otherwise:\n" + "\n\n".join(people.untrue)
