"""Take the deposit back by the payer's own transactions: a leave, or the Close that a node signed.

To leave a node needs no help from it: ask Settlement for the close, wait, withdraw.

Owns the order of the steps. Each call does what the chain allows at that moment and returns the
state, so a person or a timer calls it until the money is back. It works from the chain and the
payer's key alone, without the node and without the ledger.

Invariant: only the payer's own close is ever asked for. Until the withdrawal the node may claim
what was signed, and nothing beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from viz.chain.contracts import Chain
from viz.domain.eip712 import public_address, settlement_domain, sign
from viz.domain.ports.transactions import Call, ChainWriter, Transaction
from viz.domain.typed_data import RequestClose
from viz.domain.units import Address, Units
from viz.errors import ChannelUnknown, InsufficientFunds, InvalidRequest
from viz.protocol.messages import CloseAnswer

REQUEST_VALID_S = 3_600


@dataclass(frozen=True, slots=True)
class UnilateralClose:
    """The state of a leave. ``withdrawable_at_s`` is chain time, 0 if nothing is waited for."""

    state: Literal["requested", "waiting", "withdrawn", "empty"]
    payer: Address
    deposit_units: Units
    returned_units: Units = 0
    withdrawable_at_s: int = 0
    chain_time_s: int = 0
    transaction_hash: bytes = b""


async def leave(
    chain: Chain, sender: ChainWriter, payer_key: bytes, signer: Address, node: Address
) -> UnilateralClose:
    """Take the next step out of the channel; ``sender`` sends the transaction and pays its gas.

    The first call requests the close. A call after the close delay withdraws. A call before that
    returns when the delay ends. If ``sender`` is not the payer, it relays the payer's signed
    RequestClose. Raises ChannelUnknown, InvalidRequest (the key is not the payer's),
    TransactionFailed, OutcomeUnknown, ChainUnreachable.
    """
    # The newest block, not a confirmed one: a step that is already on the chain is not sent again.
    seen = await chain.channel(signer, node, confirmed=False)
    if seen is None:
        raise ChannelUnknown(f"{signer} never opened a channel to {node} on this chain")
    if not (seen.deposit_units or seen.close_at):
        return UnilateralClose("empty", seen.payer, 0)
    now_s = await chain.chain_time()
    if seen.close_at:
        if now_s < seen.close_at:
            return UnilateralClose(
                "waiting",
                seen.payer,
                seen.deposit_units,
                withdrawable_at_s=seen.close_at,
                chain_time_s=now_s,
            )
        # Anybody may send this call: Settlement pays the rest to the payer in any case.
        sent = await submit(chain, sender, Call("Settlement", "withdraw", (signer, node)))
        return UnilateralClose(
            "withdrawn",
            seen.payer,
            0,
            returned_units=sent.event("Withdrawn").args["amount"],
            chain_time_s=now_s,
            transaction_hash=sent.hash,
        )
    if public_address(payer_key) != seen.payer:
        raise InvalidRequest(
            f"the deposit belongs to {seen.payer}, and the key is {public_address(payer_key)}'s: "
            "give the key of the wallet that opened the channel"
        )
    if sender.address == seen.payer:
        call = Call("Settlement", "requestClose", (signer, node))
    else:
        request = RequestClose(signer, node, now_s + REQUEST_VALID_S)
        here = chain.deployment
        digest = settlement_domain(here.chain_id, here.settlement).digest(request)
        signed = (signer, node, request.deadline_s, sign(payer_key, digest))
        call = Call("Settlement", "requestCloseFor", signed)
    sent = await submit(chain, sender, call)
    return UnilateralClose(
        "requested",
        seen.payer,
        seen.deposit_units,
        withdrawable_at_s=sent.event("CloseRequested").args["closeAt"],
        chain_time_s=now_s,
        transaction_hash=sent.hash,
    )


async def send_close(chain: Chain, sender: ChainWriter, answer: CloseAnswer) -> Transaction:
    """Send the Close that a node signed and did not submit itself. Anybody may send it.

    Raises TransactionFailed (it was used or is over), InsufficientFunds, OutcomeUnknown,
    ChainUnreachable.
    """
    close = answer.close
    signed = (close.signer, close.node, close.settled_units, close.deadline_s, answer.signature)
    return await submit(chain, sender, Call("Settlement", "closeNow", signed))


async def submit(chain: Chain, sender: ChainWriter, call: Call) -> Transaction:
    """Send a call; raise InsufficientFunds without coin for gas, TransactionFailed if it fails."""
    if await chain.rpc.balance_wei(sender.address) == 0:
        raise InsufficientFunds(
            f"{sender.address} has no gas on this chain: give it some, or name another key that "
            "has with --gas-key (it only relays; the money goes to the wallet)"
        )
    return (await sender.submit(call)).require_mined(f"Settlement.{call.function}")
