"""Read all receipts of a channel from its node, page after page, as the buyer whose they are."""

from __future__ import annotations

from functools import partial
from typing import Final

from viz.buyer.client import BuyerClient
from viz.domain.receipt import SignedReceipt
from viz.errors import NodeNotTrusted

_MOST_PAGES: Final = 4_096


async def receipts_of(client: BuyerClient) -> list[SignedReceipt]:
    """Return what the node hands out, the oldest first; what it proves is the caller's to check.

    Raises NodeNotTrusted if the node hands out the same receipts again, and what a request raises.
    """
    found: list[SignedReceipt] = []
    for _ in range(_MOST_PAGES):
        after = found[-1].receipt.seq if found else 0
        page = await client.access.use(partial(client.api.receipts, client.signer, after))
        if not page:
            break
        found += page
        if page[-1].receipt.seq <= after:
            raise NodeNotTrusted("the node hands out the same receipts again")
    return found
