"""Open a node's ledger; begin one only where none can have been lost, or the operator says so.

Owns that rule: where the chain holds deposits in channels of this node, a ledger that is not there
was lost, and with it vouchers that may not be claimed yet. Where that cannot be told, the operator
is asked too: more channels were opened than are looked at, or the endpoint knows none although the
key has sent transactions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from viz.domain.ports.chain import OpenedChannels
from viz.domain.units import Address
from viz.errors import ChainError, LedgerMissing
from viz.store.ledger import SqlStore

_MOST_READ: Final = 200


async def open_ledger(
    place: Path | str,
    identity: Mapping[str, str],
    channels: OpenedChannels,
    *,
    new: bool,
    sent: Callable[[], Awaitable[int]] | None = None,
) -> SqlStore:
    """Open the ledger at ``place`` of the node that ``identity`` names.

    ``new``: begin one without asking the chain. ``sent`` says how many transactions the node's key
    has sent, as the chain counts them. Raises as ``SqlStore.open`` and ``require_new``.
    """
    try:
        return await SqlStore.open(place, identity, begin=new)
    except LedgerMissing as missing:
        await require_new(channels, Address(identity["node"]), missing, sent=sent)
    return await SqlStore.open(place, identity)


async def require_new(
    channels: OpenedChannels,
    node: Address,
    missing: LedgerMissing,
    *,
    sent: Callable[[], Awaitable[int]] | None = None,
) -> None:
    """Raise LedgerMissing if a channel of ``node`` still holds a deposit, or it cannot be told.

    The newest channels are looked at: the oldest were emptied first, and strangers can open many.
    """
    begin = "or begin anew with --new-ledger, which gives up every voucher that was not claimed"
    opened: dict[Address, None] = {}
    try:
        async for signer in channels.opened(node):
            opened.pop(signer, None)  # opened again: it is among the newest
            opened[signer] = None
        for signer in list(reversed(opened))[:_MOST_READ]:
            found = await channels.channel(signer, node)
            if found is not None and found.deposit_units:
                raise LedgerMissing(
                    f"{missing.detail}, and the chain has deposits in channels of this node: point "
                    f"data_dir to where the ledger is, restore its backup, {begin}"
                )
        if len(opened) > _MOST_READ:
            raise LedgerMissing(
                f"{missing.detail}, and {len(opened)} channels of this node were opened, of which "
                f"the newest {_MOST_READ} are empty: restore the ledger's backup, {begin}"
            )
        if not opened and sent is not None and (count := await sent()):
            raise LedgerMissing(
                f"{missing.detail}, and the chain's endpoint knows no channel of this node, though "
                f"its key has sent {count} transactions: point data_dir to where the ledger is, "
                f"restore its backup, {begin}. If the key never served, there is none to give up"
            )
    except LedgerMissing:
        raise
    except ChainError as error:
        raise LedgerMissing(
            f"{missing.detail}, and the chain does not tell whether this node had channels "
            f"({error.detail}): restore the ledger, try again later, {begin}"
        ) from error
