"""Check the final voucher, with which buyer and node close a channel by agreement. Pure.

A buyer signs some steps ahead of what arrives, so its best voucher is above what was delivered. To
close, it signs once more, for exactly the amounts of its receipts on the base that the node names,
and the node claims this voucher instead. It is an ordinary voucher, valid on chain like any other.
But its lines may be below those of the best voucher, which no other voucher may be. docs/adr/0011
explains why this harms neither side.

Invariant: a node that accepted a final voucher can claim all that was spent, for each adapter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from viz.domain.eip712 import Domain
from viz.domain.node_channel import (
    CHECKS,
    NodeChannel,
    PresentedVoucher,
    VoucherCheck,
    check_base,
    check_not_below_best,
    check_open,
    heads_from,
)
from viz.errors import ChannelBusy, PaymentRequired, UnknownAdapter

# All checks of a voucher except one: that no line is below the best voucher's.
FINAL_CHECKS: Final[tuple[VoucherCheck, ...]] = tuple(
    check for check in CHECKS if check is not check_not_below_best
)


def accept_final(channel: NodeChannel, domain: Domain, presented: PresentedVoucher) -> NodeChannel:
    """Return the channel with a final voucher as its best, even if it is below the one before.

    Without lines it means that there is nothing to claim beyond the base. It then needs no
    signature, and the channel has no best voucher. Raises ChannelBusy while an answer is running,
    StaleVoucher if the base has moved, PaymentRequired if a line is below what was spent,
    UnknownAdapter, and the errors of ``accept_voucher``.
    """
    if any(channel.reserved.values()):
        raise ChannelBusy("answers are running on this channel: try again after they have ended")
    row = presented.row
    for check in FINAL_CHECKS if row.lines else (check_open, check_base):
        check(channel, domain, presented)
    for adapter_id, _ in row.lines:
        # A line for an adapter that was never used could only make the whole row bad on chain.
        if not channel.accepted_units(adapter_id) and adapter_id not in channel.spent:
            raise UnknownAdapter(f"the final voucher pays adapter {adapter_id}, never used here")
    if not row.lines:
        return _covering(replace(channel, best=None))
    heads = heads_from(channel.heads, row.receipts_head)
    return _covering(replace(channel, best=row, heads=heads))


def require_covered(channel: NodeChannel) -> None:
    """Raise PaymentRequired if something was delivered on credit: a close would lose it."""
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
