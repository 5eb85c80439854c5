"""Get one answer from a network: ask the best node, and continue at the next one if it fails.

Owns the course of one request over several nodes. ``viz.buyer.answers.answer`` owns each part.

Invariants: the parts join to one answer without repeated text; the text that arrived is part of the
prompt at the next node, so that no completion token is paid twice; a part may cost at most what the
earlier parts left of the request's cap; each node is asked once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import structlog

from viz.buyer.answer_length import at_most, room_in
from viz.buyer.answers.answer import PaidAnswer
from viz.buyer.answers.received import AnswerChunk, has_news, text_of
from viz.buyer.client import BuyerClient
from viz.buyer.ledger.folders import ChannelHeld
from viz.buyer.network.budget import DayBudget, Reservation
from viz.buyer.network.continuation import ended_by_length, goes_on, length_of
from viz.buyer.network.parts import AnswerPart, DepositMade, at_node, with_costs
from viz.buyer.network.pool import NodePool
from viz.domain.display import amount
from viz.domain.units import Units
from viz.errors import (
    AdapterEnded,
    BooksMismatch,
    BudgetSpent,
    ChainUnreachable,
    InvalidKeyFile,
    InvalidRequest,
    NodeUnreachable,
    PriceAboveCap,
    PromptEmpty,
    PromptTooLong,
    StoreError,
    UnknownModel,
    VizError,
)
from viz.protocol.market import MarketModel, MarketOffer
from viz.protocol.messages import AdapterOffer
from viz.protocol.wire import Json

# A node that sends no text for this long is given up: before its first text, and after it.
FIRST_TEXT_S: Final = 60.0
NEXT_TEXT_S: Final = 20.0
# Every node would answer so: the fault is in the request, or with the buyer.
_OF_THE_REQUEST: Final = (
    BudgetSpent,
    InvalidKeyFile,
    InvalidRequest,
    PromptEmpty,
    PromptTooLong,
    StoreError,
)
_log = structlog.get_logger()
Note = Callable[[MarketOffer, "float | None"], None]


class NetworkAnswer:
    """A stream of OpenAI chunks from one node or several. ``NetworkBuyer.ask`` creates it."""

    def __init__(
        self,
        pool: NodePool,
        budget: DayBudget,
        reservation: Reservation,
        note: Note,
        *,
        model: MarketModel,
        offers: list[MarketOffer],
        body: dict[str, Any],
        path: str,
    ) -> None:
        """``offers`` are the nodes to ask, the best first. ``note`` records how each behaved."""
        self._pool, self._budget, self._reservation, self._note = pool, budget, reservation, note
        self._offers, self._body, self._path = offers, body, path
        self._part: PaidAnswer | None = None
        self._client: BuyerClient | None = None
        # The offer of the node that was asked last.
        self._served: AdapterOffer | None = None
        self._offer: MarketOffer
        self._stack = AsyncExitStack()
        self._began_s = 0.0
        self._first_ms: float | None = None
        self._texts: dict[int, str] = {}
        self._pieces = 0
        self._finished: set[int] = set()
        self._head: AnswerChunk = {}
        self._wanted, self.model = model, model.model
        self.parts: list[AnswerPart] = []
        self.deposits: list[DepositMade] = []

    @property
    def text(self) -> str:
        """The text that has arrived so far, choice after choice."""
        return "".join(self._texts[index] for index in sorted(self._texts))

    @property
    def cost_units(self) -> Units | None:
        """The cost of all parts; None while a part is not billed."""
        running = self._part is not None
        if running or not all(part.billed for part in self.parts):
            return None
        return sum(part.units for part in self.parts)

    @property
    def usage(self) -> dict[str, int]:
        """OpenAI's usage object: the first part's prompt tokens, all parts' completion tokens."""
        prompt = next((part.prompt_tokens for part in self.parts if part.prompt_tokens), 0)
        completion = sum(part.completion_tokens for part in self.parts)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def parts_json(self) -> list[Json]:
        """Return who was paid for which part if several nodes were, or if counts are estimated."""
        told = len(self.parts) > 1 or any(part.estimated for part in self.parts)
        return [part.to_json() for part in self.parts] if told else []

    @property
    def client(self) -> BuyerClient | None:
        """The client of the node that is answering or answered last."""
        return self._client

    async def __aenter__(self) -> Self:
        try:
            await self._begin(None)
        except BaseException as error:
            await self._stack.aclose()
            if isinstance(error, VizError):
                raise self._told(error) from error
            raise
        return self

    def _told(self, error: VizError) -> VizError:
        """Return the error that ends the answer, with what was paid before it."""
        return with_costs(error, self.parts, self.deposits, self._budget.deployment)

    # one node after the other

    async def _begin(self, broken: VizError | None) -> None:
        """Start the answer, or the rest of it, at the next node that accepts the request.

        ``broken`` says why an earlier node did not finish. Raises the last node's refusal.
        """
        last = broken
        while self._offers:
            if self.parts and self._client is not None:
                self._require_left(self._client)  # before anything is signed elsewhere
            self._offer = self._offers.pop(0)
            body = await self._next_body()
            self._began_s, self._first_ms = time.monotonic(), None
            try:
                self._client = await self._pool.ready(
                    self._offer, self._wanted.adapter_id, self.deposits.append
                )
                self._part = await self._enter(self._client, body)
            except ChannelHeld as error:
                # The buyer's own doing: it says nothing of the node, and is no reason to deposit at
                # another.
                last = last if isinstance(last, AdapterEnded) else error
                self._offers = [each for each in self._offers if not self._pool.needs_deposit(each)]
                _log.info("a channel is in use", node=self._offer.node, reason=error.detail)
                continue
            except VizError as error:
                if _is_own_chain(error):
                    raise  # it says nothing of the node, and every other would wait for it too
                of_the_request = self._is_of_the_request(error)
                if error.answered or not of_the_request:
                    error = at_node(error, self._offer)
                # That an adapter ended holds for all nodes; that one is down does not.
                last = last if isinstance(last, AdapterEnded) else error
                if of_the_request:
                    raise error
                self._note(self._offer, None)
                _log.info(
                    "a node refuses the request",
                    node=self._offer.node,
                    url=self._offer.url,
                    reason=error.detail,
                )
                continue
            if self.parts:
                _log.info("the answer goes on at another node", node=self._offer.node)
            return
        raise last or NodeUnreachable("no node is left to ask")

    def _require_left(self, client: BuyerClient) -> None:
        """Raise PriceAboveCap if what arrived cost all that the answer may cost."""
        spent_units, most_units = self._spent_units(), client.limits.request_units
        if min(most_units - spent_units, self._reservation.units) > 0:
            return
        here = client.deployment
        raise PriceAboveCap(
            f"what arrived of the answer cost {amount(spent_units, here)}, and "
            + (
                f"one answer may cost {amount(most_units, here)}: raise --max-per-request "
                "(--max-cost)"
                if most_units <= spent_units
                else "nothing is left of what may be spent today: raise --max-per-day"
            )
            + " to have it continued at another node"
        )

    def _spent_units(self) -> Units:
        return sum(part.units for part in self.parts)

    async def _left_tokens(self) -> int:
        """Return how many tokens of the one choice may still come; all if nothing came."""
        most = length_of(self._body)
        if not self._texts or self._client is None or self._served is None:
            return most
        counter = await self._client.node.counter(self._served)
        return most - (counter.text_tokens(self._texts[0]) if counter.exact else self._pieces)

    async def _next_body(self) -> dict[str, Any]:
        if not self._texts:
            return self._body
        return goes_on(self._body, self._path, self._texts[0], await self._left_tokens())

    async def _enter(self, client: BuyerClient, body: dict[str, Any]) -> PaidAnswer:
        self._served = await self._offer_at(client)
        context_tokens = client.info.base_of(self._served).context_tokens
        body = at_most({**body, "model": self._served.model}, context_tokens)
        self._require_left(client)
        left_units = client.limits.request_units - self._spent_units()
        cap_units = min(left_units, self._reservation.units)
        limits = replace(client.limits, request_units=cap_units)
        for again in (True, False):
            answer = client.ask(body, self._path, limits=limits)
            answer.held_as(self._reservation.name)
            try:
                return await self._stack.enter_async_context(answer)
            except PromptTooLong as refusal:
                if not again:
                    raise
                body = at_most(body, room_in(refusal, context_tokens))
            except BaseException as error:
                # Also if the caller left: the node may have been paid for the beginning.
                if isinstance(error, VizError) or answer.most_units:
                    self._end_part(answer, error if isinstance(error, VizError) else None)
                raise
        raise NodeUnreachable("the node refuses every length")

    async def _offer_at(self, client: BuyerClient) -> AdapterOffer:
        """Return the node's offer of the model.

        Raises AdapterEnded, AdapterSuspended, UnknownModel if it serves other weights.
        """
        wanted = self._wanted.adapter_id, self._wanted.weights_digest
        for again in (False, True):
            if again:
                await client.refresh_info()
            for offer in client.info.adapters:
                if (offer.adapter_id, offer.weights_digest) == wanted:
                    return offer
        await client.node.require_sold(self.model)
        raise UnknownModel(f"the node no longer serves {self.model} with these weights")

    def _is_of_the_request(self, error: VizError) -> bool:
        """Return whether the fault is in the request, so that every node would refuse it."""
        if self.parts and error.answered and isinstance(error, InvalidRequest):
            return False  # a node that cannot continue an answer
        if isinstance(error, StoreError) and (error.answered or isinstance(error, BooksMismatch)):
            return False  # the node's own ledger, or what it says of one channel
        return isinstance(error, _OF_THE_REQUEST)

    # the stream

    async def __aiter__(self) -> AsyncIterator[AnswerChunk]:
        while True:
            if self._part is None:
                return
            try:
                async for chunk in self._read(self._part):
                    if (seen := self._seen(chunk)) is not None:
                        yield seen
                await self._done(None)
                return
            except VizError as failure:
                error = failure if _is_own_chain(failure) else at_node(failure, self._offer)
                await self._done(error)
                if self._is_whole():
                    _log.warning("the answer is whole, its bill is not", reason=error.detail)
                    return
                if not self._can_go_on(error):
                    raise self._told(error) from failure
                try:
                    if await self._left_tokens() <= 0:
                        _log.warning("every token came, no end did", reason=error.detail)
                        yield {**ended_by_length(self._path), **self._head, "model": self.model}
                        return
                    await self._begin(error)
                except VizError as last:
                    raise self._told(last) from failure

    async def _read(self, part: PaidAnswer) -> AsyncIterator[AnswerChunk]:
        chunks = aiter(part)
        most_s = left_s = FIRST_TEXT_S
        while True:
            asked_s = time.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise NodeUnreachable(f"the node sent no text for {most_s:.0f} s") from error
            if self._first_ms is None and part.text:
                self._first_ms = (time.monotonic() - self._began_s) * 1_000
            if has_news(chunk):
                most_s = left_s = NEXT_TEXT_S
            else:  # an empty chunk is no sign of life; how long the caller takes does not count
                left_s -= time.monotonic() - asked_s
            yield chunk

    def _seen(self, chunk: AnswerChunk) -> AnswerChunk | None:
        """Record a chunk and rewrite it as part of the one answer; None if it has no content."""
        goes_on_here = bool(self.parts)
        for choice in chunk.get("choices") or ():
            index, text = text_of(choice)
            if text:
                self._texts[index] = self._texts.get(index, "") + text
                self._pieces += 1
            if choice.get("finish_reason"):
                self._finished.add(index)
        if not self._head:
            self._head = {key: chunk[key] for key in ("id", "created") if key in chunk}
        if goes_on_here and not has_news(chunk):
            return None
        return {**chunk, **self._head, "model": self.model}

    def _is_whole(self) -> bool:
        choices = self._body.get("n") or 1
        return len(self._finished) >= (choices if isinstance(choices, int) else 1)

    def _can_go_on(self, error: VizError) -> bool:
        own = isinstance(error, PriceAboveCap) or _is_own_chain(error)
        if own or self._is_of_the_request(error):
            return False
        # Several choices would each need a request of their own, so they are only started again.
        return not self._texts or (self._body.get("n") or 1) == 1

    async def _done(self, error: VizError | None) -> None:
        """End the running part: record its cost, and how its node behaved."""
        part, self._part = self._part, None
        await self._stack.aclose()
        if part is None:
            return
        self._end_part(part, error)
        if error is None or not _is_own_chain(error):
            self._note(self._offer, None if error is not None else self._first_ms or 0.0)

    def _end_part(self, part: PaidAnswer, error: VizError | None) -> None:
        units = part.most_units
        if units or error is None:
            billed_tokens = part.billed_tokens
            prompt, completion = billed_tokens or part.counted
            self.parts.append(
                AnswerPart(
                    self._offer.node,
                    self._offer.url,
                    units,
                    part.cost_units is not None,
                    prompt,
                    completion,
                    error.detail if error is not None else "",
                    estimated=billed_tokens is None and not part.counts_exactly,
                )
            )
        self._budget.spend(self._reservation, units)
        part.note_counted(units)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        part, self._part = self._part, None
        await self._stack.aclose()
        if part is not None:
            # The caller stopped reading: this is not the node's fault.
            self._end_part(part, None)


def _is_own_chain(error: VizError) -> bool:
    """Return whether the buyer's own endpoint of the chain fails, which is no node's fault."""
    return isinstance(error, ChainUnreachable) and not error.answered
