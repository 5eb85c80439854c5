"""`viz audit payouts` on anvil: every balance from the events alone, and every unit followed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.chain.testnet import Testnet
from tests.integration.creator.relay_desk import CHAIN, new_owner
from tests.integration.creator.test_earnings import BUYERS, NODE, claim, distribute, sold

from viz.chain.rpc import Log, Rpc
from viz.chain.settlement_history import SettlementHistory
from viz.domain.ports.transactions import Event
from viz.domain.settlement_audit import RebuiltBooks, Transfers, rebuild
from viz.domain.units import ZERO_ADDRESS, Address, parse_address
from viz.errors import ChainError


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


async def moved_on(net: Testnet) -> None:
    """The node names a payout address; collections come before and after it takes effect."""
    worker, adapter, settled = net.sender(NODE), await net.chain.adapters.count(), 4_004
    await net.done(worker, "Settlement", "setPayoutAddress", net.sender(8).address)
    for wait_s in (0, 2 * 3_600):
        await net.anvil.advance_time(wait_s)
        await claim(net, adapter, settled, (500,))
        settled += 500
        await net.done(net.sender(0), "Settlement", "collect", worker.address)
    await net.done(worker, "Settlement", "setPayoutAddress", ZERO_ADDRESS)


@dataclass(frozen=True)
class Read:
    """All that the balances are rebuilt from."""

    events: list[Event]
    transfers: Transfers
    times: Mapping[int, int]
    close_delay_s: int

    def rebuilt(self, **changes: Any) -> RebuiltBooks:
        given = {field.name: getattr(self, field.name) for field in fields(self)} | changes
        return rebuild(given.pop("events"), given.pop("transfers"), **given)


async def read(net: Testnet) -> Read:
    history, last = SettlementHistory(net.chain), await net.rpc.block_number()
    transfers, events = await history.transfers(last), await history.events(last)
    assert transfers is not None
    delay_s = await net.chain.settlement.close_delay_s()
    return Read(events, transfers, await history.times(events), delay_s)


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
    later = await desk.viz(*words, "--to", 99_999, key=False, yes=False)
    assert later.exit_code == 4 and "--to 99999 is after the chain's newest block" in later.stderr
    assert (told["channels"], told["adapters"]) == (2, 1)
    owed = sum(int(told[name]) for name in ("deposits", "undistributed", "balances"))
    assert int(told["held"]) - owed == int(told["beyond"]) >= 0

    all_read = await read(net)
    events, transfers = all_read.events, all_read.transfers
    assert all_read.rebuilt().findings == []
    for name, args, said in CHANGES:
        findings = all_read.rebuilt(events=changed(events, name, **args)).findings
        assert any(said in finding for finding in findings), (name, findings)

    owner, thief = net.sender(3).address, net.sender(8).address
    stolen = {
        transaction: {thief if to == owner else to: units for to, units in moved.items()}
        for transaction, moved in transfers.items()
    }
    away = all_read.rebuilt(transfers=stolen).findings
    assert any(f"paid {owner} 0 units" in each for each in away), away
    unseen = all_read.rebuilt(transfers=None)
    assert unseen.findings == [], "what cannot be followed accuses nobody"
    assert "not followed" in unseen.missing[0]


def sent_to(all_read: Read, collection: int, to: Address) -> Read:
    """Return the history with one collection, and its transfer, sent to another account."""
    which = [each for each in all_read.events if each.name == "Collected"][collection]
    events = [
        replace(each, args={**each.args, "to": to}) if each is which else each
        for each in all_read.events
    ]
    moved = {to: int(which.args["amount"])}
    return replace(
        all_read, events=events, transfers={**all_read.transfers, which.transaction_hash: moved}
    )


async def test_a_collection_to_another_than_the_account_s_payout_address_is_found(
    net: Testnet, tmp_path: Path
) -> None:
    """The event and the transfer agree on the thief; what the account had named convicts. An
    address counts from the time on that its event says, not before, and no longer than the next."""
    await lived(net)
    await moved_on(net)
    desk = new_owner(tmp_path / "home", net)
    words = ("audit", "payouts", "--rpc", net.anvil.url, "--json")
    found = await desk.viz(*words, key=False, yes=False)
    assert found.exit_code == 0, found.output

    all_read = await read(net)
    node, named, thief = net.sender(NODE).address, net.sender(8).address, net.sender(7).address
    sent = [each.args["to"] for each in all_read.events if each.name == "Collected"]
    assert sent == [node, node, named], "before it was named, before it took effect, and after"
    for collection, due in enumerate(sent):
        for to in {node, named, thief} - {due}:
            findings = sent_to(all_read, collection, to).rebuilt().findings
            assert any(f"to {to}, and it was due to {due}" in each for each in findings), findings

    unread = all_read.rebuilt(times={})
    assert unread.findings == [] and "2 collections" in unread.missing[0], unread
    certain = sent_to(all_read, 1, thief).rebuilt(times={}).findings
    assert any(f"sends the balance of {node} to {thief}" in each for each in certain)
    (early, *_) = [each for each in all_read.events if each.name == "PayoutAddressSet"]
    at = int(early.args["effectiveAt"])
    findings = all_read.rebuilt(
        events=changed(all_read.events, "PayoutAddressSet", effectiveAt=at - 60)
    ).findings
    assert any(f"takes effect at {at - 60}, not at {at}" in each for each in findings), findings


async def test_an_endpoint_without_the_event_that_named_a_payout_address_accuses_nobody(
    net: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract's view has an address that no event named: logs are missing."""
    await lived(net)
    await moved_on(net)
    await net.done(net.sender(NODE), "Settlement", "setPayoutAddress", net.sender(8).address)
    await net.anvil.advance_time(2 * 3_600)
    history, last = SettlementHistory(net.chain), await net.rpc.block("latest")
    events = await history.events(last.number)

    async def without(self: SettlementHistory, last: int) -> list[Event]:
        return [each for each in events if each.name != "PayoutAddressSet"]

    monkeypatch.setattr(SettlementHistory, "events", without)
    with pytest.raises(ChainError, match=f"goes to {net.sender(8).address}.*{net.anvil.url}"):
        await history.read(last)


