"""The README's own commands and programs, read from it, so that what it shows is what is tested."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from examples.demo.world import ROOT

PROGRAMS: Final = ("viz", "python", "curl")


def commands(heading: str, starting: str = "") -> list[str]:
    """Return the shell commands of one section, whole lines without comments, in order."""
    found = [each for each in _commands(_section(heading)) if each.startswith(starting)]
    assert found, f"README.md has no command {starting!r} below {heading!r}"
    return found


def program(heading: str) -> str:
    """Return the one Python program of a section."""
    (found,) = re.findall(r"^```python\n(.*?)^```", _section(heading), re.MULTILINE | re.DOTALL)
    return str(found)


def printed(heading: str, command: str) -> list[str]:
    """Return what a section shows below ``$ command``, up to the end of its block."""
    _, _, rest = _section(heading).partition(f"    $ {command}\n")
    assert rest, f"README.md does not show what `{command}` prints"
    block = re.match(r"(?:(?:    .*)?\n)+", rest)
    assert block is not None
    lines = (line.removeprefix("    ") for line in block[0].splitlines())
    shown = [line for line in lines if line]
    return shown[: next((i for i, line in enumerate(shown) if line.startswith("$ ")), len(shown))]


@dataclass(frozen=True, slots=True)
class Step:
    """A command of the README, and the lines that the README shows below it."""

    command: str
    shown: tuple[str, ...]


def steps(heading: str) -> list[Step]:
    """Return the commands of a section that are shown with ``$``, in order, with their output."""
    found: list[Step] = []
    for block in re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", _section(heading), re.MULTILINE):
        lines = [line.removeprefix("    ") for line in block.splitlines() if line.strip()]
        for line in lines:
            if line.startswith("$ "):
                found.append(Step(re.sub(r"\s{2,}#.*$", "", line[2:]).strip(), ()))
            elif found and lines[0].startswith("$ "):
                last = found.pop()
                if last.command.endswith("\\"):
                    joined = last.command[:-1] + line.strip()
                    found.append(Step(joined, last.shown))
                else:
                    found.append(Step(last.command, (*last.shown, line.rstrip())))
    return found


def _section(heading: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"README.md has no section {heading!r}"
    return rest.partition("\n## ")[0]


def _commands(text: str) -> Iterator[str]:
    joined = re.sub(r"\\\n\s*", "", text)
    for line in re.findall(r"^    (?:\$ )?(\S.*)$", joined, re.MULTILINE):
        if line.split()[0] in PROGRAMS:
            yield re.sub(r"\s{2,}#.*$", "", line).strip()
