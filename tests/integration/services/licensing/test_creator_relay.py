"""Relayed registrations on a real chain: who pays, who signs, what is refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.integration.chain.testnet import LICENSE, Testnet, terms
from tests.integration.services.claiming import SystemClock

from viz.chain.keys import development_account
from viz.chain.sender import Sender
from viz.domain.eip712 import content_registry_domain, sign, sign_compact
from viz.domain.ports.transactions import Call, Outcome, Transaction
from viz.domain.typed_data import Register
from viz.domain.units import Hash32, parse_address
from viz.errors import (
    InvalidRequest,
    InvalidSignature,
    RelayBusy,
    TransactionFailed,
    VizError,
)
from viz.services.licensing.creator_relay import REGISTRATIONS, CreatorRelay
from viz.services.payments.relay_budget import RelayPolicy

CREATOR = development_account(12)


def relay_of(net: Testnet, *, relays: RelayPolicy = REGISTRATIONS) -> CreatorRelay:
    return CreatorRelay(net.chain, net.sender(5), SystemClock(), relays=relays)


async def signed(
    net: Testnet, desk: CreatorRelay, *, compact: bool = False, deadline_s: int | None = None
) -> tuple[Register, bytes]:
    context = await desk.registration_context(net.sender(12).address)
    work = Register(
        context.creator,
        Hash32(b"\5" * 32),
        LICENSE,
        terms(),
        context.nonce,
        context.chain_time_s + 600 if deadline_s is None else deadline_s,
    )
    domain = content_registry_domain(context.chain_id, context.content_registry)
    make = sign_compact if compact else sign
    return work, make(bytes(CREATOR.key), domain.digest(work))


@pytest.mark.parametrize("compact", [False, True])
async def test_a_creator_without_gas_registers(net: Testnet, compact: bool) -> None:
    """The node pays the gas; the work is the creator's; either signature form serves."""
    await net.anvil.fund(net.sender(12).address, 0)
    desk = relay_of(net)
    made = await desk.relay_registration(*await signed(net, desk, compact=compact))
    content = await net.chain.content(made.content_id)
    assert content is not None
    assert content.owner == content.creator == net.sender(12).address
    assert content.commitment == b"\5" * 32
    assert content.terms_hash == terms().terms_hash(LICENSE)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"commitment": Hash32(b"\6" * 32)}, InvalidSignature),
        ({"terms": terms(training_fee_units=1)}, InvalidSignature),
        ({"nonce": 1}, InvalidSignature),
        ({"deadline_s": 1}, InvalidSignature),
        ({"terms": terms(uses=0)}, InvalidRequest),
        ({"terms": terms(notice_s=91 * 24 * 3600)}, InvalidRequest),
    ],
)
async def test_what_was_not_signed_is_not_relayed(
    net: Testnet, change: dict[str, object], error: type[VizError]
) -> None:
    """Anything changed after signing is refused, and the node's gas is not touched."""
    desk = relay_of(net)
    work, signature = await signed(net, desk)
    with pytest.raises(error):
        await desk.relay_registration(replace(work, **change), signature)  # type: ignore[arg-type]
    assert await net.rpc.transaction_count(net.sender(5).address) == 0


async def test_a_registration_is_relayed_once(net: Testnet) -> None:
    """A replay costs the node nothing."""
    desk = relay_of(net)
    work = await signed(net, desk)
    await desk.relay_registration(*work)
    with pytest.raises(InvalidRequest, match="next one is 1"):
        await desk.relay_registration(*work)


@pytest.mark.parametrize(("deadline_s", "said"), [(1, "expired"), (2**63, "24 hours")])
async def test_a_deadline_out_of_reach_is_not_relayed(
    net: Testnet, deadline_s: int, said: str
) -> None:
    """What is over, or good for years, is refused however well it is signed."""
    desk = relay_of(net)
    with pytest.raises(InvalidRequest, match=said):
        await desk.relay_registration(*await signed(net, desk, deadline_s=deadline_s))
    assert await net.rpc.transaction_count(net.sender(5).address) == 0


async def test_relays_are_bounded(net: Testnet) -> None:
    """Nobody can spend the node's gas without end, and rubbish shuts no creator out."""
    desk = relay_of(net, relays=replace(REGISTRATIONS, per_minute=1))
    work, signature = await signed(net, desk)
    for rubbish, error in ((b"\1" * 65, InvalidSignature), (b"\1" * 66, TransactionFailed)):
        for _ in range(2):
            with pytest.raises(error):
                await desk.relay_registration(work, rubbish)
    await desk.relay_registration(work, signature)
    with pytest.raises(RelayBusy):
        await desk.relay_registration(*await signed(net, desk))


# isValidSignature of any bytes is true, after as many rounds of 26 gas as the first number says.
BURNER = "0x62{rounds:06x}5b600190038060045763 1626ba7e 60e01b60005260206000f3".replace(" ", "")


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        (1_000, ""),
        (30_000, r"would use .* this node pays for at most 670000"),
        (385_000, "refused"),
    ],
)
async def test_a_contract_wallet_burns_no_gas_of_the_node(
    net: Testnet, rounds: int, said: str
) -> None:
    """A wallet's own check of a signature is paid for up to a bound, which 10 M gas is not in."""
    desk, wallet = relay_of(net), "0x00000000000000000000000000000000000000bb"
    await net.rpc.request("anvil_setCode", [wallet, BURNER.format(rounds=rounds)])
    work, _ = await signed(net, desk)
    work = replace(work, creator=parse_address(wallet))
    if not said:
        await desk.relay_registration(work, b"any")
    else:
        with pytest.raises(TransactionFailed, match=said):
            await desk.relay_registration(work, b"any")
    assert await net.rpc.transaction_count(net.sender(5).address) == int(not said)


async def test_a_registration_is_not_sent_twice_at_once(net: Testnet) -> None:
    """Copies of one request pass every check until the first is mined: one is paid for."""
    desk = relay_of(net)
    work = await signed(net, desk)
    ends = await asyncio.gather(
        *(desk.relay_registration(*work) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(each, TransactionFailed) for each in ends) == 3
    assert await net.rpc.transaction_count(net.sender(5).address) == 1


async def test_an_open_outcome_is_said_and_names_the_transaction(net: Testnet) -> None:
    """A registration that is neither in nor out is not reported as failed."""

    class Slow(Sender):
        async def submit(
            self, call: Call, *, max_gas: int | None = None, urgent: bool = False
        ) -> Transaction:
            return Transaction(Outcome.PENDING, Hash32(b"\x77" * 32))

    slow = Slow(net.rpc, development_account(5), net.deployment)
    desk = CreatorRelay(net.chain, slow, SystemClock())
    with pytest.raises(VizError, match="is pending: look up transaction 0x7777") as caught:
        await desk.relay_registration(*await signed(net, desk))
    assert caught.value.code == "outcome-unknown"
