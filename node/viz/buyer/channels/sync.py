"""Keep a buyer's ledger in step with its node and, if the buyer reads one, with its chain.

Owns when the channel and its receipts are read, and how long to wait for a bill that has not come.
``viz.buyer.vouchers.voucher_signer`` decides what is believed of them.

Invariant: after a receipt that does not verify, no more receipts of this node are read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Final

from viz.buyer.channels.session import BuyerSession
from viz.buyer.ledger.open_request import OpenRequest
from viz.buyer.vouchers.signed_vouchers import older_ledger
from viz.buyer.vouchers.voucher_signer import VoucherSigner
from viz.client.node_client import NodeClient
from viz.domain.buyer_channel import BuyerChannel
from viz.domain.ports.chain import ChainReader, ChannelState
from viz.domain.receipt import SignedReceipt
from viz.domain.units import ZERO_ADDRESS, AdapterId, Units
from viz.errors import ChainError, InvalidSignature, NodeNotTrusted

# A node bills a broken answer as soon as it notices the break: some moments after the buyer does.
LATE_BILL_WAITS_S: Final = (0.0, 0.2, 1.0)
CHAIN_READ_S: Final = 60.0
CHAIN_WAIT_S: Final = 2.0
CHAIN_AGAIN_S: Final = 10.0


class ChannelSync:
    """Reads one channel and its receipts into the ledger."""

    def __init__(
        self,
        api: NodeClient,
        access: BuyerSession,
        voucher_signer: VoucherSigner,
        chain: ChainReader | None,
    ) -> None:
        self._api = api
        self._access = access
        self._voucher_signer = voucher_signer
        self._chain = chain
        self._synced = False
        self._chain_read_s = 0.0
        # After a failed reading, when to try again.
        self._chain_again_s = 0.0
        self.closed_until_s = 0
        """Until when a Close that the node signed is valid, as the node last said; 0: none."""

    async def sync(self) -> None:
        """Read the channel, and every receipt that is not in the ledger yet.

        The receipts of a node that is no longer trusted are not read. If the buyer's chain cannot
        be read, the last reading of this process serves. Raises ChainError if there is none,
        NodeNotTrusted, InvalidSignature, and BooksMismatch if buyer, node and chain disagree on
        what was signed or billed.
        """
        signer = self._voucher_signer
        await self._observe_in_time()
        known = signer.channel
        view = await self._access.use(partial(self._api.channel, signer.channel.signer))
        self.closed_until_s = view.closed_until_s
        signer.note(view)
        await self._require_not_older(view.seq, known)
        while view.seq > signer.channel.seq and not signer.fault:
            before = signer.channel.seq
            call = partial(self._api.receipts, signer.channel.signer, before)
            if not self._take_late(await self._access.use(call)):
                return
            if signer.channel.seq == before:
                raise NodeNotTrusted("the node does not hand out the receipts of this channel")
        signer.all_receipts_known()
        self._synced = True

    async def require_not_older(self) -> None:
        """Raise BooksMismatch if the node's ledger has lost receipts that the node signed.

        Then it refuses every voucher. Call it when a node refuses one.
        """
        known = self._voucher_signer.channel
        view = await self._access.use(partial(self._api.channel, known.signer))
        await self._require_not_older(view.seq, known)
        if view.seq == known.seq and view.head != known.head:
            raise older_ledger(view.seq, known.seq)

    async def _require_not_older(self, seq: int, known: BuyerChannel) -> None:
        """Compare a view's ``seq`` with what was known before it was asked for."""
        if seq >= known.seq:
            return
        # A server on the way may have kept an older view. The node has what it signed.
        last = partial(self._api.receipts, known.signer, known.seq - 1)
        if not await self._access.use(last):
            raise older_ledger(seq, known.seq)

    def _take_late(self, receipts: Iterable[SignedReceipt]) -> bool:
        """Keep the receipts up to one whose answer still arrives; return whether all were kept."""
        try:
            return all(map(self._voucher_signer.take_late, receipts))
        except (NodeNotTrusted, InvalidSignature) as error:
            self._voucher_signer.distrust(error.detail)
            raise

    async def observe_chain(self) -> None:
        """Read the channel from the buyer's own chain, if it reads one; raise ChainError."""
        if self._chain is None:
            return
        signer, node = self._voucher_signer.channel.signer, self._voucher_signer.channel.node
        seen = await self._chain.channel(signer, node)
        self._voucher_signer.observe(seen or ChannelState(signer, node, ZERO_ADDRESS, 0, 0, 0))
        self._chain_read_s = time.monotonic()

    async def _observe_in_time(self) -> None:
        """Read the buyer's chain; if it was read before, not for long, and not if it just failed.

        An endpoint that is away must not stop the questions that the node answers. Raises
        ChainError at the first reading.
        """
        if not self._chain_read_s:
            await self.observe_chain()
        elif time.monotonic() >= self._chain_again_s:
            self._chain_again_s = time.monotonic() + CHAIN_AGAIN_S
            with suppress(ChainError, TimeoutError):
                async with asyncio.timeout(CHAIN_WAIT_S):
                    await self.observe_chain()
                self._chain_again_s = 0.0

    async def sync_for(self, adapter_id: AdapterId, required_units: Units) -> None:
        """Read the receipts if the bills so far do not justify what the node requires.

        The node may bill an answer a moment after the buyer left it. So a requirement above the
        ceiling is checked again after each of a few waits.
        """
        signer = self._voucher_signer
        if signer.rests_on_unbilled(adapter_id, required_units):
            await self.sync()
        for wait_s in LATE_BILL_WAITS_S:
            if signer.allows(adapter_id, required_units) and not signer.overdrawn(
                adapter_id, required_units
            ):
                return
            await asyncio.sleep(wait_s)
            await self.sync()

    async def sync_for_bill(self, open_request: OpenRequest) -> None:
        """Look for the receipt of an answer that has just broken off."""
        for wait_s in LATE_BILL_WAITS_S:
            await asyncio.sleep(wait_s)
            await self.sync()
            if open_request.seq:
                return

    def read_again(self) -> None:
        """Have the channel read before the next request."""
        self._synced = False

    async def sync_if_behind(self) -> None:
        """Read the channel once per process, and after a request that ended without its receipt.

        The buyer's chain is read again every ``CHAIN_READ_S``. If it cannot be read, the last
        reading is used, so that a request does not wait for the chain.
        """
        if not self._synced or self._voucher_signer.lacks_receipts:
            await self.sync()
        elif self._chain is not None and self._chain_read_s + CHAIN_READ_S < time.monotonic():
            await self._observe_in_time()
