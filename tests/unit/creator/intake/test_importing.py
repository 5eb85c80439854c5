"""An import as a creator runs it: the files that it writes, what it shows, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from tests.fakes import documents
from typer.testing import CliRunner, Result

from viz.chain.keys import create_key_file
from viz.cli.main import app
from viz.creator.intake import importing, rights
from viz.creator.intake.decode import decoded
from viz.creator.intake.importing import sources_of
from viz.domain.license import Terms, Use
from viz.domain.units import hex_of
from viz.domain.work import parse_work
from viz.errors import InvalidRequest, InvalidWork
from viz.protocol.registration import parse_description

RESERVED = '<meta property="tdm:reservation">1</meta>'
KEY = bytes([7]) * 32


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def viz(*words: str | Path, password: str = "p") -> Result:
    given: dict[str, Any] = {"VIZ_KEY_PASSWORD": password}
    return CliRunner(env=given).invoke(app, ["content", *map(str, words)])


def test_a_folder_becomes_one_work_with_its_record(tmp_path: Path) -> None:
    """Chapters in the order of their numbers, and a record by which anyone can repeat it."""
    book = tmp_path / "book"
    (book / ".git").mkdir(parents=True)
    (book / ".git" / "x.txt").write_text("not this")
    (book / "10 last.md").write_text("# Last\n\nThe end.")
    (book / "2 first.txt").write_text("The beginning.")
    (book / "3 copy.txt").write_text("The beginning.")
    (book / "cover.png").write_bytes(b"\x89PNG\r\n")
    (book / "out.txt").symlink_to("/etc/hostname")
    done = viz("import", book, "--out", "made", "--title", "A book")
    assert done.exit_code == 0, done.output
    raw = (tmp_path / "made" / "work.txt").read_bytes()
    assert raw == b"The beginning.\n\n# Last\n\nThe end.\n"
    record = json.loads((tmp_path / "made" / "import.json").read_text())
    assert record["sha256"] == hashlib.sha256(raw).hexdigest()
    assert record["merkleRoot"] == hex_of(parse_work("text", raw).merkle_root)
    assert [each["name"] for each in record["sources"]] == ["2 first.txt", "10 last.md"]
    assert record["sources"][0]["sha256"] == hashlib.sha256(b"The beginning.").hexdigest()
    assert {each["name"] for each in record["leftOut"]} == {"3 copy.txt", "cover.png", "out.txt"}
    assert "markdown-it-py" in record["sources"][1]["tools"][0]
    assert "The beginning." in done.stdout
    assert "it has the same text as 2 first.txt" in done.stdout
    again = viz("import", book, "--out", "made")
    assert again.exit_code == 4
    assert "say --replace" in again.stderr
    assert viz("import", book, "--out", "made", "--replace").exit_code == 0


def test_an_import_is_ready_for_a_license_document(tmp_path: Path) -> None:
    """The folder names its work, so that the next commands need no file made by hand."""
    book = tmp_path / "book.html"
    head = '<title>"The keeper"\\ \x7f</title><meta name="author" content="Alma Reyes">'
    book.write_text(f'<html lang="en"><head>{head}</head><body><p>The lamp.</p></body></html>')
    done = viz("import", book, "--out", "made")
    assert done.exit_code == 0 and "viz license new made" in done.stdout, done.output
    terms = tmp_path / "made" / "terms.toml"
    licensed = Terms(0, 800, 0, 0, 0, Use.TRAIN, approval_required=False), {"text": "Name me."}
    named = parse_description(terms.read_text(), token_decimals=6, licensed=licensed)
    assert (named.title.strip(), named.file, named.kind) == ('"The keeper"\\', "work.txt", "text")
    terms.write_text("mine")
    assert viz("import", book, "--out", "made", "--replace").exit_code == 0
    assert terms.read_text() == "mine", "what the creator wrote stays"


def test_a_registered_work_is_never_written_again(tmp_path: Path) -> None:
    """Its commitment is of exactly these bytes: with others no trainer could use it."""
    (tmp_path / "a.txt").write_text("Words.")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "work.txt.registration.json").write_text("{}")
    done = viz("import", "a.txt", "--out", "made", "--replace")
    assert done.exit_code == 4
    assert "is registered, and must stay as it is" in done.stderr
    assert not (tmp_path / "made" / "work.txt").exists()


def test_one_refused_file_stops_a_folder_unless_it_is_left_out(tmp_path: Path) -> None:
    """No chapter goes missing in silence."""
    book = tmp_path / "book"
    book.mkdir()
    (book / "1.txt").write_text("One.")
    (book / "2.pdf").write_bytes(documents.pdf([[]], scanned=True))
    done = viz("import", "book", "--out", "made")
    assert done.exit_code == 4
    assert "2.pdf: the PDF has no text layer" in done.stderr
    assert "--leave-out" in done.stderr
    assert not (tmp_path / "made").exists()
    done = viz("import", "book", "--out", "made", "--leave-out", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["leftOut"][0]["name"] == "2.pdf"


def test_text_and_chats_are_two_works(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "b.jsonl").write_text('{"instruction": "a", "output": "b"}')
    done = viz("import", "a.txt", "b.jsonl")
    assert done.exit_code == 4
    assert "a.txt is text and b.jsonl holds chats: import them as two works" in done.stderr


def test_a_reservation_stops_an_import_until_it_is_signed_for(tmp_path: Path) -> None:
    """The most restrictive statement wins, and only the registrant's signature goes past it."""
    allowed = '<meta property="tdm:reservation">0</meta>'
    (tmp_path / "a.epub").write_bytes(documents.epub(["<p>Words.</p>"], allowed + RESERVED))
    done = viz("import", "a.epub")
    assert done.exit_code == 7
    assert "training is reserved by TDMRep" in done.stderr
    assert "--rights-are-mine KEYFILE" in done.stderr
    assert not (tmp_path / "a-book").exists()
    key = tmp_path / "alma.key.json"
    account = create_key_file(key, "p", account=Account.from_key(KEY), scrypt_n=2**10)
    unasked = viz("import", "a.epub", "--rights-are-mine", key)
    assert unasked.exit_code == 4
    done = viz("import", "a.epub", "--rights-are-mine", key, "--yes")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "a-book" / "import.json").read_text())
    assert record["rights"]["statement"].splitlines()[2] == (
        "- TDMRep, the book's metadata of a.epub: tdm-reservation: 1"
    )
    assert f"  {record['rights']['statement'].splitlines()[0]}" in done.stderr
    assert rights.signer_of(record["rights"], record["sha256"]) == account.address
    recovered = Account.recover_message(  # the same words, by another library
        __import__("eth_account.messages").messages.encode_defunct(
            text=record["rights"]["statement"]
        ),
        signature=record["rights"]["signature"],
    )
    assert recovered == account.address


