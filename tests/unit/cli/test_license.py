"""`viz license` as a creator uses it: write, check, show and export, without a chain."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.licenses import WALLET, changed, preset
from typer.testing import CliRunner, Result

from viz.chain.deployment import save_deployment
from viz.cli.main import app
from viz.creator.license_files import read_described, read_license, require_work
from viz.domain.units import ContentId, parse_address
from viz.protocol.license_document.writing import license_to_toml
from viz.protocol.license_forms.catalogue import NAMES
from viz.services.work_records import draft, save_record

WORK = Path("examples/works/varn-point")
SAID = (
    f"--name Alma --contact mailto:alma@example.org --wallet {WALLET} --language en --law Portugal"
)
INPUT, LICENSE = 4, 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A work's folder, and the deployment that its creator trusts."""
    for name in ("work.jsonl", "terms.toml"):
        shutil.copyfile(WORK / name, tmp_path / name)
    save_deployment(tmp_path / "deployment.json", DEPLOYMENT)
    return tmp_path


def viz(folder: Path, command: str, *, code: int = 0, typed: str = "") -> Result:
    words = command.format(folder).split()
    if words[:2] == ["license", "new"]:
        words += ["--data-dir", str(folder)]
    done = CliRunner().invoke(app, words, input=typed)
    assert done.exit_code == code, done.output
    return done


@pytest.mark.parametrize("name", ["research", "commercial", "approval", "no-excerpt"])
def test_each_preset_is_written_for_the_work(folder: Path, name: str) -> None:
    """The file is valid as it is, and names the work by its bytes."""
    done = viz(folder, f"license new {{0}} --preset {name} {SAID}")
    assert "license.toml" in done.output and "What the contracts on the chain hold" in done.output
    document = read_license(folder / "license.toml")
    require_work(document, folder / "work.jsonl", "dialogue")
    assert document.work.title == "The keeper of Varn Point"
    assert document.chain.registry == DEPLOYMENT.content_registry
    checked = viz(folder, "license check {0}/license.toml --work {0} --json")
    assert json.loads(checked.stdout)["checked"] == ["fields", "work"]
    other = (folder / "license.toml").read_text().replace("The keeper of Varn Point", "Another")
    (folder / "other.toml").write_text(other)
    done = viz(folder, "license check {0}/other.toml --work {0}", code=LICENSE)
    assert "work.title is 'Another' in the document" in done.stderr


def test_what_is_missing_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a creator is led through the license."""
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("viz.cli.creator.license.sys", terminal)
    typed = f"approval\nAlma\nalma\nmailto:alma@example.org\n0x12\n{WALLET.lower()}\nPortugal\n"
    done = viz(folder, "license new {0} --fee 3.5", typed=typed)
    assert "the contact is not an address: write" in done.output, "told at once, and asked again"
    assert "0x12" in done.output
    assert "for trainers that you approve" in done.output
    document = read_license(folder / "license.toml")
    assert document.limits.approval_required and document.money.training_fee == "3.5"
    assert document.licensor.wallet == WALLET and document.work.language == "en"


def test_each_condition_can_be_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A creator who knows no field writes a license of her own; a bad answer is named."""
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("viz.cli.creator.license.sys", terminal)
    own = "research\n0\n0\n0\ny\nn\n20\nn\nn\nPT, DE\n1\n30\n"
    viz(folder, f"license new {{0}} --preset guided {SAID}", typed=own)
    document = read_license(folder / "license.toml")
    assert document.limits.territory == ["PT", "DE"] and document.limits.grant_s == 0
    assert document.limits.approval_required and document.limits.field == "research"
    assert not (document.rights.compose or document.rights.excerpts.permitted)
    assert document.rights.excerpts.max_tokens == 20
    assert (document.exit.effect, document.exit.notice_s) == ("stop-new-adapters", 30 * 86_400)
    proposed = "\n" * 12
    command = f"license new {{0}} --preset guided {SAID} --out {{0}}/2.toml"
    viz(folder, command, typed=proposed)
    assert read_license(folder / "2.toml").rights.excerpts.max_tokens == 64
    bad = "nonsense\nresearch\n-1\n0\n10001\n0\n-2\n0\ny\nn\n20\nn\nn\nEU\nPT\n3\n1\n91\n30\n"
    command = f"license new {{0}} --preset guided {SAID} --out {{0}}/3.toml"
    said = viz(folder, command, typed=bad).output
    for field in ("limits.field", "money.training_fee", "money.min_royalty_bps", "limits.grant_s",
                  "limits.territory.0", "exit.revocation_class", "exit.notice_s"):  # fmt: skip
        assert f"{field}:" in said, "told at once, and asked for again: no answer is lost"
    assert read_license(folder / "3.toml").limits.territory == ["PT"]


