"""Close together with the node, at what was billed and not at what was signed ahead.

Owns what the node is asked, and the check of its answer. The payer's signature comes from
``viz.buyer.wallet.signing``, and what was billed from ``viz.buyer.vouchers.voucher_signer``.
docs/adr/0011 explains why it is safe to sign a voucher that is lower than the best one.
"""

from __future__ import annotations

from typing import Final

from viz.buyer.vouchers.voucher_signer import VoucherSigner
from viz.client.node_client import NodeClient
from viz.domain.display import moment
from viz.domain.eip712 import is_signed_by
from viz.domain.ports.chain import Deployment
from viz.domain.typed_data import RequestClose
from viz.errors import DepositExceeded, NodeNotTrusted, PaymentRequired, StaleVoucher
from viz.protocol.credential import CloseRequest
from viz.protocol.messages import CloseAnswer

REBASES: Final = 3
HASH_BYTES: Final = 32


async def close_together(
    api: NodeClient,
    voucher_signer: VoucherSigner,
    trusted: Deployment,
    request: RequestClose,
    signature: bytes,
    *,
    now_s: int,
) -> CloseAnswer:
    """Return the node's signed Close; its total is what was billed, or at most what was signed.

    Read the receipts before this call. ``request`` and ``signature`` are the payer's. Raises
    NodeNotTrusted if the node's Close does not verify, and the node's refusals.
    """
    answer = await _ask(api, voucher_signer, trusted, request, signature)
    close, channel = answer.close, voucher_signer.channel
    if (close.signer, close.node) != (channel.signer, channel.node) or not is_signed_by(
        voucher_signer.domain.digest(close), answer.signature, channel.node
    ):
        raise NodeNotTrusted("the node's Close is not for this channel, or not signed by it")
    if close.settled_units not in channel.points:
        raise NodeNotTrusted("the node's Close states a total that was never signed")
    if close.settled_units < sum(channel.billed.values()):
        raise NodeNotTrusted(
            "the node's Close states less than what it billed, so it does not mean to close: "
            "`viz channel leave` brings the deposit back without it"
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
            voucher_signer.follow(moved)
        except (PaymentRequired, DepositExceeded):
            break  # the node says that it delivered more than its receipts bill
    # Without a final voucher the node closes at what it holds. It could claim that in any case.
    return await api.close(CloseRequest(*payers))
