"""Admission of paid requests: adapter and channel known, quote valid, first step paid.

Owns the order of work of DESIGN section 5 up to the moment when a request is admitted; the stream
itself is ``viz.services.generation``. Does not know HTTP bodies (``viz.api``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from viz.domain.ledger import AccessRecord
from viz.domain.ports import ChainReader, Clock, Engine, Sampling
from viz.domain.pricing import Price
from viz.domain.units import ZERO_HASH, Hash32
from viz.errors import InvalidRequest, PaymentRequired, PromptEmpty, PromptTooLong, QuoteExpired
from viz.services.books import Books, Live
from viz.services.catalogue import Catalogue
from viz.services.generation import Done, Job, PaidStream, ServingPolicy, Text
from viz.services.metering import Meter, MeterTools, Order
from viz.services.quoting import Quotes

DRAIN_S: Final = 60.0

__all__ = ["Done", "Job", "PaidStream", "Serving", "ServingPolicy", "Text"]


class Serving:
    """The paid generations of one node."""

    def __init__(
        self,
        books: Books,
        catalogue: Catalogue,
        engine: Engine,
        chain: ChainReader,
        *,
        quotes: Quotes,
        tools: MeterTools,
        clock: Clock,
        policy: ServingPolicy,
    ) -> None:
        self._books = books
        self._catalogue = catalogue
        self._engine = engine
        self._chain = chain
        self._quotes = quotes
        self._tools = tools
        self._clock = clock
        self.policy = policy
        self.running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def open(self, job: Job, access: AccessRecord) -> AsyncIterator[PaidStream]:
        """Check, pay the first step, admit, and yield the stream; bill it whatever happens.

        Raises AdapterNotServable, PromptEmpty, PromptTooLong, InvalidRequest, QuoteExpired,
        ChannelClosing, PaymentRequired (with the ``quote`` and ``need`` objects), EngineOverloaded.
        """
        await self._catalogue.require_servable(job.offer.adapter_id)
        prompt = self._prompt(job)
        room = self._engine.model.context_tokens - len(prompt)
        if room <= 0:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens; the context holds "
                f"{self._engine.model.context_tokens}, answer included"
            )
        asked = job.max_tokens or min(self.policy.default_max_tokens, room)
        if asked > room:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens, which leaves {room} for the answer: ask for "
                f"fewer than {asked}"
            )
        price, quote_hash = self._price(job, access, asked)
        live = await self._books.get(access.signer)
        order = Order(job.offer.adapter_id, price, quote_hash, job.body, len(prompt))
        meter = Meter(self._tools, live, order)
        stream = PaidStream(
            live,
            meter,
            job,
            max_tokens=asked,
            policy=self.policy,
            chain_now=self._chain_now,
        )
        try:
            await stream.pay_first()
        except PaymentRequired as error:
            raise self._asking(error, stream, access, asked) from error
        self.running += 1
        self._idle.clear()
        try:
            await stream.start(
                self._engine, prompt, replace(job.sampling or Sampling(asked), max_tokens=asked)
            )
            yield stream
        finally:
            # However often the caller is cut off, the drain waits for the bill itself.
            await asyncio.shield(asyncio.ensure_future(self._end(stream)))

    async def _end(self, stream: PaidStream) -> None:
        try:
            await stream.close()
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    async def drain(self) -> None:
        """Wait until every generation has ended and is billed; call it before the ledger closes."""
        async with asyncio.timeout(DRAIN_S):
            await self._idle.wait()

    def _prompt(self, job: Job) -> tuple[int, ...]:
        if isinstance(job.prompt, str):
            if not job.prompt:
                raise PromptEmpty("the prompt is empty: send some text")
            return self._engine.encode(job.prompt)
        if not any(message.get("content") for message in job.prompt):
            raise PromptEmpty("the messages are empty: send some text")
        return self._engine.render(job.prompt)

    def _price(self, job: Job, access: AccessRecord, max_tokens: int) -> tuple[Price, Hash32]:
        if job.quote_hash is None:
            price = Price(job.offer.prompt_price_units, job.offer.completion_price_units)
            return price, ZERO_HASH
        quote = self._quotes.find(job.quote_hash)
        if quote is None or quote.valid_until_s < self._clock.now_s():
            raise QuoteExpired("the quote is unknown or has expired: ask without one for a new one")
        if (quote.signer, quote.adapter_id) != (access.signer, job.offer.adapter_id):
            raise InvalidRequest("the quote is for another signer or adapter")
        if max_tokens > quote.max_tokens:
            raise InvalidRequest(f"the quote is for at most {quote.max_tokens} tokens")
        if quote.weights_digest != job.offer.weights_digest:
            raise QuoteExpired("the adapter's weights changed since the quote: ask for a new one")
        return Price(quote.prompt_price_units, quote.completion_price_units), job.quote_hash

    def _asking(
        self, error: PaymentRequired, stream: PaidStream, access: AccessRecord, max_tokens: int
    ) -> PaymentRequired:
        """Return the refusal with what a challenge carries: a quote, and the need on a channel."""
        quote = self._quotes.make(access.signer, stream.offer, max_tokens)
        need = stream.need(error) if stream.has_channel else None
        return PaymentRequired(error.detail, **{**error.extensions, "quote": quote, "need": need})

    async def _chain_now(self, live: Live) -> int:
        """Return chain time where it matters: while a signed Close is out."""
        return await self._chain.chain_time() if live.channel.no_sale_until_s else 0
