"""Read Settlement: channels, what is earned and collectable, and what a claim would do."""

from __future__ import annotations

from collections.abc import AsyncIterator

from viz.chain import abi
from viz.chain.contract import Contract
from viz.chain.rpc import BlockTag
from viz.chain.scan import scan
from viz.domain.claim_rows import RowStatus
from viz.domain.ports.chain import ChannelState
from viz.domain.units import ZERO_ADDRESS, AdapterId, Address, Units
from viz.errors import ChainUnreachable


class Settlement(Contract):
    """Channels, earnings and balances."""

    name = "Settlement"

    async def channel(
        self, signer: Address, node: Address, *, block: BlockTag = "latest"
    ) -> ChannelState | None:
        """Return a channel; None if it was never opened."""
        found = await self._view("channel", signer, node, block=block)
        payer = Address(found["payer"])
        if payer == ZERO_ADDRESS:
            return None
        return ChannelState(
            signer, node, payer, found["deposit"], found["settled"], found["closeAt"]
        )

    async def opened(self, node: Address) -> AsyncIterator[Address]:
        """Yield the signers whose channel to ``node`` was ever opened, from the chain's logs."""
        named = bytes.fromhex(node.removeprefix("0x")).rjust(32, b"\0")
        topics = (abi.event_topic(self.name, "ChannelOpened"), None, None, named)
        head = await self._rpc.block_number()
        async for log in scan(self._rpc, [self.address], self._first_block, head, topics):
            decoded = abi.decode_event(self.name, log.topics, log.data)
            if decoded is not None:
                yield Address(decoded[1]["signer"])

    async def balance(
        self, account: Address, *, block: BlockTag = "latest"
    ) -> tuple[Units, Address]:
        """Return the amount that ``collect`` would send, and its recipient."""
        found = await self._view("balance", account, block=block)
        return found["amount"], Address(found["to"])

    async def undistributed(self, adapter_id: AdapterId, *, block: BlockTag = "latest") -> Units:
        """Return the royalties of the adapter's works that nobody distributed yet.

        The contract names this view ``owed``.
        """
        return int(await self._view("owed", adapter_id, block=block))

    async def revenue(self, adapter_id: AdapterId) -> Units:
        """Return all that an adapter ever earned, gross."""
        return int(await self._view("revenue", adapter_id))

    async def preview_claim(self, node: Address, rows: bytes) -> tuple[RowStatus, ...]:
        """Return how ``claim(rows)`` by ``node`` would judge each row at the newest block.

        The claim is executed on top of that block; a confirmed block does not know the claims mined
        since. A reorganisation can make the answer wrong, which costs only gas: no row is given up
        because of one answer (``ClaimService``). Raises ChainUnreachable, also for a status that
        is not known.
        """
        codes = await self._view("previewClaim", node, rows)
        try:
            return tuple(RowStatus(code) for code in codes)
        except ValueError as error:
            raise ChainUnreachable(
                f"Settlement.previewClaim answered {codes}, which holds an unknown status: use "
                "another rpc_url (--rpc), or the deployment file of these contracts"
            ) from error

    async def close_delay_s(self) -> int:
        """Return the close delay: the seconds between a close request and the withdrawal."""
        return int(await self._view("CLOSE_DELAY"))
