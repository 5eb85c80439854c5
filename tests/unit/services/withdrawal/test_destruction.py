"""Destroying and certifying, with holders that fail and processes that are killed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.fakes.chain import DEPLOYMENT

from viz.domain.destruction import HeldItem, LeftItem
from viz.domain.eip712 import public_address, settlement_domain
from viz.domain.ports.holdings import EndedUse, WorkHoldings
from viz.domain.units import ContentId
from viz.errors import InvalidSignature
from viz.protocol.destruction import DestructionCertificate, certify
from viz.services.withdrawal.destruction import WorkDestruction

KEY = b"\x11" * 32
WHERE = settlement_domain(DEPLOYMENT.chain_id, DEPLOYMENT.settlement)
WORK = ContentId(3)
BOOK, KEYS = HeldItem("copy", "a book"), HeldItem("key", "its key")


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Shelf:
    """A holder whose items stay, or whose process ends, where a test says so."""

    items: set[HeldItem]
    stuck: set[HeldItem] = field(default_factory=set)
    killed_at: HeldItem | None = None
    left: tuple[LeftItem, ...] = ()

    async def holdings(self, ended: EndedUse) -> WorkHoldings:
        return WorkHoldings(tuple(sorted(self.items)), self.left)

    async def destroy(self, ended: EndedUse, items: Sequence[HeldItem]) -> None:
        for item in items:
            if item == self.killed_at:
                raise Killed
            if item in self.stuck:
                raise OSError(5, "Input/output error")
            self.items.discard(item)


def service(shelf: Shelf, folder: Path) -> WorkDestruction:
    key, node = KEY, public_address(KEY)
    return WorkDestruction([shelf], folder, folder.parent, key=key, domain=WHERE, node=node)


async def destroy(made: WorkDestruction) -> DestructionCertificate | None:
    use = EndedUse(WORK, own=True)
    return await made.destroy(use, withdrawn_at_s=100, due_at_s=200, time_s=260)


async def test_a_certificate_is_what_is_gone_and_says_who_signed(tmp_path: Path) -> None:
    """Protects the owner: the list is signed whole, and a changed word shows."""
    kept = (LeftItem("copy", "book.txt", "it is the operator's"),)
    made = service(Shelf({BOOK, KEYS}, left=kept), tmp_path)
    found = await destroy(made)
    assert found is not None
    assert (found.destroyed, found.left) == ((BOOK, KEYS), kept)
    assert found.certificate.node == public_address(KEY)
    (again,) = await made.certificates(WORK)
    assert again == found
    again.verify(WHERE)
    for changed in (
        replace(found, destroyed=(BOOK,)),
        replace(found, left=()),
        replace(found, beyond_recall=()),
        replace(found, certificate=replace(found.certificate, time_s=1)),
    ):
        with pytest.raises(InvalidSignature):
            changed.verify(WHERE)
    assert await destroy(made) is None, "nothing is left, so nothing is certified again"
    assert len(await made.certificates(WORK)) == 1


async def test_what_cannot_be_destroyed_is_named_and_tried_again(tmp_path: Path) -> None:
    """A certificate never says that something is gone which is there."""
    shelf = Shelf({BOOK, KEYS}, stuck={KEYS})
    made = service(shelf, tmp_path)
    first = await destroy(made)
    assert first is not None and first.destroyed == (BOOK,)
    assert [each.item for each in first.left] == [KEYS]
    assert await destroy(made) is None, "no certificate of nothing"
    shelf.stuck = set()
    second = await destroy(made)
    assert second is not None and second.destroyed == (KEYS,) and not second.left
    assert len(await made.certificates(WORK)) == 2


async def test_a_kill_in_the_middle_loses_no_item_of_the_certificate(tmp_path: Path) -> None:
    """What an earlier process destroyed without a certificate is in that of the next one."""
    shelf = Shelf({BOOK, KEYS}, killed_at=KEYS)
    with pytest.raises(Killed):
        await destroy(service(shelf, tmp_path))
    assert shelf.items == {KEYS} and not await service(shelf, tmp_path).certificates(WORK)
    shelf.killed_at = None
    found = await destroy(service(shelf, tmp_path))
    assert found is not None and found.destroyed == (BOOK, KEYS)


async def test_a_certificate_shows_no_folder_of_the_operator(tmp_path: Path) -> None:
    """It goes to strangers: a file is named below the data folder, or by its name alone."""
    data = tmp_path / "home" / "op" / "data"
    inside, outside = data / "works" / "3" / "work.txt", tmp_path / "home" / "op" / "book.txt"
    items = {HeldItem("copy", str(inside)), HeldItem("copy", str(outside)), KEYS}
    private = str(outside.with_name("other.txt"))
    shelf = Shelf(items, left=(LeftItem("copy", private, "it is the operator's"),))
    found = await destroy(service(shelf, data / "certificates"))
    assert found is not None and not shelf.items, "the holder got the whole paths"
    named = [each.name for each in found.destroyed]
    assert named == ["book.txt", "works/3/work.txt", "its key"]
    assert [each.name for each in found.left] == ["other.txt"]
    kept = (data / "certificates" / "3-1.json").read_text()
    assert str(tmp_path) not in kept and "home" not in kept
    found.verify(WHERE)


async def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Else one item is destroyed and left at once, which an honest certificate never says."""
    first, second = (str(tmp_path / name / "work.txt") for name in ("one", "two"))
    kept = LeftItem("copy", second, "it is the operator's")
    shelf = Shelf({HeldItem("copy", first)}, left=(kept, kept))
    found = await destroy(service(shelf, tmp_path / "data" / "certificates"))
    assert found is not None
    assert found.destroyed == (HeldItem("copy", "work.txt"),)
    assert [each.name for each in found.left] == ["work.txt (2)"], "and each is told once"


async def test_a_certificate_that_is_there_twice_is_answered_once(tmp_path: Path) -> None:
    """Protects the node: whoever reads one twice takes it for a false answer."""
    made = service(Shelf({BOOK}), tmp_path)
    found = await destroy(made)
    (tmp_path / "3-2.json").write_bytes((tmp_path / "3-1.json").read_bytes())
    assert await made.certificates(WORK) == (found,)


async def test_an_earlier_certificate_is_verified_as_it_was_signed(tmp_path: Path) -> None:
    """One that names whole paths keeps its signature: nothing in it is written anew."""
    items = (HeldItem("copy", "/home/op/data/works/3/work.txt"),)
    times = {"withdrawn_at_s": 100, "due_at_s": 200, "time_s": 260}
    node = public_address(KEY)
    made = certify(KEY, WHERE, node, WORK, **times, destroyed=items, left=())
    (tmp_path / "3-1.json").write_text(json.dumps(made.to_json()))
    (read,) = await service(Shelf(set()), tmp_path).certificates(WORK)
    assert read == made
    read.verify(WHERE)
