"""Make one work from one or several sources, and write it with the record of its conversion.

Owns the order of the sources, how their texts are joined, and the files of an import: ``work.txt``
or ``work.jsonl``, with ``import.json`` and a first ``terms.toml`` beside it. The record names each
source with its hash, the tools and their versions, what was left out, and every reservation of
rights that was found.
Invariants: a refused source stops the import; if the creator chose to leave such sources out, the
record names it instead; a registered file is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from viz.basemodel.safetensor_file import file_digest
from viz.creator.intake.clean import cleaned
from viz.creator.intake.folder_rules import RULE_FILES, WELL_KNOWN, FolderRules, beside
from viz.creator.intake.found import Converted, OptOut
from viz.creator.intake.kinds import KINDS_BY_ENDING, READABLE
from viz.creator.intake.sandbox import Refused, SourceFile, parse
from viz.creator.intake.signals import LINK_ELEMENT
from viz.domain.units import hex_of
from viz.domain.work import MAX_WORK_BYTES, Work, parse_work
from viz.errors import InvalidRequest, InvalidWork
from viz.private import write_private

RECORD: Final = "import.json"
TERMS: Final = "terms.toml"
FILES: Final = {"text": "work.txt", "dialogue": "work.jsonl"}
MAX_FILES: Final = 2_000
MAX_TOTAL_BYTES: Final = 512 * 1024 * 1024
# A folder that holds more than this, also of files that are no text, is no folder of one work.
MAX_SEEN: Final = 8_000
MAX_FOLDERS: Final = 2_000
MAX_DEPTH: Final = 32
_DIGITS: Final = re.compile(r"(\d+)")
_TOLD: Final = 5


@dataclass(frozen=True, slots=True)
class Source:
    """One file to import, and its name in messages and in the record.

    ``read_as`` is a name whose end tells the file's kind, if its own tells none. ``said`` is what
    the rules of its folder, or a manifest beside it, say about training with it.
    """

    name: str
    path: Path
    read_as: str = ""
    said: tuple[OptOut, ...] = ()

    def sha256(self) -> tuple[str, int]:
        """Return the file's SHA-256 in hexadecimal, and its size in bytes."""
        return file_digest(self.path).hex(), self.path.stat().st_size


@dataclass(slots=True)
class Imported:
    """A converted work, not yet written; ``work`` is its content as training reads it."""

    kind: Literal["text", "dialogue"]
    raw: bytes
    work: Work
    title: str
    language: str
    creators: list[str]
    sources: list[dict[str, Any]]
    opt_outs: list[OptOut]
    left_out: list[dict[str, str]] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()

    def record(self, now_s: int, rights: dict[str, str] | None) -> dict[str, Any]:
        """Return the record of the conversion, as JSON values."""
        return {
            "format": "viz-import/1",
            "title": self.title,
            "kind": self.kind,
            "file": FILES[self.kind],
            "sha256": self.sha256,
            "bytes": len(self.raw),
            "chunks": len(self.work.chunks),
            "merkleRoot": hex_of(self.work.merkle_root),
            "language": self.language,
            "creators": self.creators,
            "importedAt": datetime.fromtimestamp(now_s, UTC).isoformat(),
            "tool": f"viz-node {version('viz-node')}",
            "sources": self.sources,
            "leftOut": self.left_out,
            "optOuts": [each.to_json() for each in self.opt_outs],
            "rights": rights,
        }


def sources_of(paths: Sequence[Path]) -> tuple[list[Source], list[dict[str, str]]]:
    """Return the files of ``paths`` and their folders in order, and the files that are skipped.

    Files of a folder are ordered by name, with numbers by value. Links that lead out of the folder
    are not followed. Raises InvalidWork if a path is not a file or folder, or a site's file of
    rules, or if the files are too many or too large.
    """
    found: list[Source] = []
    skipped: list[dict[str, str]] = []
    for path in paths:
        if path.is_dir():
            inside, rest = _in_folder(path)
            if not inside:
                raise InvalidWork(f"{path} has no file of a readable kind: {READABLE}")
            found += inside
            skipped += rest
        elif path.is_file() and path.name.lower() in RULE_FILES:
            raise InvalidWork(
                f"{path} is a site's file for programs, and no text of a work: give it another "
                "name if it is one"
            )
        elif path.is_file():
            found.append(Source(shown_name(path.name), path, said=beside(path)))
        elif str(path).startswith(("http:/", "https:/")):
            raise InvalidWork(
                f"{path} is an address: import the site first (`viz content import URL`), and name "
                "the folder that it makes"
            )
        else:
            raise InvalidWork(f"{path} is neither a file nor a folder: check the name")
    if len(found) > MAX_FILES:
        raise InvalidWork(f"{len(found)} files are too many, at most {MAX_FILES} are read at once")
    total = sum(each.path.stat().st_size for each in found)
    if total > MAX_TOTAL_BYTES and len(found) > 1:
        raise InvalidWork(
            f"the files have {total} bytes together, at most {MAX_TOTAL_BYTES} are read at once"
        )
    return found, skipped


