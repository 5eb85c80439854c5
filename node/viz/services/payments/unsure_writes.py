"""A channel's write that the ledger refused: how it ended, and what is still to be written.

Owns the judgement on a write whose end is not known (a full disk, one that did not answer) by what
the ledger holds afterwards. Pure: reads no ledger. Invariant: what was delivered is booked once,
whether the refused write happened or not.
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
    """A change from ``before`` to ``after``, stored as ``record`` if it happened.

    ``due`` is what each delivery under way would then have booked; ``change`` is who asked.
    """

    before: NodeChannel
    after: NodeChannel
    record: ChannelRecord
    due: Mapping[Any, Units]
    change: object

    def happened(self, found: ChannelRecord) -> bool:
        """Return whether the ledger, whose record is ``found``, holds the change.

        A claim that was frozen meanwhile moves bases and the signature, and nothing of these.
        """
        return _told(found) == _told(self.record)

    def released(self, channel: NodeChannel) -> NodeChannel:
        """Return the channel, read anew, with the reservations that the change gave back."""
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
