"""Write and read the record of a work's registration, which its creator must not lose.

Owns the file beside the work (``<work>.registration.json``, mode 0600). It holds the salt and the
last signature for the work. A trainer needs the salt to check the work; if the salt is destroyed,
nobody can connect the commitment on chain with the work. ``viz.creator.registration`` registers the
work.

Invariant: a second record of the same file and creator keeps the salt and the signature of the
first.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from viz.domain.license import Terms
from viz.domain.strict_json import load_json
from viz.domain.units import Address, ContentId, Hash32, hex_of, parse_address, parse_hash
from viz.domain.work import MAX_WORK_BYTES, Work, parse_work
from viz.errors import InvalidRequest, InvalidWork, VizError
from viz.given_file import about, read_given
from viz.private import write_private
from viz.protocol.registration import WorkDescription, parse_description
from viz.protocol.wire import JSON_INTEGER_MAX, Reader
from viz.protocol.wire_model import struct_from_json, struct_to_json

_MAX_RECORD_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SignedOnce:
    """A signature that left this machine: its holder can register with it until the deadline."""

    nonce: int
    deadline_s: int

    def to_json(self) -> dict[str, Any]:
        return {"nonce": str(self.nonce), "deadline": self.deadline_s}

    @classmethod
    def from_json(cls, value: object) -> Self:
        reader = Reader(value, "the signature in the record")
        return cls(reader.units("nonce"), reader.integer("deadline", JSON_INTEGER_MAX))


@dataclass(frozen=True, slots=True)
class Registration:
    """A work's record: what its creator needs, and a trainer to whom it is shown.

    ``on_chain``: the content id was read from the chain. If False, only a node has reported it.
    """

    title: str
    kind: str
    file: str
    creator: Address
    salt: Hash32
    merkle_root: Hash32
    commitment: Hash32
    terms: Terms
    license: Mapping[str, Any]
    license_hash: Hash32
    content_id: ContentId | None = None
    transaction: Hash32 | None = None
    on_chain: bool = False
    signed: SignedOnce | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "title": self.title,
            "kind": self.kind,
            "file": self.file,
            "creator": self.creator,
            "salt": hex_of(self.salt),
            "merkleRoot": hex_of(self.merkle_root),
            "commitment": hex_of(self.commitment),
            "terms": struct_to_json(self.terms),
            "termsHash": hex_of(self.terms.terms_hash(self.license_hash)),
            "license": dict(self.license),
            "licenseHash": hex_of(self.license_hash),
            "contentId": self.content_id,
            "transaction": hex_of(self.transaction) if self.transaction else None,
            "onChain": self.on_chain,
            "signed": self.signed.to_json() if self.signed else None,
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse a record; raise InvalidRequest if the values are not a record."""
        reader = Reader(value, "the registration's record")
        content_id = reader.optional("contentId", reader.integer)
        found = value if isinstance(value, Mapping) else {}
        return cls(
            title=reader.text("title"),
            kind=reader.text("kind"),
            file=reader.text("file"),
            creator=parse_address(reader.text("creator")),
            salt=parse_hash(reader.text("salt")),
            merkle_root=parse_hash(reader.text("merkleRoot")),
            commitment=parse_hash(reader.text("commitment")),
            terms=struct_from_json(Terms, found.get("terms"), "'terms'"),
            license=dict(found.get("license") or {}),
            license_hash=parse_hash(reader.text("licenseHash")),
            content_id=ContentId(content_id) if content_id is not None else None,
            transaction=reader.optional("transaction", reader.hash32),
            on_chain=reader.optional("onChain", reader.boolean) or False,
            signed=SignedOnce.from_json(found["signed"]) if found.get("signed") else None,
        )


def record_path(work: Path) -> Path:
    """Return the path of a work's record, which is beside the work."""
    return work.with_name(work.name + ".registration.json")


def read_description(path: Path, *, token_decimals: int) -> WorkDescription:
    """Read a terms file; raise InvalidWork if it cannot be read or is not valid."""
    return parse_description(terms_text(path), token_decimals=token_decimals)


