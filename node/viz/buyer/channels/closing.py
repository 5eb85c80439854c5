"""Close together with the node, at what was billed and not at what was signed ahead.

Owns what the node is asked, and the check of its answer. The payer's signature comes from
``viz.buyer.wallet.signing``, and what was billed from ``viz.buyer.vouchers.voucher_signer``.
docs/adr/0011 explains why it is safe to sign a voucher that is lower than the best one.
"""

from __future__ import annotations

import asyncio
from typing import Final

from viz.buyer.vouchers.voucher_signer import VoucherSigner
from viz.client.node_client import NodeClient
from viz.domain.display import moment
from viz.domain.eip712 import is_signed_by
from viz.domain.ports.chain import ChainReader, Deployment
from viz.domain.typed_data import Close, RequestClose
from viz.domain.units import Address
from viz.errors import (
    BooksMismatch,
    DepositExceeded,
    NodeNotTrusted,
    PaymentRequired,
    StaleVoucher,
)
from viz.protocol.credential import CloseRequest
from viz.protocol.messages import CloseAnswer

REBASES: Final = 3
HASH_BYTES: Final = 32
SETTLED_WAITS_S: Final = (0.0, 1.0, 2.0, 4.0)
CLOSED_WAITS_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0)


async def close_together(
    api: NodeClient,
    voucher_signer: VoucherSigner,
    trusted: Deployment,
    request: RequestClose,
    signature: bytes,
    *,
    now_s: int,
    chain: ChainReader | None = None,
) -> CloseAnswer:
    """Return the node's signed Close; its total is what was billed, or at most what was signed.

    It is less if the node's ledger lost what it billed: then the difference is the payer's again. A
    total that this ledger does not know, as after it was restored from a copy, is taken if
    ``chain``, the buyer's own, shows it settled: nothing is, but what the session key signed. Read
    the receipts before this call. ``request`` and ``signature`` are the payer's. Raises
    NodeNotTrusted if the node's Close does not verify, and the node's refusals.
    """
    try:
        answer = await _ask(api, voucher_signer, trusted, request, signature)
    except (BooksMismatch, PaymentRequired, StaleVoucher) as refusal:
        if "`viz channel leave`" in refusal.detail:
            raise
        raise type(refusal)(
            f"{refusal.detail}. `viz channel leave` brings the deposit back without the node",
            **refusal.extensions,
        ) from refusal
    close, channel = answer.close, voucher_signer.channel
    if (close.signer, close.node) != (channel.signer, channel.node) or not is_signed_by(
        voucher_signer.domain.digest(close), answer.signature, channel.node
    ):
        raise NodeNotTrusted("the node's Close is not for this channel, or not signed by it")
    if close.settled_units not in channel.points and not await _is_settled(chain, close):
        raise NodeNotTrusted(
            "the node's Close states a total that is not in this ledger. If the folder was "
            "restored from a copy, close with --rpc, so that your own chain says whether it is "
            "true. `viz channel leave` says what is left, and brings it back without the node"
        )
    if close.settled_units < channel.settled_units:
        raise NodeNotTrusted(
            "the node's Close states less than what was claimed before, so it closes nothing: "
            "`viz channel leave` brings the deposit back without the node"
        )
    if len(answer.transaction_hash) not in (0, HASH_BYTES):
        raise NodeNotTrusted("the node names a transaction that can be none")
    if close.deadline_s <= now_s:
        raise NodeNotTrusted(
            f"the node's Close was good until {moment(close.deadline_s)}, which is over: ask again"
        )
    return answer


async def _ask(
    api: NodeClient,
    voucher_signer: VoucherSigner,
    trusted: Deployment,
    request: RequestClose,
    signature: bytes,
) -> CloseAnswer:
    payers = trusted.chain_id, trusted.settlement, request, signature
    for _ in range(REBASES):
        try:
            final = await voucher_signer.sign_final()
            return await api.close(CloseRequest(*payers, final))
        except StaleVoucher as moved:
            # A claim began meanwhile. It takes its amount; the rest is paid from its end point.
            try:
                voucher_signer.follow(moved)
            except (BooksMismatch, StaleVoucher):
                break  # this ledger is older than what the node holds
        except (PaymentRequired, DepositExceeded):
            break  # the node says that it delivered more than its receipts bill
    # Without a final voucher the node closes at what it holds. It could claim that in any case.
    return await api.close(CloseRequest(*payers))


async def _is_settled(chain: ChainReader | None, close: Close) -> bool:
    """Say whether the buyer's own chain shows the total of a Close; its endpoint may be late."""
    if chain is None:
        return False
    for wait_s in SETTLED_WAITS_S:
        await asyncio.sleep(wait_s)
        seen = await chain.channel(close.signer, close.node, confirmed=False)
        if seen is not None and seen.settled_units == close.settled_units:
            return True
    return False


async def shows_closed(chain: ChainReader, signer: Address, node: Address) -> bool:
    """Return whether the chain shows the channel closed.

    Waits until the newest block shows it, at most as long as a transaction takes.
    """
    for wait_s in CLOSED_WAITS_S:
        await asyncio.sleep(wait_s)
        seen = await chain.channel(signer, node, confirmed=False)
        if seen is not None and not seen.deposit_units:
            return True
    return False
