"""Which custodians may hold a work's key: kept in turn, never from a listing of another work."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, address_of

from viz.creator.known_custodians import FOLDER, KnownCustodians
from viz.creator.sealed import listed_custodians
from viz.domain.units import ContentId
from viz.errors import StorageUnavailable
from viz.protocol.listing import CustodianAddress, SignedListing

WORK = ContentId(1)
LISTED = SignedListing.from_json(
    json.loads((Path(__file__).parents[2] / "vectors" / "market.json").read_text())["listing"][
        "signed"
    ]
)
A, B = (CustodianAddress(address_of(n), f"http://{n}.test") for n in (1, 2))


@pytest.fixture
def known(tmp_path: Path) -> KnownCustodians:
    return KnownCustodians(tmp_path, DEPLOYMENT, WORK)


def test_a_listing_tells_only_where_no_file_does(known: KnownCustodians) -> None:
    """A custodian whose custody was ended came back from the listing at each publication."""
    known.drop(A.node)
    known.begin([A, B])
    assert known.all() == (A, B), "a drop makes no file, which would tell that nobody holds it"
    known.drop(A.node)
    known.begin([A, B])
    assert known.all() == (B,)
    known.drop(B.node)
    known.begin([A, B])
    assert known.all() == ()


def test_a_listing_of_another_chain_registry_or_work_names_no_custodian(tmp_path: Path) -> None:
    """A work's file that was registered twice must not mix up who holds which."""
    work, of = tmp_path / "work.txt", LISTED.listing
    own = replace(DEPLOYMENT, chain_id=of.chain_id, content_registry=of.content_registry)
    assert listed_custodians(work, own, of.content_id) == ()
    (tmp_path / "work.txt.listing.json").write_text(json.dumps(LISTED.to_json()))
    assert listed_custodians(work, own, of.content_id) == of.custodians != ()
    changed: dict[str, Any]
    for changed in ({"chain_id": of.chain_id + 1}, {"content_registry": address_of(9)}):
        assert listed_custodians(work, replace(own, **changed), of.content_id) == ()
    assert listed_custodians(work, own, ContentId(of.content_id + 1)) == ()


def test_commands_at_once_lose_no_custodian(known: KnownCustodians) -> None:
    """A lost entry is a node that holds the key, and that nobody asks to destroy it."""
    many = [CustodianAddress(address_of(n), f"http://{n}.test") for n in range(1, 25)]
    with ThreadPoolExecutor(8) as commands:
        list(commands.map(lambda each: known.add([each]), many))
    assert {each.node for each in known.all()} == {each.node for each in many}


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The command ends before the key is sent, and says which file it is and what to do."""
    (tmp_path / FOLDER).write_text("in the way")
    known = KnownCustodians(tmp_path, DEPLOYMENT, WORK)
    for change in (known.add, known.begin):
        with pytest.raises(StorageUnavailable, match="make room, or get the right") as refused:
            change([A])
        assert str(tmp_path / FOLDER) in refused.value.detail
