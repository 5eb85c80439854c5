"""Read all receipts of a buyer's channels from their node, page after page.

Owns the reading for the present channel, and for those that were set aside, by the keys in their
folders. What the receipts prove is the caller's to check.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from viz.buyer.channels.session import BuyerSession
from viz.buyer.client import BuyerClient
from viz.buyer.ledger.folders import KEY_FILE, KeptChannel
from viz.buyer.ledger.spending import channels_on_disk
from viz.chain.keys import load_key
from viz.domain.eip712 import public_address
from viz.domain.receipt import SignedReceipt
from viz.domain.units import Address
from viz.errors import InvalidKeyFile, NodeNotTrusted, VizError

_MOST_PAGES: Final = 4_096


@dataclass(frozen=True, slots=True)
class FormerReceipts:
    """What the node hands out of a former channel, and how many receipts its folder has verified.

    ``fault`` says why there is nothing, if the key or the node does not give it.
    """

    signer: Address
    known: int
    receipts: tuple[SignedReceipt, ...] = ()
    fault: str = ""


async def receipts_of(client: BuyerClient) -> list[SignedReceipt]:
    """Return what the node hands out, the oldest first.

    Raises NodeNotTrusted if the node hands out the same receipts again, and what a request raises.
    """
    return await _handed_out(client, client.access, client.signer)


async def former_receipts(client: BuyerClient, home: Path, password: str) -> list[FormerReceipts]:
    """Return the receipts of the channels to this node that were set aside in ``home``.

    Of several copies of one channel the one with the most receipts counts.
    """
    found: dict[Address, tuple[int, KeptChannel]] = {}
    for kept, channel in channels_on_disk(home, client.deployment):
        if not kept.former or kept.node != client.info.node or kept.signer in (None, client.signer):
            continue
        assert kept.signer is not None
        known = channel.seq if channel is not None else 0
        if known > found.get(kept.signer, (-1, kept))[0]:
            found[kept.signer] = known, kept
    return [await _of_former(client, signer, *of, password) for signer, of in found.items()]


async def _of_former(
    client: BuyerClient, signer: Address, known: int, kept: KeptChannel, password: str
) -> FormerReceipts:
    try:
        key = await asyncio.to_thread(load_key, kept.directory / KEY_FILE, password)
        if public_address(key) != signer:
            raise InvalidKeyFile(f"{kept.directory / KEY_FILE} is the key of another channel")
        domain = client.voucher_signer.domain
        access = BuyerSession(client.api, client.info.node, key, domain)
        return FormerReceipts(signer, known, tuple(await _handed_out(client, access, signer)))
    except VizError as error:
        return FormerReceipts(signer, known, fault=error.detail)


async def _handed_out(
    client: BuyerClient, access: BuyerSession, signer: Address
) -> list[SignedReceipt]:
    found: list[SignedReceipt] = []
    for _ in range(_MOST_PAGES):
        after = found[-1].receipt.seq if found else 0
        page = await access.use(partial(client.api.receipts, signer, after))
        if not page:
            break
        found += page
        if page[-1].receipt.seq <= after:
            raise NodeNotTrusted("the node hands out the same receipts again")
    return found
