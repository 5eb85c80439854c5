"""Read a creator's license file, and connect it with the work's file and terms.

Invariant: a description with a license document has exactly the document's terms, work, chain and
wallet, or it is refused with the names of the fields that differ.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from viz.domain.units import Address, hex_of
from viz.domain.work import MAX_WORK_BYTES
from viz.errors import InvalidLicense, InvalidWork, LicenseMismatch
from viz.given_file import read_given
from viz.protocol.license_document.agreement import require_agreement, terms_of
from viz.protocol.license_document.model import MAX_LICENSE_BYTES, LicenseDocument
from viz.protocol.license_document.reading import license_from_json, license_from_toml
from viz.protocol.registration import WorkDescription, parse_description
from viz.services.work_records import read_description, read_work, terms_text

if TYPE_CHECKING:
    from viz.domain.ports.chain import Deployment

KINDS: Final = {".txt": "text", ".md": "text", ".jsonl": "dialogue"}


@dataclass(frozen=True, slots=True)
class WorkDigests:
    """The digests of a work's file in a license: the SHA-256 of its bytes, and its Merkle root."""

    sha256: str
    root: str


def read_license(path: Path) -> LicenseDocument:
    """Read a license document: JSON if the name ends in ``.json``, else TOML.

    Raises InvalidLicense, which names the field at fault.
    """
    raw = read_given(path, MAX_LICENSE_BYTES, InvalidLicense)
    try:
        return license_from_json(raw) if path.suffix == ".json" else license_from_toml(raw)
    except InvalidLicense as error:
        raise InvalidLicense(f"{path}: {error.detail}", **error.extensions) from error


def digests_of(path: Path, kind: str) -> WorkDigests:
    """Return the digests of a work's file; raise InvalidWork if it is not a work of that kind."""
    work = read_work(path, kind)
    raw = read_given(path, MAX_WORK_BYTES, InvalidWork)
    return WorkDigests(hex_of(hashlib.sha256(raw).digest()), hex_of(work.merkle_root))


def require_work(document: LicenseDocument, path: Path, kind: str) -> None:
    """Raise LicenseMismatch if the document is for another file than ``path``."""
    found = digests_of(path, kind)
    said = document.work
    if (said.sha256, said.root) != (found.sha256, found.root):
        field = "work.sha256" if said.sha256 != found.sha256 else "work.root"
        raise LicenseMismatch(
            f"the license is for another work: {field} is {getattr(said, field[5:])}, and {path} "
            f"has {getattr(found, field[5:])}: make the license anew with `viz license new`, or "
            "name the file that it was made for",
            fields=[field],
        )


def require_title(document: LicenseDocument, title: str, place: Path) -> None:
    """Raise LicenseMismatch if the document gives the work another title than ``place`` says."""
    if document.work.title != title:
        raise LicenseMismatch(
            f"work.title is {document.work.title!r} in the document, and {place} says "
            f"{title!r}: write the same title in both",
            fields=["work.title"],
        )


def read_described(
    terms_file: Path, license_file: Path | None, deployment: Deployment, creator: Address
) -> WorkDescription:
    """Return a work's description, licensed by the document if given, else by [license]."""
    if license_file is None:
        return read_description(terms_file, token_decimals=deployment.token_decimals)
    return described_by(terms_file, license_file, deployment, creator)


def described_by(
    terms_file: Path, license_file: Path, deployment: Deployment, creator: Address
) -> WorkDescription:
    """Return a work's description whose license is the document in ``license_file``.

    Raises InvalidWork, InvalidLicense, LicenseMismatch, which names the fields that differ.
    """
    document = read_license(license_file)
    described = parse_description(
        terms_text(terms_file),
        token_decimals=deployment.token_decimals,
        licensed=(terms_of(document), document.to_json()),
    )
    require_agreement(document, described.terms, deployment)
    if document.licensor.wallet != creator:
        raise LicenseMismatch(
            f"licensor.wallet is {document.licensor.wallet} in the document, and the key that "
            f"registers the work is {creator}'s: name the wallet that registers it",
            fields=["licensor.wallet"],
        )
    require_title(document, described.title, terms_file)
    require_work(document, terms_file.parent / described.file, described.kind)
    return described
