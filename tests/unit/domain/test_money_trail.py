"""What a channel paid is followed by the logs alone, to each work's owner and to the unit."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.chain import address_of

from viz.domain.money_trail import MoneyTrail, follow
from viz.domain.ports.transactions import Event
from viz.domain.typed_data import channel_id
from viz.domain.units import ZERO_HASH, AdapterId, Address, ContentId, Hash32

NODE, OTHER, ALMA, BRUNO = (address_of(each) for each in (1, 2, 3, 4))
CHANNEL, ANOTHER = channel_id(address_of(9), NODE), channel_id(address_of(8), NODE)
ADAPTER = AdapterId(7)
FIRST, SECOND = Hash32(b"\x01" * 32), Hash32(b"\x02" * 32)


def event(
    contract: str, name: str, block: int, transaction: Hash32 = ZERO_HASH, **args: Any
) -> Event:
    return Event(contract, name, args, block, ZERO_HASH, transaction, 0)


def earned(block: int, amount: int, works: int, transaction: Hash32, node: Address = NODE) -> Event:
    return event(
        "Settlement", "Earned", block, transaction, adapterId=7, node=node, trainer=BRUNO,
        amount=amount, toContents=works, toTrainer=0, toNode=amount - works,
    )  # fmt: skip


def claimed(block: int, settled: int, transaction: Hash32, channel: Hash32 = CHANNEL) -> Event:
    return event(
        "Settlement", "Claimed", block, transaction, channelId=channel, settled=settled,
        receiptsHead=ZERO_HASH,
    )  # fmt: skip


# Two works of 70 and 30 per cent; another buyer's claim of 11 came before.
REGISTERED = [
    event("ContentRegistry", "Transfer", 1, tokenId=1, to=ALMA),
    event("ContentRegistry", "Transfer", 1, tokenId=2, to=BRUNO),
    event(
        "AdapterRegistry", "AdapterRegistered", 2, adapterId=7, shares=[1 << 16 | 7_000,
        2 << 16 | 3_000],
    ),
    claimed(3, 11, FIRST, ANOTHER),
    earned(3, 11, 3, FIRST),
]  # fmt: skip
CLAIM = [claimed(4, 20, SECOND), earned(4, 20, 6, SECOND)]


def trail(*more: Event, billed: int = 20) -> MoneyTrail:
    return follow([*REGISTERED, *more], CHANNEL, {ADAPTER: billed}, NODE, ended=True)


def test_every_unit_has_an_owner() -> None:
    """The split of the 6 units after 3: floors of 9 less floors of 3, by the works' shares."""
    found = trail(*CLAIM)
    assert (found.findings, found.missing, found.claimed_units) == ([], [], 20)
    (claim,) = found.earned
    assert [(part.content_id, part.owner, part.units, part.paid) for part in claim.works] == [
        (ContentId(1), ALMA, 6 - 2, False), (ContentId(2), BRUNO, 2 - 0, False),
    ]  # fmt: skip
    assert sum(part.units for part in claim.works) == claim.to_works_units
    paid = event("Settlement", "Distributed", 5, adapterId=7, accrued=9, paid=8)
    assert all(part.paid for part in trail(*CLAIM, paid).earned[0].works)
    early = event("Settlement", "Distributed", 5, adapterId=7, accrued=3, paid=2)
    assert not any(part.paid for part in trail(*CLAIM, early).earned[0].works)


def test_what_is_not_claimed_yet_is_missing_and_no_lie() -> None:
    """A node claims by its own schedule; the rest is told to the unit."""
    assert trail().missing == ["the claim of 20 of 20 units"]
    part = trail(claimed(4, 15, SECOND), earned(4, 15, 4, SECOND))
    assert (part.findings, part.missing) == ([], ["the claim of 5 of 20 units"])


def test_an_open_channel_may_be_claimed_a_step_ahead() -> None:
    """That is money for later answers; only an end that keeps it is a lie."""
    events = [*REGISTERED, claimed(4, 21, SECOND), earned(4, 21, 6, SECOND)]
    found = follow(events, CHANNEL, {ADAPTER: 20}, NODE)
    assert (found.findings, found.missing, found.claimed_units) == ([], [], 21)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([claimed(4, 21, SECOND), earned(4, 21, 6, SECOND)], "its receipts bill 20"),
        ([claimed(4, 20, SECOND)], "it earned 0"),
        ([claimed(4, 20, SECOND), earned(4, 19, 5, SECOND)], "it earned 19"),
        ([claimed(4, 20, SECOND), earned(4, 20, 6, SECOND, OTHER)], f"credits {OTHER}"),
        ([claimed(4, 20, SECOND), earned(4, 20, 6, FIRST)], "it earned 0"),
    ],
)
def test_money_that_went_elsewhere_is_found(events: list[Event], said: str) -> None:
    """More claimed than billed, for nobody, for another adapter's or another node's account."""
    assert any(said in finding for finding in trail(*events).findings), trail(*events).findings


def test_the_base_model_s_money_is_the_node_s() -> None:
    """It has no works, and nobody is owed a part of it."""
    base = event(
        "Settlement", "Earned", 4, SECOND, adapterId=0, node=NODE, trainer=NODE, amount=20,
        toContents=0, toTrainer=0, toNode=20,
    )  # fmt: skip
    found = follow([*REGISTERED, claimed(4, 20, SECOND), base], CHANNEL, {AdapterId(0): 20}, NODE)
    assert found.findings == [] and found.earned[0].works == ()
