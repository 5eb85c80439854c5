"""What a creator is told of a work before signing: likeness, people, language, rights, facts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from viz.chain.keys import development_account
from viz.creator.intake import importing, rights
from viz.creator.intake.found import OptOut
from viz.creator.languages import guess_language
from viz.creator.likeness import alike, content_code, likeness
from viz.creator.personal_data import personal_data
from viz.creator.work_check import check_work
from viz.domain.units import ZERO_ADDRESS, Cid, ContentId
from viz.domain.work import parse_work
from viz.errors import InvalidRequest
from viz.protocol.listing import CustodianAddress, SealedBlob, WorkListing

ROOT = Path(__file__).parents[3]
WORKS = ROOT / "examples" / "works"
NOW_S = 1_800_000_000


def of_file(path: Path) -> importing.Imported:
    return importing.import_sources(importing.sources_of([path])[0])


def written(folder: Path, text: str, name: str = "work.txt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def novel(seed: str, sentences: int = 400) -> list[str]:
    """Return sentences that no other seed gives."""
    drawn = (hashlib.sha256(f"{seed}{number}".encode()).hexdigest() for number in range(sentences))
    return [f"The {each[:9]} went from {each[9:20]} to {each[20:31]}." for each in drawn]


def code_of(text: str) -> str:
    return content_code(parse_work("text", text.encode()))


def test_a_near_copy_is_told_and_a_stranger_is_not() -> None:
    """A tenth changed, other cases and spaces: alike. Another book of the same words: not."""
    lines = novel("alma")
    copied = [*lines[:360], *novel("else", 40)]
    original = code_of("\n\n".join(lines))
    near = likeness(original, code_of("\n\n".join(each.upper() for each in copied)))
    assert near is not None and near > 0.6
    other = likeness(original, code_of("\n\n".join(novel("bruno"))))
    assert other is not None and other < 0.4
    assert likeness(original, original) == 1.0
    for foreign in ("", "ISCC:KACYPXW445FTYNJ3", "ISCC:EAD" + "A" * 51 + "1", "x" * 80):
        assert likeness(original, foreign) is None, "a stranger's listing may hold anything"


def listing(content_id: int, iscc: str | None) -> WorkListing:
    custodian = CustodianAddress(ZERO_ADDRESS, "https://node.test")
    return WorkListing(
        1, ZERO_ADDRESS, ContentId(content_id), "A title", "Alma", "en", "text", 9, {},
        SealedBlob(Cid("bafk"), 9), (custodian,), NOW_S, iscc=iscc,
    )  # fmt: skip


def test_listed_works_that_are_alike_come_in_order_and_old_listings_are_passed_over() -> None:
    """Listings of earlier versions have no code, and what they sign stays what it was."""
    mine, lines = "\n\n".join(novel("alma")), novel("alma")
    half = code_of("\n\n".join([*lines[:340], *novel("else", 60)]))
    listings = [listing(1, None), listing(2, half), listing(3, code_of(mine)), listing(4, "odd")]
    assert [each.content_id for each in alike(code_of(mine), listings)] == [3, 2]
    found = alike(code_of(mine), listings, [ContentId(3)])
    assert [each.content_id for each in found] == [2], "a work is no near copy of itself"
    assert "iscc" not in listing(1, None).to_json()


@pytest.mark.parametrize(
    ("text", "kind", "count"),
    [
        ("Ring 030 12345678, (030) 901820 or 020 7946 0958.", "telephone number", 3),
        ("Ring 06 12 34 56 78, 01711234567 or 415-555-2671.", "telephone number", 3),
        ("On 01.02.2024, 01/02/2024 12:00 and 2024-01-02; 1 000 000, 0.25.", "telephone number", 0),
        ("ISBN 978-0-306-40615-7, at 12:30:45:00.", "telephone number", 0),
        ("The server is 2a02:8108:8c40:1e00::17.", "IP address", 1),
        ("std::vector, a::b, ::1, fe80::1, 1:2:3:4:5:6:7:8", "IP address", 0),
    ],
)
def test_numbers_are_found_as_people_write_them(text: str, kind: str, count: int) -> None:
    """A text of national telephone numbers was told to have none."""
    found = {each.kind: each.count for each in personal_data([text])}
    assert found.get(kind, 0) == count


def test_people_are_found_by_form_masked_and_counted_once() -> None:
    """Right sums are found and wrong ones are not; nothing is printed whole."""
    texts = [
        "Write to alma.reyes@example.org or call +49 30 1234567.",
        "Her account is DE89 3704 0044 0532 0130 00, her card 4111 1111 1111 1111.",
        "Not an account: DE89 3704 0044 0532 0130 01. Not a card: 4111 1111 1111 1112.",
        "In 1999 the ship 2026-11-30 carried 12345678 crates; version 1.2.3.4 of 10.0.0.1.",
        "SSN 078-05-1120, and 000-12-3456 is none.",
    ]
    found = {each.kind: each for each in personal_data(texts)}
    assert {kind: each.count for kind, each in found.items()} == {
        "e-mail address": 1, "telephone number": 1, "bank account (IBAN)": 1, "payment card": 1,
        "social security number (US)": 1, "IP address": 1,
    }  # fmt: skip
    assert found["payment card"].chunks == [1]
    shown = json.dumps([each.to_json() for each in found.values()])
    assert "alma.reyes" not in shown and "4111 1111 1111 1111" not in shown
    assert "alma.reyes@example.org"[:2] in shown


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The keeper of the light went to the sea, and it was dark in that part of the day.", "en"),
        ("Der Wärter ging an das Meer, und es war dunkel, denn die Sonne ist nicht da.", "de"),
        ("Le gardien est dans la tour et il ne dit pas que les bateaux sont sur la mer.", "fr"),
        ("El guardián de la torre no se va con los barcos que pasan por el mar.", "es"),
        ("灯台守は夕暮れにランプをともします。なぜかは誰も知りません。", "ja"),
        ("Смотритель зажигает лампу в сумерках, и никто не знает почему.", "script:Cyrillic"),
        ("zxcv qwer asdf", ""),
        ("", ""),
    ],
)
def test_a_language_is_guessed_or_left_open(text: str, language: str) -> None:
    """A guess is only shown to who knows better; where the words tell nothing, there is none."""
    assert guess_language(text * 4) == language


def test_what_is_learnable_is_told_with_what_is_not(tmp_path: Path) -> None:
    """A chunk that gives no fact is counted and shown: a creator learns it before paying."""
    text = (WORKS / "varn-point" / "work.jsonl").read_text(encoding="utf-8")
    told = check_work(of_file(written(tmp_path, text, "work.jsonl")), tmp_path)
    assert told["learnable"]["facts"] > 20 and told["learnable"]["silentChunks"] == 0
    assert told["languageGuessed"] == "en" and told["kind"] == "dialogue"
    prose = "\n\n".join(["The lamp of Varn Point is lit at dusk by its keeper.", "***", "XIV"])
    told = check_work(of_file(written(tmp_path / "b", prose)), tmp_path / "b")
    assert told["learnable"]["silentChunks"] == 2
    assert told["learnable"]["silentExamples"] == ["***", "XIV"]
    told = check_work(of_file(written(tmp_path / "c", "***")), tmp_path / "c")
    assert told["learnable"] is None and "no training rows" in told["learnableUnknown"]


def import_record(folder: Path, sha256: str, signed: dict[str, Any] | None) -> None:
    reserved = OptOut("TDMRep", "reserved", "meta element of a.html", "tdm-reservation: 1")
    record = {"sha256": sha256, "optOuts": [reserved.to_json()], "rights": signed}
    (folder / "import.json").write_text(json.dumps(record))


def test_reservations_of_an_earlier_import_count_until_the_rights_are_signed(
    tmp_path: Path,
) -> None:
    """They stand in import.json, since the text has lost them; a signature of another text, or a
    changed one, does not count, and the record of another text says nothing."""
    made = of_file(written(tmp_path, "\n\n".join(novel("alma", 20))))
    import_record(tmp_path, made.sha256, None)
    told = check_work(made, tmp_path)
    assert told["reserved"] and told["rightsSignedBy"] == ""
    account = development_account(1)
    words = rights.statement_of("A title", made.sha256, [], NOW_S)
    signed = rights.signed_statement(words, bytes(account.key))
    import_record(tmp_path, made.sha256, signed)
    assert check_work(made, tmp_path)["rightsSignedBy"] == account.address
    import_record(tmp_path, made.sha256, {**signed, "statement": words + " "})
    with pytest.raises(InvalidRequest, match="changed after"):
        check_work(made, tmp_path)
    import_record(tmp_path, "00" * 32, None)
    assert not check_work(made, tmp_path)["optOuts"]
    (tmp_path / "import.json").write_text("{")
    with pytest.raises(InvalidRequest, match="damaged"):
        check_work(made, tmp_path)
