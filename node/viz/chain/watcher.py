"""Deliver the contracts' logs to a handler: in order, at least once, across reorganisations.

Owns the cursor: the marks of handled blocks, and their removal after a reorganisation. Invariants:

- An event reaches ``handle`` only after its confirmations.
- The cursor moves past an event only after ``handle`` returned. A crash repeats events and never
  skips one, so handlers are idempotent.
- Each handled block descends from the block marked before it. If it does not, ``roll_back`` is
  called with the last block that is still on the chain, before a newer block is handled.

Close requests are reported earlier: once each, as soon as they are seen, confirmed or not, because
a node must stop selling at once. For this, the newest blocks are read before history.
If an endpoint refuses a range of blocks, half of it is asked for, and then a little more each time.
If it limits the rate, the same range is asked for later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from viz.chain import abi
from viz.chain.deployment import contracts_by_address
from viz.chain.endpoint import RateLimited, TooMuchAsked
from viz.chain.event_decoding import decode_logs
from viz.chain.rpc import BlockNotKnown, Log, Rpc
from viz.domain.ports.chain import Deployment
from viz.domain.ports.settlement_ledger import BlockMark, CursorStore
from viz.domain.ports.transactions import Event
from viz.domain.units import Address, Hash32, hex_of
from viz.errors import ChainError, ChainMismatch, ChainUnreachable

Handle = Callable[[Sequence[Event]], Awaitable[None]]
RollBack = Callable[[int], Awaitable[None]]
_REMEMBERED_REQUESTS: Final = 10_000
_LONGEST_PAUSE_S: Final = 30.0
# Several servers may answer behind one URL: a single wrong one does not end the daemon.
_MISMATCHES: Final = 3
_log = structlog.get_logger()


class _RangeRefused(Exception):
    """The endpoint refused this many blocks; the next attempt asks for fewer."""


async def _ignore(_: object) -> None:
    return


class Watcher:
    """Follows the deployment's contracts from its first block."""

    def __init__(
        self,
        rpc: Rpc,
        deployment: Deployment,
        cursors: CursorStore,
        handle: Handle,
        *,
        roll_back: RollBack = _ignore,
        close_requested: Callable[[Event], Awaitable[None]] = _ignore,
        confirmations: int = 0,
        interval_s: float = 1.0,
        chunk_blocks: int = 2_000,
    ) -> None:
        self._rpc = rpc
        self._deployment = deployment
        self._cursors = cursors
        self._handle = handle
        self._roll_back = roll_back
        self._close_requested = close_requested
        self._confirmations = confirmations
        self._interval_s = interval_s
        self._chunk_blocks = self._chunk = chunk_blocks
        # The token is left out: its transfers are not needed, and may be thousands a minute.
        self._addresses = [
            address
            for address, name in contracts_by_address(deployment).items()
            if name != abi.CURRENCY
        ]
        self._close_topic = abi.event_topic("Settlement", "CloseRequested")
        self._reported: dict[tuple[Hash32, int], None] = {}

    async def run(self) -> None:
        """Follow the chain until cancelled; wait longer after each failure of the endpoint.

        An error of ``handle`` ends the loop, and the cursor stays before the event. ChainMismatch
        ends the loop after ``_MISMATCHES`` steps in a row: the chain was reset after this ledger
        was begun, or the endpoint serves another chain.
        """
        pause_s, mismatches = self._interval_s, 0
        while True:
            try:
                await self.step()
                pause_s, mismatches = self._interval_s, 0
            except ChainError as error:
                if isinstance(error, ChainMismatch):
                    mismatches += 1
                    if mismatches == _MISMATCHES:
                        raise
                pause_s = min(2 * pause_s, max(_LONGEST_PAUSE_S, self._interval_s))
                _log.warning("chain not read", reason=error.detail, again_in_s=pause_s)
            await asyncio.sleep(pause_s)

    async def step(self) -> None:
        """Bring the cursor to the confirmed head, and report close requests above it."""
        head = await self._rpc.block_number()
        confirmed = head - self._confirmations
        looked = False
        while True:
            mark = await self._standing_mark()
            first = mark.number + 1 if mark else self._deployment.first_block
            if not looked:
                # Before history, which may be long: a close request must stop sales at once.
                newest = max(first, head - self._chunk_blocks + 1)
                await self._look_ahead(min(newest, confirmed + 1), head)
                looked = True
            if first > confirmed:
                break
            last = min(confirmed, first + self._chunk - 1)
            try:
                if not await self._follow(mark, first, last):
                    # The chain changed while it was read: the next step starts again.
                    return
            except _RangeRefused:
                continue

    async def _standing_mark(self) -> BlockMark | None:
        """Return the newest mark that is still on the chain; roll back everything above it."""
        marks = await self._cursors.marks()
        standing = None
        for mark in marks:
            if await self._stands(mark):
                standing = mark
                break
        if marks and standing != marks[0]:
            above = standing.number if standing else self._deployment.first_block - 1
            if standing is None:
                # No mark is left. Either the reorganisation was deep, or the chain was reset: the
                # check raises ChainMismatch for another genesis or missing contracts.
                await self._rpc.check(self._deployment)
            _log.warning("reorganisation", newest_block=marks[0].number, rolled_back_to=above)
            # The rows before the marks: after a kill in between, the marks still differ from the
            # chain, and the roll-back is repeated.
            await self._roll_back(above)
            await self._cursors.rollback(above)
        return standing

    async def _stands(self, mark: BlockMark) -> bool:
        try:
            return (await self._rpc.block(mark.number)).hash == mark.hash
        except BlockNotKnown:
            return False

    async def _follow(self, mark: BlockMark | None, first: int, last: int) -> bool:
        """Handle the logs of one chunk; return False if the chain changed meanwhile."""
        # The logs are of one branch only if the last block is the same before and after, and the
        # first block's parent is the marked one.
        try:
            before = await self._rpc.block(last)
            logs = await self._logs(self._addresses, first, last)
            parent = (await self._rpc.block(first)).parent_hash
            after = await self._rpc.block(last)
        except BlockNotKnown:
            return False
        if before.hash != after.hash or (mark is not None and parent != mark.hash):
            return False
        if events := decode_logs(self._deployment, logs):
            await self._report_closes(events)
            await self._handle(events)
        await self._cursors.advance(BlockMark(last, after.hash))
        return True

    async def _look_ahead(self, first: int, last: int) -> None:
        """Report close requests in blocks that do not have their confirmations yet."""
        address, at = [self._deployment.settlement], max(first, self._deployment.first_block)
        while at <= last:
            end = min(last, at + self._chunk - 1)
            try:
                logs = await self._logs(address, at, end, (self._close_topic,))
            except _RangeRefused:
                continue
            await self._report_closes(decode_logs(self._deployment, logs))
            at = end + 1

    async def _logs(
        self,
        addresses: Sequence[Address],
        first: int,
        last: int,
        topics: Sequence[bytes] | None = None,
    ) -> tuple[Log, ...]:
        """Return the logs of these blocks; raise _RangeRefused if fewer should be asked for."""
        blocks = last - first + 1
        try:
            logs = await self._rpc.logs(addresses, first, last, topics)
        except RateLimited:
            raise
        except ChainUnreachable as error:
            self._chunk = max(1, blocks // 2)
            if blocks == 1 or not isinstance(error, TooMuchAsked):
                # A timeout may be caused by the range too: the next step asks for fewer blocks.
                raise
            _log.info("fewer blocks at once", blocks=self._chunk, reason=error.detail)
            raise _RangeRefused from error
        if blocks == self._chunk:
            self._chunk = min(self._chunk_blocks, blocks + blocks // 8 + 1)
        return logs

    async def _report_closes(self, events: Sequence[Event]) -> None:
        for event in events:
            key = (event.block_hash, event.log_index)
            if event.name != "CloseRequested" or key in self._reported:
                continue
            _log.info("close requested", channel=hex_of(event.args["channelId"]))
            await self._close_requested(event)
            self._reported[key] = None
            if len(self._reported) > _REMEMBERED_REQUESTS:
                del self._reported[next(iter(self._reported))]
