"""Open a node's ledger; begin one only where none can have been lost, or the operator says so.

Owns that rule: where the chain holds deposits in channels of this node, a ledger that is not there
was lost, and with it vouchers that may not be claimed yet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from viz.domain.ports.chain import ChannelState
from viz.domain.units import Address
from viz.errors import ChainError, LedgerMissing
from viz.store.ledger import SqlStore

_MOST_READ: Final = 200


class Channels(Protocol):
    """The channels on chain."""

    def opened(self, node: Address) -> AsyncIterator[Address]: ...

    async def channel(self, signer: Address, node: Address) -> ChannelState | None: ...


async def open_ledger(
    place: Path | str, identity: Mapping[str, str], channels: Channels, *, new: bool
) -> SqlStore:
    """Open the ledger at ``place`` of the node that ``identity`` names.

    ``new``: begin one without asking the chain. Raises as ``SqlStore.open`` and ``require_new``.
    """
    try:
        return await SqlStore.open(place, identity, begin=new)
    except LedgerMissing as missing:
        await require_new(channels, Address(identity["node"]), missing)
    return await SqlStore.open(place, identity)


async def require_new(channels: Channels, node: Address, missing: LedgerMissing) -> None:
    """Raise LedgerMissing if a channel of ``node`` still holds a deposit, or it cannot be told.

    The newest few hundred channels are not asked of: older ones hold money longer.
    """
    begin = "or begin anew with --new-ledger, which gives up every voucher that was not claimed"
    read: set[Address] = set()
    try:
        async for signer in channels.opened(node):
            if signer in read:
                continue
            read.add(signer)
            if len(read) > _MOST_READ:
                break
            found = await channels.channel(signer, node)
            if found is not None and found.deposit_units:
                raise LedgerMissing(
                    f"{missing.detail}, and the chain has deposits in channels of this node: point "
                    f"data_dir to where the ledger is, restore its backup, {begin}"
                )
    except LedgerMissing:
        raise
    except ChainError as error:
        raise LedgerMissing(
            f"{missing.detail}, and the chain does not tell whether this node had channels "
            f"({error.detail}): restore the ledger, try again later, {begin}"
        ) from error