def forgetful(monkeypatch: pytest.MonkeyPatch, first: int, only: Address | None = None) -> None:
    """Let every endpoint forget the logs before a block, of all addresses or of one."""
    true = Rpc.logs

    async def served(self: Rpc, addresses: Sequence[Address], *given: Any) -> tuple[Log, ...]:
        logs = await true(self, addresses, *given)
        return tuple(
            each for each in logs if each.block_number >= first or only not in (None, each.address)
        )

    monkeypatch.setattr(Rpc, "logs", served)


@pytest.mark.parametrize("kept", ["none", "the newer half"])
async def test_an_endpoint_that_lacks_logs_is_named_and_nothing_is_reproduced(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """No logs look like no payouts and like no earnings: the contracts' own counts say otherwise,
    so no command concludes anything, for or against anybody."""
    await lived(net)
    await net.register_work(net.sender(2))
    desk = new_owner(tmp_path / "home", net)
    receipts = tmp_path / "receipts.json"
    receipts.write_text('{"receipts": []}')
    last = await net.rpc.block_number()
    forgetful(monkeypatch, last + 1 if kept == "none" else last)
    for words in (
        ("audit", "payouts"),
        ("audit", "receipts", receipts, "--node", net.sender(NODE).address),
        ("content", "statement", 1),
    ):
        found = await desk.viz(*words, "--rpc", net.anvil.url, key=False, yes=False)
        assert found.exit_code == CHAIN, found.output
        assert "is registered, but the endpoint" in found.stderr
        assert net.anvil.url in found.stderr and "--rpc" in found.stderr


async def test_an_endpoint_that_lacks_the_token_s_logs_accuses_nobody(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Settlement holds says that there were transfers. Payouts that cannot be followed are
    missing: neither a success nor a finding."""
    await lived(net)
    desk = new_owner(tmp_path / "home", net)
    last = await net.rpc.block_number()
    forgetful(monkeypatch, last, net.deployment.token)
    words = ("audit", "payouts", "--rpc", net.anvil.url, "--json")
    found = await desk.viz(*words, key=False, yes=False)
    told = json.loads(found.stdout)
    assert (found.exit_code, told["findings"]) == (14, []), told
    assert "transfers of the token" in told["missing"][0]


async def test_a_claim_that_the_endpoint_hides_is_counted_by_the_view(
    net: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel's settled total is the contract's word; an endpoint without the claim is named."""
    await sold(net)
    last = await net.rpc.block_number()
    history = SettlementHistory(net.chain)
    events = await history.events(last)
    channels = [each.args["channelId"] for each in events if each.name == "ChannelOpened"]
    await history.require_settled(events, channels, last)
    hidden = [each for each in events if each.name != "Claimed"]
    with pytest.raises(ChainError, match="units of the channel"):
        await history.require_settled(hidden, channels, last)

    async def without_claims(self: SettlementHistory, last: int) -> list[Event]:
        return [each for each in events if each.name not in ("Claimed", "Earned")]

    monkeypatch.setattr(SettlementHistory, "events", without_claims)
    with pytest.raises(ChainError, match=net.anvil.url):
        await history.read(await net.rpc.block(last))
