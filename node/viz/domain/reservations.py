"""What a node delivers on a channel: set aside, delivered or given back, and receipted.

Owns the changes of a channel's reservations, spending and chain of receipts, as pure functions of
``viz.domain.node_channel.NodeChannel``. Does not judge vouchers, and knows no prices.

Invariant C2 of ``viz.domain.node_channel`` is held here: nothing is set aside beyond promises and
the credit window, nor on credit beyond the deposit.
"""

from __future__ import annotations

from dataclasses import replace

from viz.domain.node_channel import HEADS_KEPT, NodeChannel, Vector
from viz.domain.receipt import next_head
from viz.domain.units import AdapterId, Hash32, Units
from viz.domain.usage import spelled_lines
from viz.errors import PaymentRequired, StoreConflict


def reserve(
    channel: NodeChannel,
    adapter_id: AdapterId,
    amount_units: Units,
    *,
    credit_window_units: Units = 0,
) -> NodeChannel:
    """Return the channel with ``amount_units`` set aside for one request.

    Credit is given on money that is there: what the confirmed deposit holds beyond all promises
    bounds the window, so that keys without a channel, or with an empty one, are given none.
    Raises PaymentRequired (with ``required``, the accepted amount that would do) when promises for
    this adapter and the channel's credit do not cover it.
    """
    after = replace(channel, reserved=_plus(channel.reserved, adapter_id, amount_units))
    credit = min(credit_window_units, max(0, channel.limit_units - channel.end_units))
    if after.available_units(adapter_id) < 0 and after.credit_used_units() > credit:
        required = after.committed_units(adapter_id)
        raise PaymentRequired(
            f"adapter {adapter_id} needs {required} units accepted here, and has "
            f"{channel.accepted_units(adapter_id)}: send a voucher",
            adapterId=adapter_id,
            base=str(channel.base_units),
            accepted=str(channel.accepted_units(adapter_id)),
            required=str(required),
            best=spelled_lines(channel.best_lines),
        )
    return after


def settle_reservation(
    channel: NodeChannel, adapter_id: AdapterId, *, reserved_units: Units, spent_units: Units
) -> NodeChannel:
    """Return the channel with a reservation ended, of which ``spent_units`` were delivered.

    With ``spent_units`` 0 it is a release. Raises StoreConflict when the reservation is not there
    or less than what was delivered.
    """
    held = channel.reserved.get(adapter_id, 0)
    if not 0 <= spent_units <= reserved_units <= held:
        raise StoreConflict(
            f"cannot end a reservation of {reserved_units} units with {spent_units} spent: "
            f"{held} are held for adapter {adapter_id}"
        )
    return replace(
        channel,
        reserved=_plus(channel.reserved, adapter_id, -reserved_units),
        spent=_plus(channel.spent, adapter_id, spent_units),
    )


def append_receipt(channel: NodeChannel, receipt_digest: Hash32) -> NodeChannel:
    """Return the channel with one more receipt in its chain; the receipt carries ``seq + 1``."""
    heads = (*channel.heads, next_head(channel.head, receipt_digest))
    if len(heads) > HEADS_KEPT:
        heads = (heads[0], *heads[-HEADS_KEPT + 1 :])
    return replace(channel, seq=channel.seq + 1, heads=heads)


def _plus(vector: Vector, adapter_id: AdapterId, units: Units) -> dict[AdapterId, Units]:
    after = {**vector, adapter_id: vector.get(adapter_id, 0) + units}
    if not after[adapter_id]:
        del after[adapter_id]
    return after
