"""Hold one channel in memory, the requests that run on it, and the changes to commit.

These are values only. ``viz.services.payments.channels`` reads and changes them, and all running
requests on one channel hold the same ``ActiveChannel``.
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
    """Hold one change to commit: the new channel, and the records to store with it.

    ``total_units`` is the total of the new receipt, if there is one. ``billed`` is the id of the
    request that ``receipt`` bills; the commit deletes its unbilled record.
    """

    channel: NodeChannel
    total_units: Units | None = None
    receipt: ReceiptRecord | None = None
    answer: AnswerRecord | None = None
    billed: bytes | None = None


class Delivery(Protocol):
    """A running request. Each commit of its channel books what it has delivered so far."""

    adapter_id: AdapterId

    def unbooked_units(self) -> Units:
        """Return the price of what was finally delivered and is not booked as spent yet."""
        ...

    def unbilled(self) -> UnbilledRecord:
        """Return the data for a receipt of everything delivered up to the last ``unbooked_units``.

        If the node is killed before it bills the request, it makes the receipt from this record at
        its next start. Without that receipt the channel would have spent more than its receipts
        say, and no buyer pays for such a difference.
        """
        ...

    def booked(self, units: Units) -> None: ...


@dataclass(slots=True, eq=False, weakref_slot=True)
class ActiveChannel(Reading):
    """Hold one channel in memory. It is forgotten when its last holder lets it go.

    ``lock`` is held during a commit, never while tokens are generated.
    ``deliveries``: the running requests, which each commit books.
    ``waiting``: functions to call when money or a reservation changed.
    ``doubt``: a write whose outcome is unknown.
    ``unwritten``: changes to make as soon as the ledger accepts writes again.
    ``moved``: the claim loop gave the stored channel a new base, so it is read again before its
    next use.
    ``chain_s``: the time of the newest block, read with the channel. It is compared only with the
    deadline of a signed Close, and is 0 if there is none.
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
        """Call every function in ``waiting``: money or reservations of this channel changed."""
        for wake in tuple(self.waiting):
            wake()


Change = Callable[[NodeChannel, ChannelRecord], ChannelUpdate]
