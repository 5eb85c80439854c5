"""Count the answers of one named node in the day's budget, as those of the network count.

Invariant: what is paid through ``CountedNode`` is in the day's sum of the data folder, and within
the day's limit where its ``DayBudget`` has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from viz.buyer.answer_length import ask_fitting, at_most
from viz.buyer.answers.answer import PaidAnswer
from viz.buyer.asking import OneNode, OneNodesAnswer
from viz.buyer.client import BuyerClient
from viz.buyer.network.budget import DayBudget
from viz.buyer.network.continuation import require_choices
from viz.buyer.network.policy import Request
from viz.errors import InvalidRequest
from viz.protocol.wire import Json


class CountedNode(OneNode):
    """A client of one node whose answers count in the day's budget."""

    def __init__(self, client: BuyerClient, day: DayBudget) -> None:
        super().__init__(client)
        self._day = day

    @asynccontextmanager
    async def asking(self, body: dict[str, Any], path: str) -> AsyncIterator[OneNodesAnswer]:
        """Yield the node's answer as ``OneNode`` does; raise BudgetSpent too."""
        client = self._client
        if not isinstance(body.get("model"), str):
            raise InvalidRequest("name a model: /v1/models lists them", param="model")
        require_choices(body)
        offer = await client.offer_of(body["model"])
        shorter = at_most(body, client.info.base_of(offer).context_tokens)
        request = Request.of(shorter, path)
        units = request.units(offer)
        cap_units = client.limits.request_units
        asked: list[PaidAnswer] = []
        with self._day.reserve_for(
            units, units, request.most_units([offer]), cap_units
        ) as reservation:

            def note(answer: PaidAnswer) -> None:
                answer.held_as(reservation.name)
                asked.append(answer)

            limits = replace(client.limits, request_units=min(cap_units, reservation.units))
            try:
                async with ask_fitting(client, body, path, limits=limits, asked=note) as answer:
                    yield OneNodesAnswer(answer)
            finally:
                # One before the last was refused because of its length, and cost nothing.
                for each in asked[-1:]:
                    units = each.most_units
                    self._day.spend(reservation, units)
                    each.note_counted(units)

    async def spending_report(self) -> Json:
        """Return what was spent on the channel, and today; raise BooksMismatch."""
        return await super().spending_report() | await asyncio.to_thread(self._day.report)
