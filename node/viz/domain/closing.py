"""How a channel ends together: the buyer's final voucher, and when a node may take it. Pure.

A buyer signs ahead of what arrives, by some steps, so its best voucher is worth more than what was
delivered. To close it signs once more, for exactly what its receipts bill on the base that the
node names, and the node may claim that voucher instead. It is an ordinary voucher, good on chain
like any other; what is special is that its lines may be below the best, which nothing else may.
Why that harms neither side stands in docs/adr/0011.

Invariant: a node that took a final voucher can claim all that was spent here, adapter by adapter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from viz.domain.eip712 import Domain
from viz.domain.node_channel import (
    NodeChannel,
    VoucherCheck,
    VoucherOffer,
    check_base,
    check_deposit,
    check_domain,
    check_head,
    check_open,
    check_signer,
    check_voucher_lines,
    heads_from,
)
from viz.errors import ChannelBusy, PaymentRequired, UnknownAdapter

# All of a voucher's checks but one: that no line is below the best.
FINAL_CHECKS: Final[tuple[VoucherCheck, ...]] = (
    check_domain,
    check_voucher_lines,
    check_signer,
    check_open,
    check_base,
    check_head,
    check_deposit,
)


def accept_final(channel: NodeChannel, domain: Domain, offer: VoucherOffer) -> NodeChannel:
    """Return the channel with a final voucher as its best, even if it is below the one before.

    Without lines it says that nothing is owed beyond the base, and needs no signature: then no
    voucher is left to claim. Raises ChannelBusy while an answer is under way, StaleVoucher where
    the base has moved, PaymentRequired where a line is below what was spent, UnknownAdapter, and
    what ``accept_voucher`` raises.
    """
    if any(channel.reserved.values()):
        raise ChannelBusy("answers are under way on this channel: ask again when they have ended")
    row = offer.row
    for check in FINAL_CHECKS if row.lines else (check_open, check_base):
        check(channel, domain, offer)
    for adapter_id, _ in row.lines:
        # A line for what was never asked for could only make the whole row bad on chain.
        if not channel.accepted_units(adapter_id) and adapter_id not in channel.spent:
            raise UnknownAdapter(f"the final voucher pays adapter {adapter_id}, never used here")
    if not row.lines:
        return _covering(replace(channel, best=None))
    heads = heads_from(channel.heads, row.receipts_head)
    return _covering(replace(channel, best=row, heads=heads))


def require_covered(channel: NodeChannel) -> None:
    """Raise PaymentRequired while something was delivered on credit: a close would forgive it."""
    _covering(channel)


def _covering(channel: NodeChannel) -> NodeChannel:
    for adapter_id, spent in channel.spent.items():
        if channel.accepted_units(adapter_id) < spent:
            raise PaymentRequired(
                f"{spent} units were delivered for adapter {adapter_id}, and what is signed covers "
                f"{channel.accepted_units(adapter_id)}: read the receipts, then sign for them",
                adapterId=adapter_id,
                required=str(spent),
            )
    return channel
