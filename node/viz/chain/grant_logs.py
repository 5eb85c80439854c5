"""Read a work's grants from the logs; ChainError if they lack one that the chain shows.

Owns the comparison of what an endpoint serves with the contracts' views: the work's registration,
the count of adapters, the newest grant of each trainer, and the fees that the registry paid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from viz.chain import abi
from viz.chain.event_decoding import decode_logs
from viz.chain.log_completeness import (
    logs_missing,
    registered_adapters,
    registered_works,
    require_counted,
    require_fees,
    require_grants,
)
from viz.chain.rpc import BlockTag, Rpc
from viz.chain.scan import scan
from viz.chain.token_transfers import transfers_from
from viz.domain.ports.chain import ContentState, Deployment, GrantState
from viz.domain.ports.transactions import Event
from viz.domain.shares import shares_from_words
from viz.domain.statement import AdapterRates
from viz.domain.units import AdapterId, Address, ContentId
from viz.errors import LicenseError

_VIEWS_AT_ONCE: Final = 16


class ContentViews(Protocol):
    """The views of ContentRegistry that logs are compared with."""

    async def content(
        self, content_id: ContentId, *, block: BlockTag = ...
    ) -> ContentState | None: ...

    async def grant(
        self, content_id: ContentId, trainer: Address, now_s: int, *, block: BlockTag = ...
    ) -> GrantState | None: ...


class AdapterViews(Protocol):
    """The view of AdapterRegistry that logs are compared with."""

    async def count(self, *, block: BlockTag = ...) -> int: ...


class GrantLogs:
    """Reads the events of grants and adapters."""

    def __init__(
        self, rpc: Rpc, deployment: Deployment, contents: ContentViews, adapters: AdapterViews
    ) -> None:
        self._rpc, self._deployment = rpc, deployment
        self._contents, self._adapters = contents, adapters

    async def trainers_of(self, content_id: ContentId) -> tuple[Address, ...]:
        """Return all accounts that acquired a grant to a work, as far as the chain shows them.

        Raises ChainError if the endpoint lacks the event of the work's registration, of an adapter,
        or of a grant that a view, an adapter or a fee shows; ChainUnreachable, LicenseError.
        """
        head = await self._rpc.block_number()
        await self.require_registered(content_id)
        registered = await self.registered(content_id, head)
        grants = await self.grants(content_id, head)
        await self.require_grants(content_id, grants, registered, (), head)
        return tuple(sorted({Address(event.args["trainer"]) for event in grants}))

    async def require_registered(self, content_id: ContentId) -> None:
        """Raise ChainError if the endpoint lacks the work's registration, LicenseError for none."""
        head, work = await self._rpc.block_number(), content_id.to_bytes(32, "big")
        events = await self.scan("ContentRegistry", "Transfer", (None, None, work), head)
        if content_id in registered_works(events):
            return
        if await self._contents.content(content_id, block=head) is None:
            raise LicenseError(f"there is no work {content_id} on this chain: check the id")
        raise logs_missing(f"work {content_id} is registered", self._rpc.url)

    async def registered(
        self, content_id: ContentId, head: int
    ) -> tuple[tuple[AdapterRates, Event], ...]:
        """Return the adapters trained on a work, by id, with the events of their registration.

        Raises ChainError if the endpoint does not serve the event of every registered adapter.
        """
        found = []
        events = await self.scan("AdapterRegistry", "AdapterRegistered", (), head)
        count = await self._adapters.count(block=head)
        require_counted("adapter", registered_adapters(events), count, self._rpc.url)
        for event in events:
            shares = dict(shares_from_words(event.args["shares"]))
            if content_id in shares:
                rates = AdapterRates(
                    AdapterId(event.args["adapterId"]),
                    Address(event.args["trainer"]),
                    event.args["royaltyBps"],
                    event.args["trainerBps"],
                    shares[content_id],
                )
                found.append((rates, event))
        return tuple(sorted(found, key=lambda each: each[0].adapter_id))

    async def require_grants(
        self,
        content_id: ContentId,
        events: Sequence[Event],
        registered: Sequence[tuple[AdapterRates, Event]],
        trainers: Collection[Address],
        head: int,
    ) -> None:
        """Raise ChainError if the endpoint lacks a grant that the contract or the token shows."""
        grants = [event for event in events if event.name == "GrantAcquired"]
        asked = sorted(
            {*trainers, *(each.trainer for each, _ in registered)}
            | {Address(event.args["trainer"]) for event in grants}
        )
        views = dict[Address, GrantState | None]()
        for first in range(0, len(asked), _VIEWS_AT_ONCE):
            some = asked[first : first + _VIEWS_AT_ONCE]
            found = await asyncio.gather(
                *(self._contents.grant(content_id, each, 0, block=head) for each in some)
            )
            views |= dict(zip(some, found, strict=True))
        places = {
            each.adapter_id: (each.trainer, (event.block_number, event.log_index))
            for each, event in registered
        }
        require_grants(grants, views, places, self._rpc.url)
        where = self._deployment
        paid = await transfers_from(self._rpc, where, where.content_registry, head)
        if paid:
            require_fees(await self.grants(None, head), paid, self._rpc.url)

    async def grants(self, content_id: ContentId | None, last: int) -> list[Event]:
        """Return the grants of a work, or of all works."""
        topics = () if content_id is None else (content_id.to_bytes(32, "big"),)
        return await self.scan("ContentRegistry", "GrantAcquired", topics, last)

    async def scan(
        self, contract: str, event: str, topics: Sequence[bytes | None], last: int
    ) -> list[Event]:
        """Return all events of one type up to a block; ``topics`` are those after the first."""
        where = self._deployment
        address = {
            "ContentRegistry": where.content_registry,
            "AdapterRegistry": where.adapter_registry,
            "Settlement": where.settlement,
        }[contract]
        wanted = [abi.event_topic(contract, event), *topics]
        logs = [
            log
            async for log in scan(self._rpc, [address], self._deployment.first_block, last, wanted)
        ]
        return list(decode_logs(where, logs))
