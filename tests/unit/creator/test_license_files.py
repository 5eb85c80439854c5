"""A license file beside the work and its terms: what belongs together, and what does not."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.licenses import WALLET, facts, preset

from viz.creator.license_files import digests_of, read_described, read_license
from viz.domain.units import hex_of, parse_address
from viz.errors import InvalidLicense, InvalidWork, LicenseMismatch
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_document.reading import license_from_values
from viz.protocol.license_document.writing import license_to_toml
from viz.services.work_records import draft

WORK = Path("examples/works/varn-point")
CREATOR = parse_address(WALLET)
BARE = 'title = "The keeper of Varn Point"\nkind = "dialogue"\nfile = "work.jsonl"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A work's folder with a license for it, and terms that name the work alone."""
    shutil.copyfile(WORK / "work.jsonl", tmp_path / "work.jsonl")
    (tmp_path / "terms.toml").write_text(BARE, encoding="utf-8")
    write(tmp_path, licensed(tmp_path))
    return tmp_path


def licensed(folder: Path, **changes: Any) -> LicenseDocument:
    digests = digests_of(folder / "work.jsonl", "dialogue")
    work = {**facts()["work"], "sha256": digests.sha256, "root": digests.root}
    return preset(work={**work, **changes})


def write(folder: Path, document: LicenseDocument) -> Path:
    path = folder / "license.toml"
    path.write_text(license_to_toml(document), encoding="utf-8")
    return path


def described(folder: Path, name: str = "license.toml") -> Any:
    return read_described(folder / "terms.toml", folder / name, DEPLOYMENT, CREATOR)


def test_a_license_document_is_what_is_registered(folder: Path) -> None:
    """Terms and hash of the registration are the document's, in TOML and in JSON."""
    document = licensed(folder)
    found = described(folder)
    assert found.license_hash == document.license_hash
    assert found.terms.training_fee_units == 2_000_000
    made = draft(folder / found.file, found, CREATOR)
    assert license_from_values(dict(made.license)) == document
    (folder / "license.json").write_bytes(document.canonical)
    assert described(folder, "license.json").license_hash == document.license_hash


def test_the_older_license_table_is_registered_as_before(folder: Path) -> None:
    """Without a document the [license] of terms.toml is the license."""
    shutil.copyfile(WORK / "terms.toml", folder / "terms.toml")
    found = read_described(folder / "terms.toml", None, DEPLOYMENT, CREATOR)
    assert found.license["max_verbatim_tokens"] == 64


def test_the_digests_are_those_of_the_file(folder: Path) -> None:
    raw = (folder / "work.jsonl").read_bytes()
    found = digests_of(folder / "work.jsonl", "dialogue")
    assert found.sha256 == hex_of(hashlib.sha256(raw).digest())


def with_terms(extra: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "terms.toml").write_text(BARE + extra, encoding="utf-8")

    return change


def with_document(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        made = licensed(folder, **values.pop("work", {})).to_json()
        for section, fields in values.items():
            made[section] = {**made[section], **fields}
        write(folder, license_from_values(made))

    return change


TERMS = """[terms]
training_fee = "{fee}"
min_royalty_bps = 800
duration_s = 31536000
notice_s = 604800
revocation_class = 2
uses = ["train", "embody", "serve", "excerpt", "evaluate"]
needs_approval = {approval}
"""


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (with_terms(TERMS.format(fee="2.01", approval="false")), "money.training_fee"),
        (with_terms(TERMS.format(fee="2", approval="true")), "limits.approval_required"),
        (with_document(chain={"chain_id": 1}), "chain.chain_id"),
        (with_document(chain={"registry": DEPLOYMENT.token}), "chain.registry"),
        (with_document(licensor={"wallet": DEPLOYMENT.token}), "licensor.wallet"),
        (with_document(work={"title": "Another"}), "work.title"),
        (with_document(work={"sha256": "0x" + "0" * 64}), "work.sha256"),
        (with_document(work={"root": "0x" + "0" * 64}), "work.root"),
        (lambda folder: (folder / "work.jsonl").open("a").write("\n") and None, "work.sha256"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    folder: Path, change: Callable[[Path], None], field: str
) -> None:
    """Nobody signs a license for another work, chain or wallet, nor two licenses at once."""
    change(folder)
    with pytest.raises(LicenseMismatch, match=field.replace(".", r"\.")) as refused:
        described(folder)
    assert refused.value.extensions["fields"] == [field]


def test_equal_terms_beside_a_document_are_taken(folder: Path) -> None:
    with_terms(TERMS.format(fee="2", approval="false"))(folder)
    assert described(folder).license_hash == licensed(folder).license_hash


def test_two_licenses_are_refused(folder: Path) -> None:
    with_terms('[license]\ntext = "You may."\n')(folder)
    with pytest.raises(InvalidWork, match=r"remove \[license\]"):
        described(folder)


def test_a_file_that_is_no_license_is_named(folder: Path) -> None:
    (folder / "license.toml").write_text("format = 3", encoding="utf-8")
    with pytest.raises(InvalidLicense, match=r"license\.toml: format"):
        described(folder)
    with pytest.raises(InvalidLicense, match="cannot be read"):
        read_license(folder / "none.toml")
    with pytest.raises(InvalidLicense, match="cannot be read"):
        read_license(folder)


def test_the_token_s_scale_counts(folder: Path) -> None:
    """The same fee on a token of other decimals is another amount, and is refused."""
    scaled = replace(DEPLOYMENT, token_decimals=18)
    with pytest.raises(LicenseMismatch, match=r"chain\.token_decimals"):
        read_described(folder / "terms.toml", folder / "license.toml", scaled, CREATOR)
