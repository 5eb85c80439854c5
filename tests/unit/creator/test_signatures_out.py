"""Which of an owner's signatures that are out could undo what is signed now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from viz.creator.signatures_out import FOLDER, SignatureOut, SignaturesOut
from viz.domain.units import ZERO_ADDRESS, ContentId
from viz.errors import InvalidRequest

NOW_S = 1_000
END_S = NOW_S + 3_600
HELD = SignatureOut(77, END_S, "approval of A for work 1", ContentId(1))


def signed(what: str, work: int, nonce: int = 3) -> SignatureOut:
    return SignatureOut(nonce, END_S, what, ContentId(work))


@pytest.fixture
def out(tmp_path: Path) -> SignaturesOut:
    made = SignaturesOut(tmp_path, 1, ZERO_ADDRESS, ZERO_ADDRESS)
    made.note(HELD, NOW_S)
    return made


def test_only_what_could_be_undone_waits(out: SignaturesOut) -> None:
    """The same work with another effect: nothing else is stopped by a node's false nonce."""
    revoked = signed("end of the approval of A for work 1", 1)
    with pytest.raises(InvalidRequest, match=r"nonce 77 \(approval of A.*Wait 3600 s.*Other works"):
        out.require_in_order(revoked, NOW_S)
    out.require_in_order(revoked, END_S + 1)
    out.require_in_order(signed("approval of A for work 2", 2), NOW_S)
    out.require_in_order(signed(HELD.what, 1), NOW_S)
    assert out.undone_by_same_nonce(signed(revoked.what, 1, 77), NOW_S)
    assert not out.undone_by_same_nonce(revoked, NOW_S)
    assert not out.undone_by_same_nonce(signed("approval of A for work 2", 2, 77), NOW_S)


def test_what_could_still_be_used_is_told_once(out: SignaturesOut) -> None:
    """A retry has the same nonce and effect: one line for both, until the later deadline."""
    again = SignatureOut(77, END_S + 9, HELD.what, ContentId(1))
    for each in (again, signed("approval of B for work 1", 1)):
        out.note(each, NOW_S)
    assert out.from_nonce(4, NOW_S) == (again,)
    assert [each.nonce for each in out.from_nonce(3, NOW_S)] == [3, 77]
    assert out.from_nonce(78, NOW_S) == ()


def test_a_record_without_the_work_counts_for_each_work(tmp_path: Path) -> None:
    """What an earlier version recorded must not be overlooked, and must stay readable."""
    place = tmp_path / FOLDER / f"1-{ZERO_ADDRESS}-{ZERO_ADDRESS}.json"
    place.parent.mkdir()
    before = {"nonce": "77", "deadline": END_S, "what": "approval of work 1"}
    place.write_text(json.dumps({"signatures": [before]}))
    out = SignaturesOut(tmp_path, 1, ZERO_ADDRESS, ZERO_ADDRESS)
    with pytest.raises(InvalidRequest, match="nonce 77"):
        out.require_in_order(signed("approval of A for work 2", 2), NOW_S)
    out.note(HELD, NOW_S)
    assert [each.content_id for each in out.from_nonce(0, NOW_S)] == [1, None]
