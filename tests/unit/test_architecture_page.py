"""ARCHITECTURE.md is true of the tree: its paths exist and its layers are the linter's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
MAX_LINES: Final = 150
# Beside the layers: helpers that any of the upper ones may import.
HELPERS: Final = {
    "child_process",
    "clock",
    "daemon_thread",
    "given_file",
    "local_socket",
    "log",
    "outbound",
    "private",
    "process_lock",
    "processor",
    "written_file",
}


def test_the_page_stays_short() -> None:
    """One sitting is enough to read it."""
    assert len(PAGE.splitlines()) <= MAX_LINES


def test_every_path_of_the_page_exists() -> None:
    """A renamed file or folder must not leave a reader searching."""
    below = [ROOT / folder for folder in ("", "node/viz", "tests", "docs")]
    names = {path.name for path in (*ROOT.glob("tests/**/*.py"), *ROOT.glob("contracts/**/*.sol"))}
    names |= {path.name for path in ROOT.glob("node/viz/**/*.py")}
    missing = []
    for spelled in re.findall(r"`([^`\n]+)`", PAGE):
        path = spelled.partition(":")[0]
        if not re.fullmatch(r"[\w./-]+(\.(py|sol|toml|md)|/)", path):
            continue
        found = any((folder / path).exists() for folder in below)
        found = found or path in names or path == "native/"
        if not found:
            missing.append(spelled)
    assert missing == []


def test_the_drawing_of_the_layers_is_the_linter_s() -> None:
    """The picture and ``[tool.importlinter]`` say the same order."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [
        {name.strip().removeprefix("viz.") for name in layer.split("|")} - HELPERS
        for layer in settings["contracts"][0]["layers"]
    ]
    layers = [layer for layer in layers if layer]
    drawn = {
        alias: {name.strip() for name in label.split("|")}
        for alias, label in re.findall(r'(\w+)\["([^"]+)"\]', PAGE)
    }
    arrows = re.findall(r'^ +(\w+)(?:\["[^"]+"\])? --> (\w+)$', PAGE, re.MULTILINE)
    pairs = [tuple(drawn.get(name, {name}) for name in arrow) for arrow in arrows]
    assert {frozenset(each) for pair in pairs for each in pair} == set(map(frozenset, layers))
    for upper, lower in pairs:
        assert layers.index(upper) + 1 == layers.index(lower)
