"""The rules of an account's nonces, N1 to N6 of ``viz.chain.nonces``, decision by decision."""

from __future__ import annotations

import pytest

from viz.chain.nonces import LASTS_S, MOST_APART, MOST_FILLED, AccountNonces, NonceGap, lowest_free
from viz.domain.units import Address, Hash32
from viz.errors import ChainUnreachable

ACCOUNT = Address("0x000000000000000000000000000000000000dEaD")
NAME = Hash32(b"\1" * 32)
FAR = MOST_APART + 1


def knowing(mined: int, now_s: float = 0.0) -> AccountNonces:
    nonces = AccountNonces(ACCOUNT)
    assert nonces.doubts(mined, 0), "the first count is compared"
    assert nonces.start(mined, mined, 0, now_s) == mined
    return nonces


def told(nonces: AccountNonces, count: int, now_s: float) -> int | None:
    """Return where the nonces start if both counts say the same; None if they are refused."""
    mined = count if nonces.doubts(count, 0) else None
    try:
        return nonces.start(count, mined, 0, now_s)
    except ChainUnreachable:
        return None


def test_the_lowest_nonce_that_is_not_open_is_taken() -> None:
    """N1, N2."""
    assert lowest_free(5, {5, 6, 8}) == 7
    assert lowest_free(5, {4, 6}) == 5


def test_counts_that_contradict_each_other_are_refused() -> None:
    """N4: one of them alone may be any number."""
    nonces = knowing(100)
    assert not nonces.doubts(100 + MOST_APART, 0) and nonces.doubts(100 + FAR, 0)
    assert nonces.doubts(99, 0) and not nonces.doubts(100 + FAR, 1)
    for pending, mined in ((2**60, 100), (99, 2**60), (0, 100)):
        with pytest.raises(ChainUnreachable, match="nothing was sent"):
            nonces.start(pending, mined, 0, 1.0)
    assert told(nonces, 101, 2.0) == 101
    assert nonces.start(99, 102, 0, 3.0) == 102, "the higher one of two that differ little"


@pytest.mark.parametrize("lie", [95 - FAR, 100 + FAR, 10**6])
def test_counts_far_from_what_is_known_must_last(lie: int) -> None:
    """N4: above or below; an answer in between that is near ends what was told before it."""
    nonces = knowing(100)
    assert told(nonces, lie, 10.0) is None
    assert told(nonces, 100, 20.0) == 100
    assert told(nonces, lie, 10.0 + LASTS_S) is None, "two moments are not all the time between"
    assert told(nonces, lie + 1, 9.0 + 2 * LASTS_S) is None
    assert told(nonces, lie + 2, 10.0 + 2 * LASTS_S) == lie + 2
    assert told(nonces, lie + 3, 10.0 + 2 * LASTS_S) == lie + 3


def test_many_small_lies_are_no_large_one() -> None:
    """N4: each within the bound above the last one, all within ``LASTS_S``."""
    nonces = knowing(100)
    highest = 100
    for step in range(100):
        pending, mined = highest + MOST_APART, highest + MOST_APART - 1
        try:
            highest = nonces.start(pending, mined, 0, LASTS_S + step / 9)
        except ChainUnreachable:
            continue
    assert 100 < highest <= 100 + 2 * FAR


def test_a_receipt_counts_for_more_than_a_count_that_lacks_it() -> None:
    """N3; a receipt of long ago is not the last one, and tells nothing of how many there are."""
    nonces = knowing(100)
    assert nonces.missed_by(100) is None
    nonces.saw(NAME, 100)
    assert nonces.missed_by(100) == NAME and nonces.up_to_seen == 101
    assert nonces.missed_by(101) is None
    assert nonces.doubts(100, 0)
    nonces.saw(Hash32(b"\2" * 32), 7)
    assert nonces.missed_by(100) == NAME
    fresh = AccountNonces(ACCOUNT)
    fresh.saw(NAME, 7)
    assert told(fresh, 1_000, 0.0) == 1_000


def test_only_a_gap_that_lasts_is_filled_up_to_what_is_within_reach() -> None:
    """N5, N6: what is out of reach keeps nothing else from being filled, and is named."""
    nonces = knowing(10)
    taken = {10, 14, 11 + MOST_FILLED, 12 + MOST_FILLED, 10**6}
    reach = 11 + MOST_FILLED
    assert nonces.gap(10, taken, 0.0) is None
    assert nonces.gap(10, taken, LASTS_S - 1) is None
    assert nonces.gap(10, taken, LASTS_S) == NonceGap(reach, reach)
    assert nonces.gap(12, taken, LASTS_S) is None, "somebody else fills it"
    assert nonces.gap(10, {10**6}, 90.0) is None
    assert nonces.gap(10, {10**6}, 90.0 + LASTS_S) == NonceGap(None, 10 + MOST_FILLED)
    assert nonces.gap(10, {10, 11}, 200.0) is None and nonces.gap(10, (), 200.0) is None


def test_what_is_left_of_a_gap_is_as_old_as_the_gap() -> None:
    """N5: sixty-four are filled at a time, and the rest does not wait again."""
    nonces = knowing(10)
    assert nonces.gap(10, {20}, 0.0) is None
    assert nonces.gap(10, {20}, LASTS_S) == NonceGap(20, 10 + MOST_FILLED)
    nonces.filled(10)
    assert nonces.gap(11, {20}, LASTS_S + 1) == NonceGap(20, 11 + MOST_FILLED)


def test_refused_counts_start_a_gaps_time_again() -> None:
    """N5: two low counts half a minute apart, refused between, are no gap that lasted."""
    nonces = knowing(1_000)
    low = 1_000 - FAR
    assert nonces.gap(low, {1_000}, 0.0) is None
    assert told(nonces, low, 1.0) is None
    assert nonces.gap(low, {1_000}, LASTS_S) is None
    assert nonces.gap(low, {1_000}, 2 * LASTS_S) is not None
