"""`viz audit payouts` where the token refuses an owner: the contract keeps the amount for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.integration.chain.testnet import Testnet
from tests.integration.creator.relay_desk import new_owner
from tests.integration.creator.test_earnings import claim, distribute, sold
from tests.integration.creator.test_payout_audit import Read, read

from viz.chain import abi
from viz.domain.ports.transactions import Call, Event
from viz.domain.shares import Share, share_words
from viz.domain.units import AdapterId, Address

TRUE_TOKEN = "0x" + "17" * 20


def push(value: bytes) -> bytes:
    """Return the instruction that pushes a value of 1 to 32 bytes."""
    return bytes([0x5F + len(value)]) + value


def hexed(words: str) -> bytes:
    return bytes.fromhex(words)


def refusing(refused: Address) -> bytes:
    """Return a token's code that reverts each transfer to one account and is the true one else."""
    asked = (
        hexed("60003560e01c63a9059cbb14600435")  # the selector is transfer's, and
        + push(hexed(refused[2:]))  # its recipient is the refused account
        + hexed("1416")
    )
    delegated = (
        hexed("3660006000376000600036600073")  # the same call of the true token's code
        + hexed(TRUE_TOKEN[2:])
        + hexed("5af43d600060003e")
    )
    done, failed = hexed("5b3d6000f3"), hexed("3d6000fd")
    at = len(asked) + 3 + len(delegated) + 3 + len(failed)
    return b"".join(
        (asked, push(bytes([at + len(done)])), b"\x57", delegated, push(bytes([at])), b"\x57")
    ) + b"".join((failed, done, hexed("5b60006000fd")))


def one_after_another(settlement: Address, calls: list[bytes]) -> bytes:
    """Return a creation code that makes calls of Settlement, all in its one transaction."""

    def program(first: int) -> bytes:
        made, at = b"", first
        for call in calls:
            size = push(len(call).to_bytes(2, "big"))
            made += size + push(at.to_bytes(2, "big")) + hexed("600039")  # into memory
            made += hexed("60006000") + size + hexed("60006000") + push(hexed(settlement[2:]))
            made += hexed("5af150")
            at += len(call)
        return made + b"\0"

    return program(len(program(0))) + b"".join(calls)


async def refuse(net: Testnet, refused: Address) -> None:
    token = net.deployment.token
    code = await net.rpc.request("eth_getCode", [token, "latest"])
    await net.rpc.request("anvil_setCode", [TRUE_TOKEN, code])
    await net.rpc.request("anvil_setCode", [token, "0x" + refusing(refused).hex()])


async def in_one_transaction(net: Testnet, calls: list[Call]) -> None:
    data = [abi.encode_call(each.contract, each.function, each.args) for each in calls]
    code = one_after_another(net.deployment.settlement, data)
    sent = {"from": net.sender(0).address, "data": "0x" + code.hex(), "gas": hex(5_000_000)}
    await net.rpc.request("eth_sendTransaction", [sent])


async def distribution(net: Testnet, adapter: int) -> Call:
    state = await net.chain.adapter(AdapterId(adapter))
    assert state is not None
    words = list(share_words(Share(*row) for row in state.shares))
    return Call("Settlement", "distribute", (adapter, words))


def with_failure(all_read: Read, after: Event, account: Address, units: int) -> Read:
    """Return the history with a failed transfer after an event, and no transfer of its own."""
    told = replace(
        after,
        name="TransferFailed",
        log_index=after.log_index + 1,
        args={"account": account, "amount": units},
    )
    unmoved = {each: to for each, to in all_read.transfers.items() if each != told.transaction_hash}
    return replace(all_read, events=[*all_read.events, told], transfers=unmoved)


async def test_what_the_token_refused_is_the_owner_s_to_collect_in_the_same_transaction(
    net: Testnet, tmp_path: Path
) -> None:
    """A distribution that fails and its collection together are an honest history. A failure that
    no distribution explains is none: it would hide a payment that nobody got."""
    *_, adapter = await sold(net)
    owner = net.sender(3)
    await net.done(owner, "Settlement", "setPayoutAddress", net.sender(8).address)
    await net.anvil.advance_time(3_601)
    await refuse(net, owner.address)
    had = await net.chain.token_balance(net.sender(8).address)
    collection = Call("Settlement", "collect", (owner.address,))
    await in_one_transaction(net, [await distribution(net, adapter), collection])
    assert await net.chain.token_balance(net.sender(8).address) - had == 450
    await claim(net, adapter, 1_001, (1_000,))
    await distribute(net, adapter)  # refused again, and not collected

    desk = new_owner(tmp_path / "home", net)
    words = ("audit", "payouts", "--rpc", net.anvil.url, "--json")
    found = await desk.viz(*words, key=False, yes=False)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["verdict"] == "reproduced"

    all_read = await read(net)
    assert all_read.rebuilt().balances[owner.address] == 150
    lost = [each for each in all_read.events if each.name != "TransferFailed"]
    assert all_read.rebuilt(events=lost).findings, "the contract's own record is needed"
    for name in ("Collected", "Distributed", "Claimed"):
        (*_, last) = (each for each in all_read.events if each.name == name)
        to = Address(last.args.get("to", owner.address))
        untrue = with_failure(all_read, last, to, int(last.args.get("amount", 150)))
        findings = untrue.rebuilt().findings
        assert any("and no distribution sent them" in each for each in findings), (name, findings)