def terms_text(path: Path) -> str:
    """Return what a terms file says; raise InvalidWork if it cannot be read."""
    try:
        if not path.exists():
            raise InvalidWork(
                f"there is no terms file {path}: write title, kind and file into it (`viz content "
                "import` does that for a work that it makes)"
            )
        return read_given(path, _MAX_RECORD_BYTES, InvalidWork).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidWork(f"{path} is not UTF-8: {error}") from error


def read_work(path: Path, kind: str) -> Work:
    """Read and parse a work's file; raise InvalidWork if it cannot be read or is not valid."""
    return parse_work(kind, read_given(path, MAX_WORK_BYTES, InvalidWork))


def draft(path: Path, description: WorkDescription, creator: Address) -> Registration:
    """Make the record of a work that will be registered, write it to disk, and return it.

    It takes the salt and the signature of an earlier record of the same file and creator. Raises
    InvalidWork, and InvalidRequest if the work is already registered, or may be by another creator:
    only the record holds the salt.
    """
    work = read_work(path, description.kind)
    earlier = load_record(path)
    salt, signed = Hash32(secrets.token_bytes(32)), None
    if earlier is not None and earlier.creator != creator:
        if earlier.content_id is not None or earlier.signed is not None:
            state = (
                f"is registered already by {earlier.creator}, as work {earlier.content_id}"
                if earlier.content_id is not None
                else f"was signed for by {earlier.creator} and may be registered yet"
            )
            raise InvalidRequest(
                f"{path} {state}, and only {record_path(path)} holds its salt: keep that, and "
                "register with another key from a folder with a copy of the work alone"
            )
    elif earlier is not None:
        if earlier.content_id is not None:
            known = f"{path} is registered already, as work {earlier.content_id}"
            raise InvalidRequest(
                f"{known}: keep {record_path(path)}, which holds its salt"
                if earlier.on_chain
                else f"{known}, says a node: give --rpc URL of a chain node of your choice to check"
            )
        salt, signed = earlier.salt, earlier.signed
    made = Registration(
        title=description.title,
        kind=description.kind,
        file=path.name,
        creator=creator,
        salt=salt,
        merkle_root=work.merkle_root,
        commitment=work.commitment(creator, salt),
        terms=description.terms,
        license=description.license,
        license_hash=description.license_hash,
        signed=signed,
    )
    save_record(path, made)
    return made


def records_in(place: Path) -> list[tuple[Path, Registration]]:
    """Return the registered works of a folder, or of one file: their paths and records.

    A record that cannot be read is left out.
    """
    end = record_path(Path("a")).name[1:]
    files = sorted(place.glob(f"*{end}")) if place.is_dir() else [record_path(place)]
    found = []
    for file in files:
        work = file.with_name(file.name.removesuffix(end))
        with suppress(VizError):
            record = load_record(work)
            if record is not None and record.content_id is not None:
                found.append((work, record))
    return found


def load_record(work: Path) -> Registration | None:
    """Return a work's record, None if there is none; raise InvalidRequest if it is damaged."""
    path = record_path(work)
    if not path.exists():
        return None
    remedy = "Ask the work's creator for the record that its registration wrote"
    raw = read_given(path, _MAX_RECORD_BYTES)
    with about(path, remedy):
        try:
            return Registration.from_json(load_json(raw))
        except ValueError as error:
            raise InvalidRequest(f"it cannot be read as a record: {error}") from error


def titles_of(training: Mapping[str, Any]) -> dict[ContentId, str]:
    """Return the titles of a training request's works, from the records beside their files.

    A work without a readable record is left out, since titles are only for display.
    """
    found: dict[ContentId, str] = {}
    for work in training.get("works", ()):
        try:
            record = load_record(Path(work["path"]))
        except (VizError, OSError, TypeError, KeyError):
            continue
        if record is not None and record.content_id is not None:
            found[record.content_id] = record.title
    return found


def save_record(work: Path, made: Registration) -> None:
    """Write a work's record atomically, readable by its owner only."""
    write_record(record_path(work), made)


def write_record(path: Path, made: Registration) -> None:
    """Write a record to any path, as ``save_record`` does."""
    write_private(path, json.dumps(made.to_json(), indent=2).encode() + b"\n")