def test_a_statement_of_rights_holds_for_its_text_and_words_alone() -> None:
    signed = rights.signed_statement(rights.statement_of("A", "ab" * 32, [], 0), KEY)
    assert rights.signer_of(signed, "ab" * 32) == Account.from_key(KEY).address
    with pytest.raises(InvalidRequest, match="for another text"):
        rights.signer_of(signed, "cd" * 32)
    with pytest.raises(InvalidRequest, match="was changed after it was signed"):
        rights.signer_of({**signed, "statement": signed["statement"] + " And more."}, "ab" * 32)
    with pytest.raises(InvalidRequest, match="is damaged"):
        rights.signer_of({**signed, "signature": "0x12"}, "ab" * 32)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_another_script_without_a_mark_is_not_read_as_noise(encoding: str) -> None:
    """Cyrillic in UTF-16 is valid UTF-8 as bytes: refused with its encoding, and read by it."""
    text = "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440.\n" * 9
    with pytest.raises(InvalidWork, match=f"begins with '\u041f\u0440.*say --encoding {encoding}"):
        decoded(text.encode(encoding))
    assert decoded(text.encode(encoding), encoding) == (text, encoding)
    plain = "Chapter one.\n" * 9
    assert decoded(plain.encode(encoding)) == (plain, encoding), "Latin letters tell it by zeros"
    assert decoded(b"a\x01" + plain.encode()) == ("a\x01" + plain, "utf-8")


def test_what_is_no_source_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidWork, match="has no file of a readable kind"):
        sources_of([tmp_path / "empty"])
    with pytest.raises(InvalidWork, match="neither a file nor a folder"):
        sources_of([tmp_path / "none"])


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core install has no parser of books, and says where it comes from."""
    from viz.creator.intake import sandbox
    from viz.errors import ConfigError

    answer = json.dumps({"missing": "mammoth"}).encode()
    monkeypatch.setattr(sandbox, "_child", lambda *_: ([answer], ""))
    with pytest.raises(ConfigError, match="mammoth is not installed"):
        sandbox.parse_one(sandbox.SourceFile("a.docx", b"x"))


@pytest.mark.parametrize("too_much", ["files", "folders", "depth"])
def test_a_folder_of_everything_is_refused_before_it_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, too_much: str
) -> None:
    """`viz content check /` names the remedy at once: it read every name of the disk first."""
    bounds = {"files": "MAX_SEEN", "folders": "MAX_FOLDERS", "depth": "MAX_DEPTH"}
    monkeypatch.setattr(importing, bounds[too_much], 3)
    (tmp_path / ".cache").mkdir()
    for number in range(9):
        (tmp_path / ".cache" / f"{number}.txt").write_text("no text of the work")
    (tmp_path / "book.txt").write_text("The tide comes in twice a day. " * 20)
    assert [each.name for each in sources_of([tmp_path])[0]] == ["book.txt"], "hidden ones are free"
    place = tmp_path
    for number in range(9):
        place = place / "more" if too_much == "depth" else tmp_path / str(number)
        if too_much == "files":
            place.write_bytes(b"")
        else:
            place.mkdir()
    entered = 0
    walk = os.walk

    def counted(folder: Path) -> Iterator[Any]:
        nonlocal entered
        for each in walk(folder):
            entered += 1
            yield each

    monkeypatch.setattr(os, "walk", counted)
    with pytest.raises(InvalidWork, match="name the folder that holds the work alone"):
        sources_of([tmp_path])
    assert entered <= 5, "it stops as soon as there is too much"
