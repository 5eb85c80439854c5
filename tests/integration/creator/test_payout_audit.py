"""`viz audit payouts` on anvil: every balance from the events alone, and every unit followed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.integration.chain.testnet import Testnet
from tests.integration.creator.relay_desk import new_owner
from tests.integration.creator.test_earnings import BUYERS, NODE, claim, distribute, sold

from viz.chain.settlement_history import SettlementHistory
from viz.domain.ports.transactions import Event
from viz.domain.settlement_audit import Transfers, rebuild
from viz.domain.units import Address, parse_address


async def lived(net: Testnet) -> None:
    """Claims, a distribution, a sale of a work, another distribution, a collection, a close."""
    first, _, adapter = await sold(net)
    await distribute(net, adapter)
    seller, buyer = net.sender(2), net.sender(9).address
    await net.done(seller, "ContentRegistry", "transferFrom", seller.address, buyer, first)
    await claim(net, adapter, 1_001, (3_003,))
    await distribute(net, adapter)
    await net.done(net.sender(0), "Settlement", "collect", net.sender(NODE).address)
    signer = parse_address(str(BUYERS[1].address))
    payer, node = net.sender(6), net.sender(NODE).address
    await net.done(payer, "Settlement", "requestClose", signer, node)
    await net.anvil.advance_time(2 * 3_600)
    await net.done(payer, "Settlement", "withdraw", signer, node)


async def read(net: Testnet) -> tuple[list[Event], Transfers]:
    history, last = SettlementHistory(net.chain), await net.rpc.block_number()
    transfers = await history.transfers(last)
    assert transfers is not None
    return await history.events(last), transfers


def changed(events: Iterable[Event], name: str, **args: Any) -> list[Event]:
    """Return the events with other arguments in the first of one name."""
    found, done = [], False
    for event in events:
        if event.name == name and not done and event.contract == "Settlement":
            found.append(replace(event, args={**event.args, **args}))
            done = True
        else:
            found.append(event)
    assert done
    return found


# One argument of one event that is not what it was, and what the finding says.
CHANGES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("Earned", {"toContents": 899}, "splits"),
    ("Earned", {"trainer": Address("0x" + "11" * 20)}, "as the trainer"),
    ("Earned", {"amount": 1}, "arrived"),
    ("Claimed", {"settled": 10**9}, "of a deposit of"),
    ("Distributed", {"accrued": 1}, "waited"),
    ("Distributed", {"paid": 1}, "were paid"),
    ("Collected", {"amount": 1}, "collects"),
    ("Withdrawn", {"amount": 1}, "gives 1 units"),
)


async def test_every_balance_follows_from_the_events_and_a_lie_is_found(
    net: Testnet, tmp_path: Path
) -> None:
    """The command ends with 0 on a true chain. Each event that is changed is named, and a transfer
    to another account than the owner's convicts."""
    await lived(net)
    desk = new_owner(tmp_path / "home", net)
    words = ("audit", "payouts", "--rpc", net.anvil.url, "--json")
    found = await desk.viz(*words, key=False, yes=False)
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["verdict"] == "reproduced" and told["findings"] == []
    assert (told["channels"], told["adapters"]) == (2, 1)
    owed = sum(int(told[name]) for name in ("deposits", "undistributed", "balances"))
    assert int(told["held"]) - owed == int(told["beyond"]) >= 0

    events, transfers = await read(net)
    assert rebuild(events, transfers).findings == []
    for name, args, said in CHANGES:
        findings = rebuild(changed(events, name, **args), transfers).findings
        assert any(said in finding for finding in findings), (name, findings)

    owner, thief = net.sender(3).address, net.sender(8).address
    stolen = {
        transaction: {thief if to == owner else to: units for to, units in moved.items()}
        for transaction, moved in transfers.items()
    }
    away = rebuild(events, stolen).findings
    assert any(f"paid {owner} 0 units" in each for each in away), away
    unseen = rebuild(events, None).findings
    assert any("cannot be read" in each for each in unseen), "what cannot be followed is told"
