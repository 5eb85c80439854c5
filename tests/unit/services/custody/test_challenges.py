"""A challenge is one account's, once, for five minutes, in one process."""

from __future__ import annotations

import pytest
from tests.fakes.chain import FakeClock, address_of

from viz.domain.units import Hash32
from viz.errors import AccessTokenInvalid, TooManyQuestions
from viz.services.custody import challenges as module
from viz.services.custody.challenges import VALID_S, Challenges

ALICE, BOB = address_of(1), address_of(2)


def test_a_challenge_is_good_once_for_its_account_until_its_end() -> None:
    """Another account, another end, a changed bit, a second use, a late one: all refused."""
    clock = FakeClock()
    made = Challenges(clock)
    challenge, expiry_s = made.issue(ALICE)
    made.require(challenge, ALICE, expiry_s)
    for wrong in (
        (challenge, BOB, expiry_s),
        (challenge, ALICE, expiry_s + 1),
        (Hash32(bytes([challenge[0] ^ 1]) + challenge[1:]), ALICE, expiry_s),
        (Hash32(challenge[:31] + bytes([challenge[31] ^ 1])), ALICE, expiry_s),
    ):
        with pytest.raises(AccessTokenInvalid, match="ask for one with that account"):
            made.require(*wrong)
    made.spend(challenge, expiry_s)
    with pytest.raises(AccessTokenInvalid, match="used before"):
        made.require(challenge, ALICE, expiry_s)
    late, expiry_s = made.issue(ALICE)
    clock.now += VALID_S
    with pytest.raises(AccessTokenInvalid, match="run out"):
        made.require(late, ALICE, expiry_s)


def test_a_challenge_of_an_earlier_process_is_none() -> None:
    """What was used before a restart cannot be used again after it."""
    clock = FakeClock()
    challenge, expiry_s = Challenges(clock).issue(ALICE)
    with pytest.raises(AccessTokenInvalid):
        Challenges(clock).require(challenge, ALICE, expiry_s)


def test_what_is_remembered_is_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full memory refuses instead of forgetting what could be used again."""
    monkeypatch.setattr(module, "MOST_USED", 2)
    clock = FakeClock()
    made = Challenges(clock)
    for _ in range(2):
        made.spend(*made.issue(ALICE))
    with pytest.raises(TooManyQuestions):
        made.spend(*made.issue(ALICE))
    clock.now += VALID_S
    made.spend(*made.issue(ALICE))
