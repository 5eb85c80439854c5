"""Read the rules of a site in a folder that holds a copy of it, and apply them to its files.

Owns which files are rules and not text: ``robots.txt``, ``ai.txt``, ``tdmrep.json`` (beside it or
in ``.well-known``), and the RSL documents that ``robots.txt`` names. They count for the files below
the folder that they or ``.well-known`` are in, as they would on the site; ``llms.txt``, which
guides programs, says nothing of training. Nothing is fetched: a license that is not in the folder
cannot be read, which reserves. A C2PA manifest beside a file counts for that file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from viz.creator.intake.found import OptOut
from viz.creator.intake.rsl_rules import RslRules, named_elsewhere
from viz.creator.intake.signals import side_manifest_signals
from viz.creator.intake.site_rules import AI_TXT, AiTxt, Robots, TdmRules

WELL_KNOWN: Final = ".well-known"
_ROBOTS: Final = "robots.txt"
_FOR_PROGRAMS: Final = ("llms.txt", "llms-full.txt")
RULE_FILES: Final = frozenset({_ROBOTS, AI_TXT, "tdmrep.json", *_FOR_PROGRAMS})
_READ: Final = 1 << 20
# The ending of a C2PA manifest in a file of its own, beside the file that it is about.
_MANIFEST: Final = ".c2pa"
_MANIFEST_BYTES: Final = 16 << 20


@dataclass(slots=True)
class FolderRules:
    """The rules found in a folder, each with the folder that it is the root of."""

    robots: list[tuple[Path, Robots]] = field(default_factory=list)
    ai: list[tuple[Path, AiTxt]] = field(default_factory=list)
    tdm: list[tuple[Path, TdmRules]] = field(default_factory=list)

    def take(self, folder: Path, path: Path) -> bool:
        """Read a file if it holds rules, and return whether it does."""
        name = path.name.lower()
        if path.suffix.lower() == _MANIFEST:
            return True
        if name not in RULE_FILES or not path.is_file():
            return False
        if name in _FOR_PROGRAMS:
            return True
        root = path.parent
        if root.name == WELL_KNOWN and root != folder:
            root = root.parent
        with path.open("rb") as file:
            raw = file.read(_READ)
        if name == _ROBOTS:
            self.robots.append((root, Robots.parse(raw)))
        elif name == AI_TXT:
            self.ai.append((root, AiTxt.parse(raw)))
        else:
            self.tdm.append((root, TdmRules.parse(raw)))
        return True

    def statements(self, path: Path) -> tuple[OptOut, ...]:
        """Return what the rules say about training with a file."""
        found: list[OptOut] = []
        for root, robots in self.robots:
            if (url := _address(root, path)) is not None:
                found += robots.statements(url)
                for license_url in robots.licenses():
                    found += _license(root, license_url, url)
        others: list[tuple[Path, AiTxt | TdmRules]] = [*self.ai, *self.tdm]
        for root, rules in others:
            if (url := _address(root, path)) is not None:
                found += rules.statements(url)
        return tuple(dict.fromkeys(found))


def beside(path: Path) -> tuple[OptOut, ...]:
    """Return what C2PA manifests beside a file say: ``NAME.c2pa``, with its ending or without."""
    found: list[OptOut] = []
    for each in (path.with_suffix(_MANIFEST), path.with_name(path.name + _MANIFEST)):
        if each.is_file():
            with each.open("rb") as file:
                found += side_manifest_signals(file.read(_MANIFEST_BYTES), each.name)
    return tuple(dict.fromkeys(found))


def _address(root: Path, path: Path) -> str | None:
    """Return the path that a file has on the site; None if it is not below ``root``."""
    if not path.is_relative_to(root):
        return None
    return "/" + path.relative_to(root).as_posix().removesuffix("index.html")


def _license(root: Path, license_url: str, url: str) -> list[OptOut]:
    inside = root / unquote(urlsplit(license_url).path).lstrip("/")
    if ".." in inside.parts or not inside.is_file():
        return [named_elsewhere(license_url, _ROBOTS)]
    rules = RslRules()
    with inside.open("rb") as file:
        rules.add(license_url, file.read(_READ))
    return rules.statements(url)
