"""Find the nodes to which a notice about an adapter or a work belongs, and send it to each.

A notice is signed for one node, so that nobody can use it at another. Whoever wants to reach all
sends each node its own. Which nodes sell an adapter is what the market of the node that the
notifier named says: a node that is missing there is not told, and one that is made up gets nothing,
since each must answer under its own address, for the trusted chain, before it is shown to the
notifier. Invariant: a URL from a market is asked only if its address is public, or private ones are
allowed.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from viz.creator.notices import NoticeDesk, NoticeDraft, desk_of, kept_as_signed, signed_notice
from viz.domain.ports.chain import Deployment
from viz.domain.units import Address
from viz.errors import InvalidRequest, NodeNotTrusted, VizError
from viz.outbound import Outbound
from viz.protocol.answers import read_as
from viz.protocol.market import MARKET_PATH, MarketPage
from viz.protocol.messages import NodeInfo
from viz.protocol.notices import NOTICES_PATH, NoticePage, NoticeView
from viz.protocol.payment import NODE_PATH
from viz.services.market.remote_nodes import MAX_DESCRIPTION_BYTES, origin_in

MARKET_PAGES: Final = 20
MAX_DESKS: Final = 64
_ASKED_AT_ONCE: Final = 8
_TIMEOUT_S: Final = 15.0


class Desks:
    """The nodes that take one notice; close it at the end. ``missed`` are those not reached."""

    def __init__(self, deployment: Deployment, *, private_addresses: bool = False) -> None:
        self._deployment = deployment
        self._named = Outbound(private_addresses=True)
        self._strangers = Outbound(private_addresses=private_addresses)
        self._first: NoticeDesk | None = None
        self.missed: list[tuple[str, VizError]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.gather(self._named.close(), self._strangers.close())

    async def that_sell(self, draft: NoticeDraft, first: NoticeDesk) -> list[NoticeDesk]:
        """Return ``first`` and the other nodes that its market lists; note which did not answer.

        Raises what the market's node answers, and InvalidRequest if it names too many nodes.
        """
        self._first = first
        listed = await self._listed(draft, first.url)
        listed.pop(first.node, None)
        if len(listed) > MAX_DESKS:
            raise InvalidRequest(
                f"the market names {len(listed)} other nodes, at most {MAX_DESKS} are told at "
                "once: name them one by one with --node"
            )
        room = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def desk(node: Address, url: str) -> NoticeDesk | None:
            try:
                async with room:
                    return await self._desk(node, url)
            except VizError as error:
                self.missed.append((url, error))
                return None

        found = await asyncio.gather(*(desk(*each) for each in sorted(listed.items())))
        return [first, *(each for each in found if each is not None)]

    async def send(
        self, draft: NoticeDraft, desk: NoticeDesk, key: bytes, *, now_s: int
    ) -> NoticeView:
        """Sign the notice for a node and send it; return what the node keeps.

        Raises NodeNotTrusted if the node answers about another notice, and what it answers.
        """
        signed, digest = signed_notice(draft, desk, self._deployment, key, now_s=now_s)
        http = self._strangers if self._first not in (None, desk) else self._named
        answer = await http.ask(
            "POST", desk.url + NOTICES_PATH, body=signed.to_json(), timeout_s=_TIMEOUT_S
        )
        return kept_as_signed(read_as(NoticeView.from_json, answer), digest, desk)

    async def _listed(self, draft: NoticeDraft, url: str) -> dict[Address, str]:
        about = f"adapter={draft.adapter_id}" if draft.adapter_id else f"work={draft.content_id}"
        named: dict[Address, str] = {}
        after = ""
        for _ in range(MARKET_PAGES):
            question = f"{url}{MARKET_PATH}?{about}" + (f"&after={after}" if after else "")
            answer = await self._named.ask("GET", question, timeout_s=_TIMEOUT_S)
            page = read_as(MarketPage.from_json, answer)
            for offer in (offer for model in page.models for offer in model.offers):
                try:
                    named.setdefault(offer.node, origin_in(offer.url))
                except InvalidRequest as error:
                    self.missed.append((offer.url, error))
            if not page.next:
                return named
            after = page.next
        return named

    async def _desk(self, node: Address, url: str) -> NoticeDesk:
        http = self._strangers
        told, rules = await asyncio.gather(
            http.ask("GET", url + NODE_PATH, max_bytes=MAX_DESCRIPTION_BYTES, timeout_s=_TIMEOUT_S),
            http.ask("GET", url + NOTICES_PATH, timeout_s=_TIMEOUT_S),
        )
        info = read_as(NodeInfo.from_json, told)
        desk = desk_of(url, info, read_as(NoticePage.from_json, rules), self._deployment)
        if desk.node != node:
            raise NodeNotTrusted(f"another node answers there: {desk.node}, and not {node}")
        return desk
