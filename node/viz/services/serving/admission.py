"""Admission of paid requests: adapter and channel known, quote valid, first step paid.

Owns the order of work of docs/protocol.md up to the moment when a request is admitted; the stream
itself is ``viz.services.serving.paid_stream``. Does not know HTTP bodies (``viz.api``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from weakref import WeakValueDictionary

from viz.domain.node_channel import require_selling
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.engine import Engine, Sampling
from viz.domain.ports.ledger import AccessRecord
from viz.domain.pricing import Price
from viz.domain.units import ZERO_ADDRESS, ZERO_HASH, Address, Hash32
from viz.errors import InvalidRequest, PaymentRequired, PromptEmpty, PromptTooLong, QuoteExpired
from viz.protocol.messages import AdapterOffer
from viz.protocol.payment import NeedVoucher
from viz.services.payments.channels import ChannelStore
from viz.services.payments.metering import Meter, MeterTools, Order
from viz.services.payments.open_channel import OpenChannel
from viz.services.payments.quotes import Quotes
from viz.services.serving.catalogue import Catalogue
from viz.services.serving.paid_stream import ChatJob, Done, PaidStream, ServingPolicy, Text

DRAIN_S: Final = 60.0
# Prompts tokenised at once, each in a thread: the rest of the machine is the engine's. Long ones
# wait for one another alone, so that nobody's short question stands behind them.
TOKENISING: Final = 2
LONG_PROMPT_BYTES: Final = 8_192
# More than any language or program has in a token on average. By the longest token alone a prompt
# that cannot fit would be tokenised whole, some seconds, before it is refused for nothing.
BYTES_A_TOKEN: Final = 16

__all__ = ["ChatJob", "Done", "PaidStream", "Serving", "ServingPolicy", "Text"]


class Serving:
    """The paid generations of one node."""

    def __init__(
        self,
        channels: ChannelStore,
        catalogue: Catalogue,
        engine: Engine,
        chain: ChainReader,
        *,
        quotes: Quotes,
        tools: MeterTools,
        clock: Clock,
        policy: ServingPolicy,
    ) -> None:
        self._channels = channels
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
        self._tokenising = asyncio.Semaphore(TOKENISING)
        self._tokenising_long = asyncio.Semaphore(1)
        self._turns: WeakValueDictionary[Address, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def open(self, job: ChatJob, access: AccessRecord) -> AsyncIterator[PaidStream]:
        """Check, pay the first step, admit, and yield the stream; bill it whatever happens.

        Raises AdapterNotServable, PromptEmpty, PromptTooLong, InvalidRequest, QuoteExpired,
        ChannelClosing, PaymentRequired (with the ``quote`` and ``need`` objects), EngineOverloaded,
        StoreFull.
        """
        self._channels.require_room()
        await self._catalogue.require_servable(job.offer.adapter_id)
        open_channel = await self._channels.get(access.signer)
        await self._require_channel(job, open_channel, access)
        prompt = await self._prompt(job, access.signer)
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
                f"fewer than {asked}",
                roomTokens=room,
            )
        price, quote_hash = self._price(job, access, asked)
        # What the tokenizer puts around a raw prompt is the model's, not the buyer's.
        frame = self._engine.model.frame_tokens if isinstance(job.prompt, str) else 0
        order = Order(job.offer.adapter_id, price, quote_hash, job.body, len(prompt) - frame)
        meter = Meter(self._tools, open_channel, order)
        stream = PaidStream(
            open_channel,
            meter,
            job,
            max_tokens=asked,
            policy=self.policy,
            chain_now=self._chain_now,
        )
        try:
            await stream.pay_first()
        except PaymentRequired as error:
            need = stream.need(error) if stream.has_channel else None
            raise self._asking(error, job.offer, access, asked, need) from error
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

    async def _require_channel(
        self, job: ChatJob, open_channel: OpenChannel, access: AccessRecord
    ) -> None:
        """Raise PaymentRequired for who has nothing to pay with: a session is free, work is not.

        Raises ChannelClosing for who could not pay either, before anything is done for it.
        """
        offer, policy, channel = job.offer, self.policy, open_channel.channel
        if not (offer.prompt_price_units or offer.completion_price_units):
            return
        require_selling(channel, await self._chain_now(open_channel))
        why = "there is no channel of this signer here: open one, then ask"
        # What was signed on an opening whose block is gone cannot be claimed: it pays for nothing.
        if channel.payer != ZERO_ADDRESS:
            if channel.deposit_units or channel.available_units(offer.adapter_id) > 0:
                return
            why = "the channel's deposit is used up: top it up, then ask"
        asked = min(job.max_tokens or policy.default_max_tokens, self._engine.model.context_tokens)
        raise self._asking(PaymentRequired(why), offer, access, asked, None)

    async def _prompt(self, job: ChatJob, signer: Address) -> tuple[int, ...]:
        """Return the prompt's ids, for which nobody else waits: made in a thread, in turn."""
        prompt = job.prompt
        if isinstance(prompt, str):
            texts = [prompt]
        else:
            texts = [message.get("content", "") for message in prompt]
        if not any(texts):
            raise PromptEmpty("the prompt is empty: send some text")
        size = self._require_may_fit(texts)
        lane = self._tokenising if size <= LONG_PROMPT_BYTES else self._tokenising_long
        # One at a time for each signer, so that nobody's many requests stand before the others'.
        turn = self._turns.setdefault(signer, asyncio.Lock())
        async with turn, lane:
            if isinstance(prompt, str):
                return await asyncio.to_thread(self._engine.encode, prompt)
            return await asyncio.to_thread(self._engine.render, prompt)

    def _require_may_fit(self, texts: Sequence[str]) -> int:
        """Return the texts' bytes; raise PromptTooLong for what no context of this size holds."""
        model = self._engine.model
        if len(texts) > model.context_tokens:
            raise PromptTooLong(
                f"the prompt has {len(texts)} messages; the context holds {model.context_tokens} "
                "tokens"
            )
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        most = model.context_tokens * min(model.longest_token_bytes, BYTES_A_TOKEN)
        if size > most:
            raise PromptTooLong(
                f"the prompt has {size} bytes of text; the context's {model.context_tokens} tokens "
                f"hold {most} at most"
            )
        return size

    def _price(self, job: ChatJob, access: AccessRecord, max_tokens: int) -> tuple[Price, Hash32]:
        if job.quote_hash is None:
            price = Price(job.offer.prompt_price_units, job.offer.completion_price_units)
            if job.list_price is not None and not price.is_within(job.list_price):
                raise QuoteExpired(
                    f"the list price is {price.prompt_price_units} and "
                    f"{price.completion_price_units} units per million tokens by now: read the "
                    "offer again"
                )
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
        self,
        error: PaymentRequired,
        offer: AdapterOffer,
        access: AccessRecord,
        max_tokens: int,
        need: NeedVoucher | None,
    ) -> PaymentRequired:
        """Return the refusal with what a challenge carries: a quote, and the need on a channel."""
        quote = self._quotes.make(access.signer, offer, max_tokens)
        return PaymentRequired(error.detail, **{**error.extensions, "quote": quote, "need": need})

    async def _chain_now(self, open_channel: OpenChannel) -> int:
        """Return chain time where it matters: while a signed Close is out."""
        return await self._chain.chain_time() if open_channel.channel.no_sale_until_s else 0
