"""Define one interface for the proxy and the commands: to ask one node, or a network of nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

from viz.buyer.answer_length import ask_fitting
from viz.buyer.answers.answer import PaidAnswer
from viz.buyer.answers.completion import usage_of
from viz.buyer.answers.received import AnswerChunk
from viz.buyer.client import BuyerClient
from viz.domain.ports.chain import Deployment
from viz.domain.units import Units
from viz.errors import VizError
from viz.protocol.answer_evidence import AnswerEvidence
from viz.protocol.wire import Json

# In the extensions of an error that ended an answer: who was paid before, and what was deposited.
PARTS: Final = "parts"
DEPOSITS: Final = "deposits"
Write = Callable[[str], Awaitable[None]]


class StreamedAnswer(Protocol):
    """An answer that arrives, and is paid for, piece by piece."""

    model: str

    @property
    def text(self) -> str: ...

    @property
    def cost_units(self) -> Units | None:
        """What it cost; None while that is not known."""
        ...

    @property
    def usage(self) -> dict[str, int]:
        """OpenAI's usage object."""
        ...

    def parts_json(self) -> list[Json]:
        """Return who was paid for which part if several nodes wrote the answer, else ``[]``."""
        ...

    def __aiter__(self) -> AsyncIterator[AnswerChunk]: ...


class AskedSide(Protocol):
    """What can be asked, one node or a network: its models, its answers, and what was spent."""

    @property
    def deployment(self) -> Deployment: ...

    async def model_entries(self) -> list[Json]:
        """Return the models on offer in OpenAI's form."""
        ...

    async def model_entry(self, wanted: str) -> Json:
        """Return one model in OpenAI's form; raise UnknownModel."""
        ...

    def asking(
        self, body: dict[str, Any], path: str
    ) -> AbstractAsyncContextManager[StreamedAnswer]:
        """Return a context that yields the answer to an OpenAI request."""
        ...

    async def spending_report(self) -> Json:
        """Return what was spent and what is left, as JSON."""
        ...

    def unspent_units(self) -> Units:
        """Return what is left of the deposits."""
        ...


class OneNodesAnswer:
    """A paid answer of one node, as a StreamedAnswer."""

    def __init__(self, answer: PaidAnswer) -> None:
        self._answer = answer
        self._finish = ""
        self.model = answer.model

    @property
    def text(self) -> str:
        """The text that has arrived so far."""
        return self._answer.text

    @property
    def cost_units(self) -> Units | None:
        """What the answer cost; None while that is not known."""
        return self._answer.cost_units

    @property
    def usage(self) -> dict[str, int]:
        """OpenAI's usage object, from the receipt."""
        return usage_of(self._answer)

    def parts_json(self) -> list[Json]:
        """Return ``[]``: one node wrote the whole answer."""
        return []

    def evidence(self, client: BuyerClient) -> AnswerEvidence | None:
        """Return the record by which anybody can check the answer; None if it has no receipt."""
        if self._answer.receipt is None:
            return None
        where, asked = client.deployment, self._answer.asked
        return AnswerEvidence(
            client.info.node,
            where.chain_id,
            where.settlement,
            asked.path,
            asked.body,
            self._answer.text,
            self._finish,
            self._answer.receipt,
        )

    async def __aiter__(self) -> AsyncIterator[AnswerChunk]:
        async for chunk in self._answer:
            self._finish = _finish_of(chunk) or self._finish
            yield chunk


def _finish_of(chunk: AnswerChunk) -> str:
    """Return why the answer ended, if this chunk says so in OpenAI's words."""
    choices = chunk.get("choices")
    said = choices[-1].get("finish_reason") if isinstance(choices, list) and choices else None
    return said if said in ("stop", "length") else ""


class OneNode:
    """A client of one node, as an AskedSide."""

    def __init__(self, client: BuyerClient) -> None:
        self._client = client

    @property
    def deployment(self) -> Deployment:
        """The contracts that the buyer trusts."""
        return self._client.deployment

    async def model_entries(self) -> list[Json]:
        """Return the node's models in OpenAI's form."""
        info = await self._client.refresh_info()
        return [openai_model(offer.model, info.node, offer.to_json()) for offer in info.adapters]

    async def model_entry(self, wanted: str) -> Json:
        """Return one model in OpenAI's form; raise UnknownModel."""
        offer = await self._client.offer_of(wanted)
        return openai_model(offer.model, self._client.info.node, offer.to_json())

    @asynccontextmanager
    async def asking(self, body: dict[str, Any], path: str) -> AsyncIterator[OneNodesAnswer]:
        """Yield the node's answer; shorten the request if the context has no room for it."""
        async with ask_fitting(self._client, body, path) as answer:
            yield OneNodesAnswer(answer)

    async def spending_report(self) -> Json:
        """Return what was spent on the channel, by day and model."""
        return self._client.spending.report()

    def unspent_units(self) -> Units:
        """Return what is left of the deposit."""
        channel = self._client.channel
        return max(0, channel.limit_units - sum(channel.billed.values()))


# Called with an answer when it ends, even if an error ends it.
Ended = Callable[[AskedSide, StreamedAnswer], None]


async def pass_on(
    side: AskedSide, answer: StreamedAnswer, write: Write, ended: Ended | None
) -> None:
    """Write an answer's text as it arrives."""
    shown = 0
    try:
        async for _ in answer:
            await write(answer.text[shown:])
            shown = len(answer.text)
    finally:
        if ended:
            ended(side, answer)


def costs_in(error: VizError) -> Json:
    """Return what was paid and deposited before the error that ended an answer, as JSON."""
    return {key: error.extensions[key] for key in (PARTS, DEPOSITS) if key in error.extensions}


def chosen_line(model: str, name: str, price: str) -> str:
    """Return the line that tells which model was chosen for a question, and its price."""
    return f"asking {model}{f' ({name})' if name not in ('', model) else ''}: {price}"


def openai_model(name: str, owner: str, offer: Json) -> Json:
    """Return a model in OpenAI's form, with its offer."""
    entry = {"id": name, "object": "model", "created": 0, "owned_by": owner}
    return entry | {"viz": offer}
