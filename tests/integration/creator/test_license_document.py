"""A license document from `viz license new` to the chain and back, through the command line."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.ledger import MemoryStore
from tests.integration.chain.testnet import Testnet, address

from viz.chain.deployment import save_deployment
from viz.chain.keys import create_key_file, development_account
from viz.clock import SystemClock
from viz.creator.license_files import read_license
from viz.domain.units import ContentId
from viz.errors import LicenseMismatch
from viz.protocol.license_document.agreement import terms_of
from viz.protocol.license_document.model import LicenseDocument
from viz.services.licensing.license_documents import LicenseDocuments
from viz.services.market.listings import Listings
from viz.services.work_records import load_record

WORK = Path(__file__).parents[3] / "examples" / "works" / "varn-point"
PASSWORD = "correct horse"
LICENSE = 7


async def viz(folder: Path, *words: str, code: int = 0) -> Any:
    """Run a command in the creator's folder; return its JSON, or its refusal."""
    done, said = await told(folder, *words, code=code)
    return said if code else done


async def told(folder: Path, *words: str, code: int = 0) -> tuple[Any, str]:
    """Run a command; return its JSON, and what it told the person in one line."""
    environment = {**os.environ, "VIZ_KEY_PASSWORD": PASSWORD, "VIZ_DATA_DIR": str(folder)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "viz", *words, "--json",
        cwd=folder, env=environment, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == code, (out.decode(), err.decode())
    return json.loads(out) if out else None, " ".join(err.decode().split())


async def test_a_document_is_registered_compared_and_refused_when_it_differs(
    net: Testnet, tmp_path: Path
) -> None:
    """What the creator signed is what the chain has; what was changed since is told, by field."""
    shutil.copyfile(WORK / "work.jsonl", tmp_path / "work.jsonl")
    (tmp_path / "terms.toml").write_text(
        'title = "The keeper of Varn Point"\nkind = "dialogue"\nfile = "work.jsonl"\n'
    )
    save_deployment(tmp_path / "deployment.json", net.deployment)
    creator = development_account(1)
    create_key_file(tmp_path / "alma.json", PASSWORD, account=creator, scrypt_n=2)
    rpc = ("--rpc", net.anvil.url)
    made = await viz(
        tmp_path, "license", "new", ".", "--preset", "approval", "--name", "Alma", "--contact",
        "mailto:alma@example.org", "--wallet", address(creator), "--language", "en",
        "--law", "Portugal", "--fee", "2.50",
    )  # fmt: skip
    register = ("content", "register", ".", "--key", "alma.json", "--direct", "--yes", *rpc)
    done, said = await told(tmp_path, *register, "--license", "license.toml")
    assert "What a licensee promises, and no contract can hold" in said
    assert said.index("fee of a grant 2.50") < said.index("You sign, for anyone to read")
    assert done["license"] == made["license"] and done["contentId"] == 1

    state = await net.chain.content(ContentId(1))
    assert state is not None
    known = await net.chain.terms(state.terms_hash)
    assert known is not None
    document = read_license(tmp_path / "license.toml")
    assert known.license_hash == document.license_hash
    assert known.terms.training_fee_units == 2_500_000 and known.terms.approval_required
    record = load_record(tmp_path / "work.jsonl")
    assert record is not None and record.license_hash == document.license_hash

    check = ("license", "check", "license.toml", "--work", ".", "--content", "1", *rpc)
    assert (await viz(tmp_path, *check))["checked"] == ["fields", "work", "chain"]

    await changed_terms(tmp_path, check, rpc)
    document = read_license(tmp_path / "license.toml")
    written = (tmp_path / "license.toml").read_text()
    for old, new, field in (
        ('"3.00"', '"2.25"', "money.training_fee is 2.25 in the document, and 3.000000"),
        ("approval_required = true", "approval_required = false", "limits.approval_required"),
        ('"Portugal"', '"Spain"', "it was edited"),
    ):
        (tmp_path / "license.toml").write_text(written.replace(old, new))
        assert field in await viz(tmp_path, *check, code=LICENSE)
    await served(net, tmp_path, document)


async def changed_terms(folder: Path, check: tuple[str, ...], rpc: tuple[str, ...]) -> None:
    """Another document is another license: `viz content terms` offers it, and it is compared."""
    path = folder / "license.toml"
    path.write_text(path.read_text().replace('"2.50"', '"3.00"'))
    assert "money.training_fee is 3.00" in await viz(folder, *check, code=LICENSE)
    terms = ("content", "terms", "1", ".", "--key", "alma.json", "--direct", "--yes", *rpc)
    _, said = await told(folder, *terms, "--license", "license.toml")
    assert "fee of a grant 3.00" in said
    assert (await viz(folder, *check))["checked"] == ["fields", "work", "chain"]


async def served(net: Testnet, folder: Path, document: LicenseDocument) -> None:
    """A custodian shows the document while the chain has it, and says what became of it."""
    work = ContentId(1)
    (folder / "licenses").mkdir()
    (folder / "licenses" / "1.json").write_bytes(document.canonical)
    listings = Listings(MemoryStore(), net.chain, SystemClock())
    origin = "https://node.test"
    kept = LicenseDocuments(folder / "licenses", net.chain, listings, origin=origin)
    assert (await kept.get(work)).document == document
    assert "tdm-policy" in (await kept.tdm_rules())[0]

    creator = net.sender(1)
    other = replace(terms_of(document), min_royalty_bps=900)
    await net.done(creator, "ContentRegistry", "setTerms", 1, document.license_hash, other.abi())
    with pytest.raises(LicenseMismatch, match=r"money\.min_royalty_bps"):
        await kept.get(work)
    again = document.license_hash, terms_of(document).abi()
    await net.done(creator, "ContentRegistry", "setTerms", 1, *again)
    assert (await kept.get(work)).where.withdrawn_at == 0

    await net.done(creator, "ContentRegistry", "withdraw", 1)
    gone = await kept.get(work)
    assert gone.where.withdrawn_at > 0 and gone.form("tdm-policy.json") is None
    assert "tdm-policy" not in (await kept.tdm_rules())[0]
