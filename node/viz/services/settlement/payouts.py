"""Distribute royalties to the owners of works, and collect the node's income.

Both are calls that anybody may make: the contract decides who gets what.
"""

from __future__ import annotations

from collections.abc import Sequence

from viz.domain.ports.chain import ChainReader
from viz.domain.ports.transactions import Call, ChainWriter, Transaction
from viz.domain.shares import Share, share_words
from viz.domain.units import AdapterId, Address, Units
from viz.errors import UnknownAdapter


class Payouts:
    """Move what Settlement holds to those whom it belongs to."""

    def __init__(self, reader: ChainReader, writer: ChainWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def distribute(self, adapter_id: AdapterId) -> Transaction:
        """Pay an adapter's royalties to the present owners of its works.

        Anyone may call the contract for this. Raises UnknownAdapter, TransactionFailed,
        OutcomeUnknown.
        """
        adapter = await self._reader.adapter(adapter_id)
        if adapter is None:
            raise UnknownAdapter(f"adapter {adapter_id} is not registered, or not confirmed yet")
        words = list(share_words(Share(*row) for row in adapter.shares))
        call = Call("Settlement", "distribute", (adapter_id, words))
        sent = await self._writer.submit(call)
        return sent.require_mined(f"distributing adapter {adapter_id}'s royalties")

    async def undistributed(self, adapter_ids: Sequence[AdapterId]) -> dict[AdapterId, Units]:
        """Return the undistributed royalties of those of these adapters that have any."""
        found = {each: await self._reader.undistributed(each) for each in adapter_ids}
        return {each: units for each, units in found.items() if units}

    async def collect(self, account: Address | None = None) -> Transaction:
        """Send an account's balance (by default this node's) to it, or to its payout address."""
        call = Call("Settlement", "collect", (account or self._writer.address,))
        return (await self._writer.submit(call)).require_mined("collecting")
