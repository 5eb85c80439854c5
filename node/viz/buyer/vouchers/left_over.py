"""Measure what is signed on a channel and not used up: for answers under way, and left over.

What is signed for an adapter is used up by its receipts, by what arrived and is not billed yet, and
by what its answers under way may cost now. What remains is left over: the node may claim it, and
the adapter's next answers use it up first. It does not matter how the answers before it ended.
"""

from __future__ import annotations

from collections.abc import Mapping

from viz.buyer.ledger.open_requests import OpenRequests
from viz.domain.buyer_channel import BuyerChannel
from viz.domain.node_channel import Vector
from viz.domain.units import AdapterId, Units


def left_over(
    channel: BuyerChannel, open_requests: OpenRequests, signed: Vector
) -> dict[AdapterId, Units]:
    """Return what would be left over for each adapter if ``signed`` were signed for them."""
    found = _unbilled(channel, signed)
    for each in open_requests.ended():
        if each.adapter_id in found:
            found[each.adapter_id] -= each.arrived_units
    for each in open_requests.under_way():
        if each.adapter_id in found:
            found[each.adapter_id] -= each.units
    return {adapter_id: units for adapter_id, units in found.items() if units > 0}


def ahead_units(channel: BuyerChannel, open_requests: OpenRequests, signed: Vector) -> Units:
    """Return how much of ``signed`` is for what the answers under way have not delivered yet."""
    found = _unbilled(channel, signed)
    missing: dict[AdapterId, Units] = {}
    for each in open_requests.ended():
        if each.adapter_id in found:
            found[each.adapter_id] -= each.arrived_units
    for each in open_requests.under_way():
        if each.adapter_id in found:
            found[each.adapter_id] -= each.arrived_units
            more = max(0, each.units - each.arrived_units)
            missing[each.adapter_id] = missing.get(each.adapter_id, 0) + more
    return sum(max(0, min(found[adapter_id], units)) for adapter_id, units in missing.items())


def _unbilled(channel: BuyerChannel, signed: Mapping[AdapterId, Units]) -> dict[AdapterId, Units]:
    unbilled = {key: units - channel.billed_units(key) for key, units in signed.items()}
    return {key: units for key, units in unbilled.items() if units > 0}
