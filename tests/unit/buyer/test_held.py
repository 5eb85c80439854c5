"""What the day's budget holds for an answer whose process was killed is freed as it gets known."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.unit.buyer.network.test_budget import NEVER_ENDED, Clock, budget
from tests.unit.buyer.signing import ASKED, Node, asking, receipt, signer_of
from tests.unit.buyer.test_ledger import NODE, observe, opened

from viz.buyer.ledger.folders import directory_of, hold
from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.network_record import NetworkFile
from viz.buyer.ledger.node_standing import NodeStanding
from viz.domain.units import Units
from viz.errors import BudgetSpent

LIMIT, SIGNED, MOST = 1_000, 20, 900


async def killed_in_an_answer(home: Path, clock: Clock, *, on_credit: bool = False) -> str:
    """Have a process end in an answer that may cost ``MOST``, and return its request's name."""
    ledger = opened(home)
    observe(ledger, LIMIT, 0)
    standing = NodeStanding((NODE,), LIMIT)
    ledger.commit_standing(standing.on_credit() if on_credit else standing)
    signer = signer_of(ledger, Node())
    reservation = NEVER_ENDED.enter_context(budget(home, clock).reserve(MOST, MOST, 5_000))
    with asking(signer, ASKED, MOST) as request:
        request.held = reservation.name
        signer.keep(request)
        await signer.cover(ASKED, required_units=SIGNED, wanted_units=SIGNED)
        name = request.name
        ledger.close()  # the kernel does this when the process is killed
        del ledger
    return name


def held_units(home: Path) -> list[Units]:
    return [units for _, units in NetworkFile(home).read().held.values()]


async def test_no_more_is_held_than_is_signed_when_the_channel_is_opened(tmp_path: Path) -> None:
    """The whole day was held until the end of the next one for an answer of a few units."""
    clock = Clock()
    await killed_in_an_answer(tmp_path, clock)
    assert held_units(tmp_path) == [MOST]
    ledger = opened(tmp_path)
    assert held_units(tmp_path) == [SIGNED]
    ledger.close()


async def test_the_bill_counts_in_place_of_what_is_held(tmp_path: Path) -> None:
    clock = Clock()
    name = await killed_in_an_answer(tmp_path, clock)
    ledger: BuyerLedger = opened(tmp_path)
    signer = signer_of(ledger, Node())
    assert signer.take_late(receipt(signer, ASKED, 15, name=name))
    assert not held_units(tmp_path) and budget(tmp_path, clock).spent_units == 15
    ledger.close()


async def test_a_limit_that_is_held_by_a_killed_answer_lets_others_begin(tmp_path: Path) -> None:
    """Without a channel being opened, since a refused request opens none."""
    clock = Clock()
    await killed_in_an_answer(tmp_path, clock)
    day = budget(tmp_path, clock, LIMIT)
    lock = hold(directory_of(tmp_path, DEPLOYMENT, NODE))
    with pytest.raises(BudgetSpent), day.reserve(500, 500, 5_000):
        pass
    assert held_units(tmp_path) == [MOST], "the process that has the channel may be alive"
    lock.release()
    with day.reserve(500, 500, 5_000):
        assert day.left_units == LIMIT - 500 - SIGNED


async def test_what_a_node_on_credit_may_demand_stays_held(tmp_path: Path) -> None:
    await killed_in_an_answer(tmp_path, Clock(), on_credit=True)
    opened(tmp_path).close()
    assert held_units(tmp_path) == [MOST]
