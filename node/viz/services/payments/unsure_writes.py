"""Find out whether a write that ended in an error is in the ledger after all.

A full disk, or one that did not answer, leaves the outcome of a write unknown. What the ledger
holds afterwards decides it. Pure: reads no ledger. Invariant: what was delivered is booked once,
whether the write happened or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from viz.domain.node_channel import NodeChannel
from viz.domain.ports.ledger import ChannelRecord
from viz.domain.units import AdapterId, Units


@dataclass(frozen=True, slots=True)
class UnsureWrite:
    """Hold a change from ``before`` to ``after``, which is stored as ``record`` if it happened.

    ``due`` is the amount that the change books for each running delivery. ``change`` is the
    function that made it, and identifies it among the changes that wait.
    """

    before: NodeChannel
    after: NodeChannel
    record: ChannelRecord
    due: Mapping[Any, Units]
    change: object

    def happened(self, found: ChannelRecord) -> bool:
        """Return whether the ledger, whose record is now ``found``, holds the change.

        A voucher that became a claim row meanwhile changes the bases and the signature. So these
        are not compared.
        """
        return _told(found) == _told(self.record)

    def released(self, channel: NodeChannel) -> NodeChannel:
        """Return ``channel`` without the reservations that the change gave back."""
        reserved: dict[AdapterId, Units] = dict(channel.reserved)
        for key in self.before.reserved.keys() | self.after.reserved.keys():
            given = self.before.reserved.get(key, 0) - self.after.reserved.get(key, 0)
            reserved[key] = reserved.get(key, 0) - given
        return replace(channel, reserved=reserved)


def _told(record: ChannelRecord) -> tuple[object, ...]:
    lines = {
        key: (line.accepted_units, line.spent_units)
        for key, line in record.lines.items()
        if line.accepted_units or line.spent_units
    }
    return lines, record.head, record.seq, record.total_units, record.voucher_head