def _in_folder(folder: Path) -> tuple[list[Source], list[dict[str, str]]]:
    """Return a folder's sources and skipped files. The rules of a site's copy count for it."""
    whole = os.path.realpath(folder)
    found, skipped = [], []
    rules = FolderRules()
    for path in _below(folder):
        name = shown_name(path.relative_to(folder).as_posix())
        inside = os.path.commonpath([whole, os.path.realpath(path)]) == whole
        if inside and rules.take(folder, path):
            skipped.append(
                {"name": name, "why": "a file for programs: what it says of training counts"}
            )
            continue
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if not inside:
            skipped.append({"name": name, "why": "it is a link that leads out of the folder"})
        elif path.exists() and not path.is_file():
            skipped.append({"name": name, "why": "it is a pipe or a device"})
        elif not path.is_file() or path.suffix.lower() not in KINDS_BY_ENDING or name == RECORD:
            skipped.append({"name": name, "why": "files with this ending are not read"})
        else:
            found.append(Source(name, path))
    told = [(*rules.statements(each.path), *beside(each.path)) for each in found]
    return [replace(each, said=said) for each, said in zip(found, told, strict=True)], skipped


def _below(folder: Path) -> list[Path]:
    """Return the files below a folder, ordered by name, with numbers by value.

    Links to folders are not followed, and of hidden folders only those with a site's rules are
    read. Raises InvalidWork as soon as there is too much, so that no disk is searched as a whole.
    """
    found: list[Path] = []
    for folders, (place, below, names) in enumerate(os.walk(folder), start=1):
        below[:] = [name for name in below if name == WELL_KNOWN or not name.startswith(".")]
        here = Path(place)
        found += [here / name for name in names]
        deep = len(here.relative_to(folder).parts) > MAX_DEPTH
        if deep or folders > MAX_FOLDERS or len(found) > MAX_SEEN:
            raise InvalidWork(
                f"{folder} holds too many files and folders for one work (at most {MAX_SEEN} and "
                f"{MAX_FOLDERS}, {MAX_DEPTH} deep): name the folder that holds the work alone"
            )
    return sorted(found, key=lambda each: _by_number(each.relative_to(folder)))


def shown_name(name: str) -> str:
    """Return a file's name as text: a record is UTF-8, and a name may be any bytes."""
    words = os.fsencode(name).decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "\ufffd" for each in words)


def _by_number(path: Path) -> list[tuple[int, int, str]]:
    parts = (part for each in path.parts for part in (*_DIGITS.split(each), "/"))
    return [(1, int(part[:18]), "") if part.isdigit() else (0, 0, part.lower()) for part in parts]


def import_sources(
    sources: Sequence[Source],
    *,
    title: str = "",
    encoding: str = "",
    leave_out: bool = False,
    skipped: Iterable[dict[str, str]] = (),
    opt_outs: Sequence[OptOut] = (),
    of_a_site: bool = False,
) -> Imported:
    """Convert the sources and join them to one work.

    ``opt_outs`` are statements on training that were found outside the sources. ``of_a_site``: the
    sources are pages whose RSL links were followed; paragraphs that half of them have, such as a
    menu, are left out.
    Raises InvalidWork, which names all refused sources, if ``leave_out`` is False and one is
    refused; also if texts and chats are mixed, or if training could not read the result.
    """
    converted: list[tuple[Source, str, Converted]] = []
    left_out = list(skipped)
    jobs = [SourceFile(each.read_as or each.name, each.path, encoding) for each in sources]
    refused: list[Refused] = []
    for source, answer in zip(sources, parse(jobs), strict=True):
        if isinstance(answer, Refused):
            refused.append(Refused(source.name, answer.why))
        else:
            converted.append((source, answer.pop("source_kind"), Converted.from_json(answer)))
    if refused and (not leave_out or not converted):
        raise InvalidWork(_told(refused, several=len(sources) > 1))
    left_out += [{"name": each.name, "why": each.why} for each in refused]
    if of_a_site:
        _leave_out_repeated([made for _, _, made in converted])
        for _, _, made in converted:
            made.opt_outs = [each for each in made.opt_outs if each.where != LINK_ELEMENT]
    converted = _each_once(converted, left_out)
    kinds = {made.kind for _, _, made in converted}
    if len(kinds) > 1:
        names = {kind: next(s.name for s, _, m in converted if m.kind == kind) for kind in kinds}
        raise InvalidWork(
            f"{names['text']} is text and {names['dialogue']} holds chats: import them as two works"
        )
    kind = converted[0][2].kind
    raw = _joined([made for _, _, made in converted]).encode()
    if len(raw) > MAX_WORK_BYTES:
        raise InvalidWork(
            f"together they give {len(raw)} bytes, and a work has at most {MAX_WORK_BYTES}: import "
            "them as several works"
        )
    first = converted[0]
    named = first[2].title if len(sources) == 1 else ""
    return Imported(
        kind,
        raw,
        parse_work(kind, raw),
        " ".join(cleaned(title, Counter()).split()) or named or PurePosixPath(first[0].name).stem,
        next((made.language for _, _, made in converted if made.language), ""),
        list(dict.fromkeys(name for _, _, made in converted for name in made.creators)),
        [_source_record(*each) for each in converted],
        [*opt_outs, *_statements(converted)],
        left_out,
    )


