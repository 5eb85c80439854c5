"""One channel in use, and what is committed of it in one change.

Owns the values that ``viz.services.payments.channels`` reads and changes, and that requests under
way hold. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from viz.domain.node_channel import NodeChannel
from viz.domain.ports.ledger import AnswerRecord, ChannelRecord, ReceiptRecord, UnbilledRecord
from viz.domain.units import AdapterId, Units
from viz.services.payments.freshness import Reading
from viz.services.payments.unsure_writes import UnsureWrite


@dataclass(frozen=True, slots=True)
class ChannelUpdate:
    """One change to commit: the channel after it, and what is stored with it.

    ``billed`` is the id of the request that ``receipt`` bills, so that its unbilled record goes.
    """

    channel: NodeChannel
    total_units: Units | None = None
    receipt: ReceiptRecord | None = None
    answer: AnswerRecord | None = None
    billed: bytes | None = None


class Delivery(Protocol):
    """A request under way, whose delivered part is committed with every voucher."""

    adapter_id: AdapterId

    def unbooked_units(self) -> Units:
        """Return what was delivered for good and is not booked as spent yet."""
        ...

    def unbilled(self) -> UnbilledRecord:
        """Return what a receipt of all that ``unbooked_units`` told of needs, should none follow.

        A node that is killed makes it of this record at its next start. Without it the channel
        would have spent more than its receipts say, which no buyer pays for.
        """
        ...

    def booked(self, units: Units) -> None: ...


@dataclass(slots=True, eq=False, weakref_slot=True)
class ActiveChannel(Reading):
    """A channel in use. Every holder pins it: it is forgotten with its last one.

    ``deliveries`` are the requests under way, booked with every commit; ``waiting`` is called when
    money or a reservation changed. ``doubt`` is a write whose outcome is unknown, and ``unwritten``
    are the changes to make as soon as the ledger takes them. ``moved`` says that the claim loop
    gave the stored channel a new base, so that it is read again before its next use. ``chain_s`` is
    the time of the newest block, as it was read with the channel; 0 where no signed Close is out,
    since only that is compared with it.
    """

    channel: NodeChannel
    record: ChannelRecord
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    deliveries: set[Delivery] = field(default_factory=set)
    waiting: set[Callable[[], None]] = field(default_factory=set)
    doubt: UnsureWrite | None = None
    unwritten: list[tuple[str, Change]] = field(default_factory=list)
    moved: bool = False
    chain_s: int = 0

    def notify(self) -> None:
        """Call every waiter: the money or the reservations of this channel changed."""
        for wake in tuple(self.waiting):
            wake()


Change = Callable[[NodeChannel, ChannelRecord], ChannelUpdate]
