"""Read works for their owners: from a node, which they must believe, or from their own chain.

Owns the conversion of a node's answers about works and accounts, and the search for all works of
one owner. Values from a node are only shown; they never decide what is signed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final

from viz.client.exchange import exchange
from viz.creator.until_seen import EVERY_S, until_seen
from viz.creator.work_view import WorkView, work_from_json
from viz.domain.ports.chain import ChainReader
from viz.domain.units import Address, ContentId, hex_of
from viz.errors import CommitmentMismatch, LicenseError, LicenseMismatch, NodeNotTrusted
from viz.protocol.owner_actions import (
    ACCOUNT_PATH,
    OWNED_PAGE,
    OWNED_PATH,
    AccountView,
    OwnedWorks,
)
from viz.protocol.registration import CONTENTS_PATH, STATE_KEPT_S
from viz.protocol.wire import Reader
from viz.services.work_records import Registration

# The most pages of OWNED_PAGE works that one command reads from a node.
_MOST_PAGES: Final = 1_000
# The last look is after the time for which a node repeats an answer, and some more for the block.
_TRIES: Final = math.ceil(STATE_KEPT_S / EVERY_S) + 2

_WAITS: Final = (
    "the first answer does not agree with the record beside the work: looking again for "
    f"{(_TRIES - 1) * EVERY_S:.0f} seconds, since a block may come later, and a node repeats an "
    f"answer for up to {STATE_KEPT_S} seconds"
)


class NodeWorks:
    """Reads works from a node; nothing of it is verified."""

    def __init__(self, node_url: str) -> None:
        self._url = node_url

    async def work(self, content_id: ContentId) -> WorkView:
        """Return a work; raise LicenseError if there is none, and what ``exchange`` raises."""
        path = f"{CONTENTS_PATH}/{content_id}"
        return await exchange(partial(work_from_json, content_id), "GET", self._url, path)

    async def approved(self, content_id: ContentId, trainer: Address) -> bool:
        """Return whether the owner has approved a trainer; False if the node does not say."""
        path = f"{CONTENTS_PATH}/{content_id}?trainer={trainer}"

        def read(found: object) -> bool:
            reader = Reader(found, "the work")
            return reader.optional("approved", reader.boolean) or False

        return await exchange(read, "GET", self._url, path)

    async def owned(self, owner: Address) -> list[ContentId]:
        """Return the works of an owner; raise NodeNotTrusted if the answers do not end."""
        after, works = 0, list[ContentId]()
        for _ in range(_MOST_PAGES):
            path = f"{OWNED_PATH.format(account=owner)}?after={after}"
            page = await exchange(OwnedWorks.from_json, "GET", self._url, path)
            works += [ContentId(each) for each in page.contents]
            if page.looked_to >= page.count:
                return works
            if page.looked_to <= after:
                break
            after = page.looked_to
        raise NodeNotTrusted("the node's list of works does not end: give --rpc URL")

    async def account(self, account: Address) -> AccountView:
        """Return an account's balances; raise NodeNotTrusted, and as ``exchange`` does."""
        path = ACCOUNT_PATH.format(account=account)
        found = await exchange(AccountView.from_json, "GET", self._url, path)
        if found.account != account:
            raise NodeNotTrusted(f"the node answers for {found.account}, not for {account}")
        return found


class ChainWorks:
    """Reads works on a chain of the owner's choice."""

    def __init__(self, chain: ChainReader) -> None:
        self._chain = chain

    async def work(self, content_id: ContentId) -> WorkView:
        """Return a work; raise LicenseError if there is none."""
        content = await self._chain.content(content_id)
        if content is None:
            raise LicenseError(f"there is no work {content_id} on this chain: check the id")
        return WorkView(content, await self._chain.terms(content.terms_hash))

    async def owned(self, owner: Address) -> list[ContentId]:
        """Return the works of an owner."""
        count, works = await self._chain.content_count(), list[ContentId]()
        for first in range(1, count + 1, OWNED_PAGE):
            ids = [ContentId(each) for each in range(first, min(count, first + OWNED_PAGE - 1) + 1)]
            owners = await self._chain.owners(ids)
            works += [each for each, his in zip(ids, owners, strict=True) if his == owner]
        return works

    async def account(self, account: Address) -> AccountView:
        """Return an account's balances."""
        chain = self._chain
        return AccountView(
            account,
            await chain.token_balance(account),
            await chain.collectable(account),
            await chain.collected_to(account),
            await chain.coin_wei(account),
        )


WorkReader = NodeWorks | ChainWorks


async def require_registered(
    record: Registration, account: Address, works: WorkReader, tell: Callable[[str], None]
) -> None:
    """Raise an error if a record is not what is registered, or ``account`` not the work's owner.

    ``tell`` gets one line on why this waits, if the first answer does not agree.
    Raises CommitmentMismatch for another work, LicenseMismatch for another license, LicenseError
    for another owner, a withdrawn work or none, and what ``works`` raises.
    """
    refused: list[LicenseError | CommitmentMismatch] = []

    async def agrees() -> bool:
        try:
            assert record.content_id is not None
            _require_same(record, account, await works.work(record.content_id))
        except (LicenseError, CommitmentMismatch) as error:
            if not refused:
                tell(_WAITS)
            refused.append(error)
            return False
        return True

    if not await until_seen(agrees, _TRIES):
        raise refused[-1]


def _require_same(record: Registration, account: Address, found: WorkView) -> None:
    content, number = found.content, record.content_id
    if (content.creator, content.commitment) != (record.creator, record.commitment):
        raise CommitmentMismatch(
            f"work {number} is another work on the chain than the one of this record: nothing was "
            "sealed or sent. Check --rpc or --custodian, and the record beside the work"
        )
    if content.withdrawn_at:
        raise LicenseError(f"work {number} was withdrawn: nothing was sealed or sent")
    if content.owner != account:
        raise LicenseError(
            f"you are not the owner: work {number} belongs to {content.owner}, and the key is that "
            f"of {account}. Nothing was sealed or sent: use the owner's key"
        )
    offered = found.offered.license_hash if found.offered is not None else None
    if offered != record.license_hash:
        raise LicenseMismatch(
            f"the license hashes to {hex_of(record.license_hash)}, and the chain has "
            f"{hex_of(offered) if offered else 'none'} for work {number}: nothing was sealed or "
            "sent. Give the license that was registered last, with --license",
            fields=["licenseHash"],
        )