def test_a_file_without_terms_is_licensed_too(folder: Path) -> None:
    (folder / "tale.md").write_text("Once there was a lighthouse.\n", encoding="utf-8")
    viz(
        folder,
        f"license new {{0}}/tale.md --title Tale --preset research {SAID} --out {{0}}/l.toml",
    )
    document = read_license(folder / "l.toml")
    assert document.work.title == "Tale" and document.money.training_fee == "0"
    require_work(document, folder / "tale.md", "text")


def test_a_license_of_the_public_domain_is_free(folder: Path) -> None:
    """A preset with a price has none of a work that nobody owns."""
    done = viz(folder, f"license new {{0}} --preset commercial --acquired public-domain {SAID}")
    assert "nobody owns it" in done.output
    document = read_license(folder / "license.toml")
    assert (document.money.training_fee, document.money.min_royalty_bps) == ("0", 0)


def test_nobody_is_asked_to_limit_what_nobody_owns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a work in the public domain only the terms of its registration are asked for."""
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("viz.cli.creator.license.sys", terminal)
    command = f"license new {{0}} --preset guided --acquired public-domain {SAID}"
    done = viz(folder, command, typed="30\nn\n1\n7\n")
    for question in ("Fee of a grant", "royalty", "quote", "Countries", "handed on"):
        assert question not in done.output.split("In the public domain")[0]
    document = read_license(folder / "license.toml")
    assert document.limits.grant_s == 30 * 86_400 and document.exit.revocation_class == 1
    assert document.rights.excerpts.permitted and document.rights.export
    assert document.warranties.given == []


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("license new {0} --preset royal " + SAID, "is not a preset"),
        (
            "license new {0} --preset research --name A",
            "--contact, --wallet, --law are missing",
        ),
        ("license new {0} " + SAID, "--preset is missing"),
        ("license new {0} --preset guided " + SAID, "asks on a terminal"),
        ("license new {0} --preset research --fee 1e3 " + SAID, "money.training_fee"),
        ("license new {0} --preset research --royalty-bps 10001 " + SAID, "min_royalty_bps"),
        ("license new {0} --preset commercial --capacity agent " + SAID, "work.acquired"),
        (
            "license new {0} --preset commercial --acquired public-domain --fee 2 " + SAID,
            "work.acquired is public-domain: nobody owns it",
        ),
        ("license new {0}/deployment.json --title T --preset research " + SAID, "is not a work"),
        ("license new {0}/work.jsonl --preset research " + SAID, "--title is missing"),
        ("license new {0} --preset research --out {0}/terms.toml " + SAID, "exists already"),
        ("license check", "name a license file"),
        ("license show", "--content ID"),
        ("license check --content 1", "--rpc"),
        ("license check {0}/terms.toml", "format must be"),
        ("license check {0}/none.toml", "cannot be read"),
        ("license check {0}/l.toml --content 1", "--rpc"),
        ("license show {0}/work.jsonl", "not TOML"),
        ("license export {0}/l.toml --url javascript:x --path /", "is not an https URL"),
        ("license export {0}/l.toml --url https://a.test/?x=1 --path /", "is not an https URL"),
        ("license export {0}/l.toml --url https://a.test --path book", "is not a path"),
    ],
)
def test_bad_input_is_answered_by_one_line(folder: Path, command: str, says: str) -> None:
    (folder / "l.toml").write_text(license_to_toml(preset()), encoding="utf-8")
    done = viz(folder, command, code=INPUT)
    assert says in " ".join(done.output.split()) and "Traceback" not in done.output


def test_a_license_for_another_file_is_refused(folder: Path) -> None:
    """The field that differs is named, with both values."""
    (folder / "l.toml").write_text(license_to_toml(preset()), encoding="utf-8")
    done = viz(folder, "license check {0}/l.toml --work {0}", code=LICENSE)
    assert "license-mismatch" in done.output and "work.sha256" in done.output


def test_names_cannot_command_the_terminal(folder: Path) -> None:
    """What reverses text is shown as a mark, and no escape reaches the screen."""
    document = changed({"licensor.name": "A\u202elma [bold]x[/bold]"})
    (folder / "l.toml").write_text(license_to_toml(document), encoding="utf-8")
    done = viz(folder, "license show {0}/l.toml")
    assert "A[U+202E]lma [bold]x[/bold], the author" in done.output
    assert "\u202e" not in done.output


def test_every_form_is_exported(folder: Path) -> None:
    """A creator's own site can publish what a node would."""
    (folder / "l.toml").write_text(license_to_toml(preset()), encoding="utf-8")
    command = "license export {0}/l.toml --url https://alma.test/l/ --path /book/ --content 4"
    done = viz(folder, command + " --to {0}/out")
    assert "License: https://alma.test/l/rsl.xml" in done.output
    assert {path.name for path in (folder / "out").iterdir()} == {*NAMES, "tdmrep.json"}
    assert (folder / "out" / "license.json").read_bytes() == preset().canonical
    rules = json.loads((folder / "out" / "tdmrep.json").read_text())
    assert rules == [
        {"location": "/book/", "tdm-reservation": 1,
         "tdm-policy": "https://alma.test/l/tdm-policy.json"}
    ]  # fmt: skip
    viz(folder, command + " --to {0}/out")
    (folder / "out" / "tdmrep.json").write_text("[]")
    refused = viz(folder, command + " --to {0}/out", code=INPUT)
    assert "tdmrep.json exists already" in " ".join(refused.output.split())
    assert (folder / "out" / "tdmrep.json").read_text() == "[]"
    shown = viz(folder, "license show {0}/out/license.json --json")
    assert json.loads(shown.stdout) == preset().to_json()


def test_an_export_of_an_edited_license_says_so(folder: Path) -> None:
    """The chain has the hash of the one that the work was registered with."""
    viz(folder, f"license new {{0}} --preset commercial {SAID}")
    document = read_license(folder / "license.toml")
    work, terms, owner = folder / "work.jsonl", folder / "terms.toml", parse_address(WALLET)
    terms.write_text('title = "The keeper of Varn Point"\nkind = "dialogue"\nfile = "work.jsonl"\n')
    described = read_described(terms, folder / "license.toml", DEPLOYMENT, owner)
    save_record(work, replace(draft(work, described, owner), content_id=ContentId(4)))
    command = "license export {0}/license.toml --url https://alma.test/l --path /book/ --to {0}"
    assert "differs" not in viz(folder, command + "/one").output
    edited = replace_fee(license_to_toml(document))
    (folder / "license.toml").write_text(edited, encoding="utf-8")
    done = viz(folder, command + "/two")
    assert "differs  from the license that work 4 was registered with" in done.output
    told = json.loads(viz(folder, command + "/two --json").stdout)
    assert told["differsFrom"] == [4]


def replace_fee(toml: str) -> str:
    changed = toml.replace('training_fee = "2', 'training_fee = "3')
    assert changed != toml
    return changed
