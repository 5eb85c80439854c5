"""Open a node's ledger; create one only if none can have been lost, or if the operator says so.

If the chain holds deposits in channels of this node, a missing ledger was lost, and unclaimed
vouchers with it. So no new one is created. The operator must decide too if this cannot be known:
if more channels were opened than are checked, if the endpoint knows no channels although the node's
key has sent transactions, or if the chain cannot be read.
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

    ``new``: create a ledger without asking the chain. ``sent`` returns how many transactions the
    node's key has sent, counted by the chain. Raises what ``SqlStore.open`` and ``require_new``
    raise.
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
    """Raise LedgerMissing if a channel of ``node`` holds a deposit, or if that cannot be known.

    Only the newest ``_MOST_READ`` channels are checked, because strangers can open many. The oldest
    channels are the first to be emptied.
    """
    restore = (
        "restore its latest backup (docs/operating.md says what an older one costs: channels that "
        "were used since end)"
    )
    begin = "or begin anew with --new-ledger, which gives up every voucher that was not claimed"
    opened: dict[Address, None] = {}
    try:
        async for signer in channels.opened(node):
            opened.pop(signer, None)  # a channel that was opened again counts as new
            opened[signer] = None
        for signer in list(reversed(opened))[:_MOST_READ]:
            found = await channels.channel(signer, node)
            if found is not None and found.deposit_units:
                raise LedgerMissing(
                    f"{missing.detail}, and the chain has deposits in channels of this node: point "
                    f"data_dir to where the ledger is, {restore}, {begin}"
                )
        if len(opened) > _MOST_READ:
            raise LedgerMissing(
                f"{missing.detail}, and {len(opened)} channels of this node were opened, of which "
                f"the newest {_MOST_READ} are empty: {restore}, {begin}"
            )
        if not opened and sent is not None and (count := await sent()):
            raise LedgerMissing(
                f"{missing.detail}, and the chain's endpoint knows no channel of this node, though "
                f"its key has sent {count} transactions: point data_dir to where the ledger is, "
                f"{restore}, {begin}. If the key never served, there is none to give up"
            )
    except LedgerMissing:
        raise
    except ChainError as error:
        raise LedgerMissing(
            f"{missing.detail}, and the chain does not tell whether this node had channels "
            f"({error.detail}): {restore}, try again later, {begin}"
        ) from error
