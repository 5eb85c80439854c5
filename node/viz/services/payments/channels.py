"""Keep the node's channels in memory, in step with the ledger and the chain.

Owns the order in which a change becomes durable: compute it, commit it, and only then show it.
``viz.domain.node_channel`` says which changes are allowed. Invariants:

- ``ActiveChannel.channel`` shows only what is committed. Reservations are the exception: they need
  not survive a restart.
- A channel is locked for one commit at a time, never while tokens are generated.
- If the ledger has a newer version of the channel, the change is computed again on that version.
- While an ``ActiveChannel`` is held, there is no second one of its channel. So every request on
  the channel sees all reservations.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

import structlog

from viz.domain.node_channel import NodeChannel, past_close
from viz.domain.ports.chain import ChainReader, ChannelState
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import ChannelRecord, UnbilledRecord
from viz.domain.ports.settlement_ledger import ChannelStoreLedger
from viz.domain.trust import PAYER_LEAVES
from viz.domain.units import ZERO_ADDRESS, Address, Units
from viz.errors import BooksMismatch, ChainError, StoreConflict, StoreError, VizError
from viz.services.payments.active_channel import ActiveChannel, Change, ChannelUpdate, Delivery
from viz.services.payments.channel_events import ChannelEvents
from viz.services.payments.channel_records import channel_of, observed, record_of, touched
from viz.services.payments.freshness import ChainAccess, Freshness
from viz.services.payments.unsure_writes import UnsureWrite

ATTEMPTS: Final = 4
CHANNELS_KEPT: Final = 10_000
RECOVER_EVERY_S: Final = 5.0
_log = structlog.get_logger()


class ChannelStore:
    """Hold the node's channels. A reading of the chain older than ``refresh_s`` is renewed."""

    def __init__(
        self,
        ledger: ChannelStoreLedger,
        chain: ChainReader,
        clock: Clock,
        node: Address,
        *,
        events: ChannelEvents,
        refresh_s: int = 5,
        access: ChainAccess | None = None,
        chain_time: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        """Take ``chain_time``, which reads the time of the newest block; None: ``chain``'s own."""
        self._ledger = ledger
        self._chain = chain
        self._clock = clock
        self._node = node
        self._chain_time = chain_time or chain.chain_time
        self._refresh_s = refresh_s
        self._freshness = Freshness(clock, access or ChainAccess(clock))
        # Every channel that somebody holds, so that there is one object for each channel.
        # ``_recent`` also holds those used lately, so that their next request reads no ledger.
        self._active_channels: WeakValueDictionary[Address, ActiveChannel] = WeakValueDictionary()
        self._recent: OrderedDict[Address, ActiveChannel] = OrderedDict()
        # Channels with a write that the ledger refused. They stay in memory until the ledger takes
        # it, because the refused change may be the only copy of a bill.
        self._refused: set[ActiveChannel] = set()
        self._loading: dict[Address, asyncio.Lock] = {}
        # Nothing is sold on these channels until the ledger and the chain agree on them again.
        self._mismatched: set[Address] = set()
        self._close_seen = events.close_seen
        events.row_frozen.listen(self._moved)
        events.mismatch_found.listen(self._mismatched.add)
        events.mismatch_gone.listen(self._mismatched.discard)

    async def get(self, signer: Address, *, fresh: bool = False) -> ActiveChannel:
        """Return the channel of ``signer``, with a recent reading of the chain; blank if none.

        With ``fresh`` it is read from the chain now. While the chain cannot be read, an older
        reading is used (``viz.services.payments.freshness``). Raises BooksMismatch,
        ChainUnreachable, StoreError.
        """
        if signer in self._mismatched:
            raise BooksMismatch(
                f"the node's ledger and the chain disagree on the channel of {signer}: nothing is "
                f"sold on it until the node's operator has checked it. {PAYER_LEAVES}"
            )
        active_channel = self._active_channels.get(signer)
        if active_channel is None:
            active_channel = await self._load(signer)
        self._keep(signer, active_channel)
        if active_channel.moved:
            async with active_channel.lock:
                await self._follow(active_channel)
        await self._freshness.ensure(
            active_channel,
            partial(self._observe, active_channel),
            within_s=self._refresh_s,
            fresh=fresh,
        )
        return active_channel

    def shows_open(self, signer: Address) -> bool:
        """Return whether memory has an open channel of ``signer``; read no ledger and no chain."""
        active_channel = self._active_channels.get(signer)
        return active_channel is not None and active_channel.channel.payer != ZERO_ADDRESS

    def require_room(self) -> None:
        """Raise StoreFull if the ledger's disk has no room for new work."""
        self._ledger.require_room()

    async def run(self) -> None:
        """Retry refused writes every ``RECOVER_EVERY_S`` seconds, until cancelled."""
        while True:
            await asyncio.sleep(RECOVER_EVERY_S)
            await self.recover()

    async def recover(self) -> None:
        """Finish the refused writes of all channels, if the ledger takes them."""
        for active_channel in tuple(self._refused):
            async with active_channel.lock:
                try:
                    await self._finish_refused(active_channel)
                except StoreError as error:
                    _log.debug("a channel waits for the ledger", reason=error.detail)
                    return

    async def commit(
        self, active_channel: ActiveChannel, point: str, change: Change, *, retry: bool = False
    ) -> ChannelUpdate:
        """Make ``change`` durable, then visible, and return what it computed.

        ``change`` gets the channel after everything that running requests delivered was booked as
        spent. So each commit also stores what is spent so far (threat 15). ``change`` must be pure,
        because it may be called again on a newer version. With ``retry``, a change that the ledger
        refuses now is made later. Raises whatever ``change`` raises, and StoreError.
        """
        # Shielded, so that it runs to its end if the caller is cancelled. Otherwise the disk could
        # have a commit that memory does not show, and it would be made a second time.
        return await asyncio.shield(
            asyncio.ensure_future(self._commit(active_channel, point, change, retry))
        )

    async def _commit(
        self, active_channel: ActiveChannel, point: str, change: Change, retry: bool
    ) -> ChannelUpdate:
        async with active_channel.lock:
            self._require_current(active_channel)
            try:
                # First finish a refused write: the change must see the channel as the disk has it.
                await self._finish_refused(active_channel)
                return await self._write(active_channel, point, change)
            except (StoreConflict, BooksMismatch):
                # These are not refused writes: nothing was written, so nothing needs a retry.
                raise
            except StoreError:
                if retry:
                    active_channel.unwritten.append((point, change))
                self._refused.add(active_channel)
                raise

    async def _finish_refused(self, active_channel: ActiveChannel) -> None:
        """Find out how a refused write ended, then make the changes that wait.

        The caller holds the channel's lock.
        """
        if active_channel.doubt is not None:
            # A disk error does not say whether the row was written. So read the row.
            await self._reload(active_channel)
            if active_channel.doubt.happened(active_channel.record):
                active_channel.channel = active_channel.doubt.released(active_channel.channel)
                for delivery, units in active_channel.doubt.due.items():
                    delivery.booked(units)
                if (
                    active_channel.unwritten
                    and active_channel.unwritten[0][1] is active_channel.doubt.change
                ):
                    active_channel.unwritten.pop(0)
            active_channel.doubt = None
        while active_channel.unwritten:
            point, change = active_channel.unwritten[0]
            try:
                await self._write(active_channel, point, change)
            except StoreError:
                raise
            except VizError as error:
                _log.error("a refused write cannot be made up for", reason=error.detail)
            active_channel.unwritten.pop(0)
        if active_channel in self._refused:
            self._refused.discard(active_channel)
            active_channel.notify()
            _log.warning(
                "a channel goes on after a refused write", signer=active_channel.channel.signer
            )

    async def _write(
        self, active_channel: ActiveChannel, point: str, change: Change
    ) -> ChannelUpdate:
        await self._follow(active_channel)
        for _ in range(ATTEMPTS):
            # Each commit books what was delivered until now. So a killed node loses at most what it
            # delivered since the last voucher, and can still make the receipt for the rest.
            due = {each: each.unbooked_units() for each in active_channel.deliveries}
            before = active_channel.channel
            entry = change(_book(before, due), active_channel.record)
            now_s = self._clock.now_s()
            record = record_of(entry.channel, active_channel.record, entry.total_units, now_s)
            try:
                unbilled = [each.unbilled() for each, units in due.items() if units]
                saved = await self._save(point, record, active_channel.record, entry, unbilled)
            except StoreConflict:
                await self._reload(active_channel)
                continue
            except StoreError:
                active_channel.doubt = UnsureWrite(before, entry.channel, record, due, change)
                raise
            active_channel.channel, active_channel.record = entry.channel, saved
            for delivery, units in due.items():
                delivery.booked(units)
            active_channel.notify()
            return entry
        raise StoreConflict("the channel changes faster than it can be written: try again")

    async def _save(
        self,
        point: str,
        record: ChannelRecord,
        before: ChannelRecord,
        entry: ChannelUpdate,
        unbilled: Sequence[UnbilledRecord],
    ) -> ChannelRecord:
        return await self._ledger.commit(
            point,
            record,
            touched=touched(before, record),
            receipt=entry.receipt,
            answer=entry.answer,
            unbilled=unbilled,
            billed=entry.billed,
        )

    async def change(
        self, active_channel: ActiveChannel, change: Callable[[NodeChannel], NodeChannel]
    ) -> None:
        """Make a change in memory only: a reservation, which need not survive a restart."""
        async with active_channel.lock:
            self._require_current(active_channel)
            await self._follow(active_channel)
            active_channel.channel = change(active_channel.channel)

    def _moved(self, signer: Address) -> None:
        if (active_channel := self._active_channels.get(signer)) is not None:
            active_channel.moved = True

    async def _follow(self, active_channel: ActiveChannel) -> None:
        """Read the channel again if the claim loop gave it a new base; its lock is held."""
        # If the read fails, the mark stays: no change may be made on the old base.
        if active_channel.moved:
            active_channel.moved = False
            try:
                await self._reload(active_channel)
            except BaseException:
                active_channel.moved = True
                raise

    async def _load(self, signer: Address) -> ActiveChannel:
        async with self._loading.setdefault(signer, asyncio.Lock()):
            if (active_channel := self._active_channels.get(signer)) is None:
                record, channel = await self._read(signer)
                # Look again: another task may have loaded the channel while this one read it.
                active_channel = self._active_channels.get(signer) or ActiveChannel(channel, record)
                self._active_channels[signer] = active_channel
        self._loading.pop(signer, None)
        return active_channel

    def _keep(self, signer: Address, active_channel: ActiveChannel) -> None:
        self._recent[signer] = active_channel
        self._recent.move_to_end(signer)
        while len(self._recent) > CHANNELS_KEPT:
            self._recent.popitem(last=False)

    def _require_current(self, active_channel: ActiveChannel) -> None:
        """Raise StoreConflict if the store has another object for this channel by now."""
        if self._active_channels.get(active_channel.channel.signer) is not active_channel:
            raise StoreConflict("the channel was read anew meanwhile: ask again")

    async def _reload(self, active_channel: ActiveChannel) -> None:
        """Read the channel from the ledger; keep the reservations and the chain's state."""
        known = active_channel.channel
        active_channel.record, channel = await self._read(known.signer)
        seen = ChannelState(
            known.signer,
            known.node,
            known.payer,
            known.deposit_units,
            known.settled_units,
            known.close_at_s,
        )
        active_channel.channel = observed(replace(channel, reserved=known.reserved), seen)

    async def _read(self, signer: Address) -> tuple[ChannelRecord, NodeChannel]:
        for _ in range(ATTEMPTS):
            record = await self._ledger.channel(signer)
            if record is None:
                return ChannelRecord(signer), NodeChannel(signer, self._node)
            rows = tuple(row for row in await self._ledger.frozen() if row.signer == signer)
            if rows and rows[-1].end_units != record.base_units:
                continue  # a row was frozen between the two reads
            heads = await self._ledger.heads(signer, record.voucher_seq)
            return record, channel_of(record, self._node, rows, heads)
        raise StoreConflict("the channel changes faster than it can be read: try again")

    async def _observe(self, active_channel: ActiveChannel) -> None:
        seen, head = await asyncio.gather(
            self._chain.channel(active_channel.channel.signer, self._node),
            self._chain.channel(active_channel.channel.signer, self._node, confirmed=False),
        )
        await self._read_time(active_channel)
        async with active_channel.lock:
            active_channel.channel = past_close(active_channel.channel, active_channel.chain_s)
            if seen is None and active_channel.channel.payer != ZERO_ADDRESS:
                # A reorganisation removed the block that opened the channel. Until the opening is
                # in a block again, there is no deposit.
                _log.warning("a channel's opening vanished", signer=active_channel.channel.signer)
                active_channel.channel = replace(
                    active_channel.channel, payer=ZERO_ADDRESS, deposit_units=0
                )
            if seen is not None:
                if seen.settled_units != active_channel.channel.settled_units:
                    # The claim loop may have settled rows, which explains another settled total.
                    await self._reload(active_channel)
                # A close request counts as soon as it is seen, before it is confirmed.
                closing = seen.close_at or (head.close_at if head else 0)
                active_channel.channel = observed(
                    active_channel.channel, replace(seen, close_at=closing)
                )
                if closing:
                    self._close_seen.tell(active_channel.channel.signer)
            active_channel.seen_s = self._clock.now_s()

    async def _read_time(self, active_channel: ActiveChannel) -> None:
        """Read the time of the newest block if the node has signed a Close for this channel.

        The time that has passed since that block is not added. A chain that stood still may later
        produce blocks with times in the past, and the Close is valid in those blocks.
        """
        if not active_channel.channel.no_sale_until_s:
            active_channel.chain_s = 0
            return
        try:
            active_channel.chain_s = await self._chain_time()
        except ChainError as error:
            _log.debug("the chain's time is not known", reason=error.detail)


def _book(channel: NodeChannel, due: dict[Delivery, Units]) -> NodeChannel:
    spent, reserved = dict(channel.spent), dict(channel.reserved)
    for delivery, units in due.items():
        if units:
            key = delivery.adapter_id
            spent[key] = spent.get(key, 0) + units
            reserved[key] = reserved.get(key, 0) - units
    return replace(channel, spent=spent, reserved=reserved)
