"""What sealing a work does to the sealed file and the key that are there already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from viz.creator.sealed import registered_bytes, seal_work, sealed_path
from viz.domain.license import Terms
from viz.domain.units import Address, ContentId
from viz.errors import CommitmentMismatch
from viz.protocol.registration import WorkDescription
from viz.services.work_records import Registration, draft, record_path, records_in, save_record
from viz.storage.sealing import unseal_bytes

CREATOR = Address("0x" + "ab" * 20)
TEXT = "The keeper lights the lamp at dusk, and nobody knows why.\n"
TERMS = Terms(1_000, 800, 31_536_000, 604_800, 2, 3, False)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    path = tmp_path / "work.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def record(work: Path) -> Registration:
    made = draft(work, WorkDescription("The keeper", "text", work.name, TERMS, {}), CREATOR)
    return replace(made, content_id=ContentId(1), on_chain=True)


def beside(work: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in work.parent.iterdir()}


def test_another_file_than_the_registered_one_leaves_its_sealed_copy(
    work: Path, record: Registration
) -> None:
    """It may be the only copy that is left of what is on the chain, and so may its key."""
    seal_work(work, record)
    for other in (TEXT + "extra\n", "", "\x00"):
        work.write_text(other)
        before = beside(work)
        with pytest.raises(CommitmentMismatch, match="not the file that was registered") as refused:
            seal_work(work, record)
        assert "age -d -i" in str(refused.value), "it says where the registered file is"
        assert beside(work) == before
    sealed_path(work).unlink()
    with pytest.raises(CommitmentMismatch) as refused:
        registered_bytes(work, record)
    assert "age -d" not in str(refused.value)


def test_a_sealed_file_of_other_text_and_its_key_are_kept(work: Path, record: Registration) -> None:
    """Whatever it holds, nobody said that it may go: a number is added to both names."""
    old = seal_work(work, record)
    was = old.path.read_bytes()
    key = work.with_name("work.txt.age.key")
    work.write_text("Another work.\n")
    described = WorkDescription("Another", "text", work.name, TERMS, {})
    other = replace(draft(work, described, CREATOR), content_id=ContentId(2))
    new = seal_work(work, other)
    assert new.key != old.key and new.cid != old.cid
    aside = work.with_name("work.txt.age.1")
    assert aside.read_bytes() == was
    assert old.key in work.with_name("work.txt.age.1.key").read_text()
    # One whose key is gone cannot be opened: it is kept as well, under the next number.
    key.unlink()
    assert seal_work(work, other).cid != new.cid
    assert work.with_name("work.txt.age.2").is_file()
    assert not work.with_name("work.txt.age.2.key").exists()


def test_the_same_text_under_another_license_keeps_the_earlier_sealed_file(
    work: Path, record: Registration
) -> None:
    """Custodians may hold it, and only that key opens it: both get a number."""
    old = seal_work(work, record)
    was = old.path.read_bytes()
    assert seal_work(work, record) == old
    new = seal_work(work, replace(record, license={"text": "Other words."}))
    assert new.cid != old.cid
    assert work.with_name("work.txt.age.1").read_bytes() == was
    assert old.key in work.with_name("work.txt.age.1.key").read_text()
    opened = unseal_bytes(new.path, new.key, max_bytes=1 << 20)
    assert opened.endswith(b"\n" + TEXT.encode())


def test_the_records_of_a_folder_are_those_of_registered_works(
    work: Path, record: Registration
) -> None:
    """They tell a creator's own work from a near copy of it, and its license from an edited one."""
    assert records_in(work.parent) == []
    save_record(work, record)
    for place in (work, work.parent):
        ((path, found),) = records_in(place)
        assert (path, found.content_id, found.salt) == (work, record.content_id, record.salt)
    record_path(work).write_text("{")
    assert records_in(work) == []
