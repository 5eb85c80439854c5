"""Reserve amounts on a channel, count what was delivered, and append receipts.

Owns the changes of a channel's reservations, spent amounts and chain of receipts, as pure functions
of ``viz.domain.node_channel.NodeChannel``.

Keeps invariant C2 of ``viz.domain.node_channel``: reservations never exceed the promised amounts
plus the credit window, and credit never exceeds the deposit.
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
    """Return the channel with ``amount_units`` reserved for one request.

    Credit is bounded by the confirmed deposit beyond all promises, so that a key without a channel,
    or with an empty one, gets no credit. Raises PaymentRequired (with ``required``, the accepted
    amount that would suffice) if the promises for this adapter and the credit do not cover it.
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


def end_reservation(
    channel: NodeChannel, adapter_id: AdapterId, *, reserved_units: Units, spent_units: Units
) -> NodeChannel:
    """Return the channel with a reservation ended, of which ``spent_units`` were delivered.

    ``spent_units`` 0 releases it. Raises StoreConflict if there is no such reservation, or it is
    smaller than what was delivered.
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
    """Return the channel with one more receipt in its chain; its number is ``seq + 1``."""
    heads = (*channel.heads, next_head(channel.head, receipt_digest))
    if len(heads) > HEADS_KEPT:
        heads = (heads[0], *heads[-HEADS_KEPT + 1 :])
    return replace(channel, seq=channel.seq + 1, heads=heads)


def _plus(vector: Vector, adapter_id: AdapterId, units: Units) -> dict[AdapterId, Units]:
    after = {**vector, adapter_id: vector.get(adapter_id, 0) + units}
    if not after[adapter_id]:
        del after[adapter_id]
    return after