def _leave_out_repeated(pages: Sequence[Converted]) -> None:
    """Take out of texts the paragraphs that half of them, and three at least, have."""
    counts = Counter(each for page in pages for each in set(page.text.split("\n\n")))
    often = {each for each, count in counts.items() if count >= max(3, len(pages) / 2)}
    for page in pages:
        if page.kind != "text":
            continue
        paragraphs = page.text.split("\n\n")
        kept = [each for each in paragraphs if each not in often]
        if gone := len(paragraphs) - len(kept):
            page.text = "\n\n".join(kept)
            page.note(f"{gone} paragraphs left out that half of the pages have")


def _told(refused: Sequence[Refused], *, several: bool) -> str:
    words = "; ".join(f"{each.name}: {each.why}" for each in refused[:_TOLD])
    more = f"; and {len(refused) - _TOLD} more" if len(refused) > _TOLD else ""
    return (
        words + more + (". Repair them, or use --leave-out to import the rest" if several else "")
    )


def _each_once(
    converted: list[tuple[Source, str, Converted]], left_out: list[dict[str, str]]
) -> list[tuple[Source, str, Converted]]:
    seen: dict[str, str] = {}
    kept = []
    for each in converted:
        text = each[2].text
        if text in seen:
            left_out.append({"name": each[0].name, "why": f"it has the same text as {seen[text]}"})
        else:
            seen[text] = each[0].name
            kept.append(each)
    return kept


def _joined(made: Sequence[Converted]) -> str:
    if len(made) == 1 or made[0].kind == "dialogue":
        return "".join(each.text for each in made)
    return "\n".join(_under_title(each) for each in made)


def _under_title(made: Converted) -> str:
    """Return the text with its title as a heading, if it does not begin with a heading."""
    if not made.title or made.text.startswith("#"):
        return made.text
    return f"# {made.title}\n\n{made.text}"


def _statements(converted: Sequence[tuple[Source, str, Converted]]) -> list[OptOut]:
    def named() -> Iterator[OptOut]:
        for source, _, made in converted:
            for each in (*source.said, *made.opt_outs):
                where = f"{each.where} of {source.name}"
                yield OptOut(each.scheme, each.says, where, each.value)

    return list(dict.fromkeys(named()))


def _source_record(source: Source, kind: str, made: Converted) -> dict[str, Any]:
    digest, size = source.sha256()
    return {
        "name": source.name,
        "kind": kind,
        "sha256": digest,
        "bytes": size,
        "title": made.title,
        "tools": list(dict.fromkeys(made.tools)),
        "notes": made.notes,
    }


def check_target(folder: Path, *, replace: bool) -> None:
    """Raise InvalidRequest if an import must not be written to ``folder``."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is a file: name a folder with --out")
    for name in FILES.values():
        if (folder / f"{name}.registration.json").exists():
            raise InvalidRequest(
                f"{folder / name} is registered, and must stay as it is: name another folder with "
                "--out"
            )
    there = [name for name in (*FILES.values(), RECORD) if (folder / name).exists()]
    if there and not replace:
        raise InvalidRequest(
            f"{folder / there[0]} exists already: name another folder with --out, or say --replace"
        )


def write_import(folder: Path, made: Imported, record: dict[str, Any]) -> Path:
    """Write the work, its record and a first terms file; return the work's path. Raises OSError.

    A terms file that is there stays as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILES[made.kind]
    for name in FILES.values():
        if name != path.name:
            (folder / name).unlink(missing_ok=True)
    _replace(path, made.raw)
    _replace(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n")
    if not (folder / TERMS).exists():
        _replace(folder / TERMS, _first_terms(made).encode())
    return path


def _first_terms(made: Imported) -> str:
    """Return a terms file that names the work, to which a license document can be given."""
    named = {"title": made.title, "kind": made.kind, "file": FILES[made.kind]}
    named |= {"credit": ", ".join(made.creators), "language": made.language}
    head = "# What it is. `viz license new` writes its license; or add [terms] and [license].\n"
    return head + "".join(
        # A JSON string is a string of TOML too, except for the character DEL.
        f"{name} = {json.dumps(value[:200].replace(chr(127), ''), ensure_ascii=False)}\n"
        for name, value in named.items()
        if value
    )


def _replace(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    write_private(path, content)
