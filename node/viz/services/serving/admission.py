"""Admit paid requests: check adapter, channel, prompt and price, and pay for the first step.

Owns the order of these checks (docs/protocol.md) until a request is admitted, and makes its
``PaidRequest``. Then ``viz.services.serving.paid_stream`` takes over.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import blake2b
from typing import Final
from weakref import WeakValueDictionary

from viz.domain.node_channel import require_selling
from viz.domain.ports.clock import Clock
from viz.domain.ports.engine import BaseModel, Engine
from viz.domain.ports.ledger import AccessRecord
from viz.domain.pricing import Price
from viz.domain.text_request import TextRequest
from viz.domain.units import ZERO_ADDRESS, ZERO_HASH, Address, Hash32
from viz.errors import InvalidRequest, PaymentRequired, PromptEmpty, PromptTooLong, QuoteExpired
from viz.protocol.messages import AdapterOffer
from viz.protocol.payment import NeedVoucher
from viz.services.payments.active_channel import ActiveChannel
from viz.services.payments.channels import ChannelStore
from viz.services.payments.metering import Meter, MeterTools
from viz.services.payments.paid_request import PaidRequest
from viz.services.payments.quotes import Quotes
from viz.services.serving.catalogue import Catalogue
from viz.services.serving.paid_stream import PaidStream, ServingPolicy

DRAIN_S: Final = 60.0
# How many prompts are tokenised at once, each in a thread; the other cores are for the engine. Long
# prompts have one thread of their own, so that no short prompt waits for a long one.
TOKENISING: Final = 2
LONG_PROMPT_BYTES: Final = 8_192
# A prompt this short takes less time to tokenise than to hand to a thread and back.
TINY_PROMPT_BYTES: Final = 512
TINY_PROMPT_MESSAGES: Final = 4
# More bytes than a token has on average in any language or program. With the longest token as the
# only bound, a prompt that cannot fit would be tokenised for seconds before it is refused unpaid.
BYTES_A_TOKEN: Final = 16


class Admission:
    """Admit the paid requests of one node, and count those that run."""

    def __init__(
        self,
        channels: ChannelStore,
        catalogue: Catalogue,
        *,
        quotes: Quotes,
        tools: MeterTools,
        clock: Clock,
        policy: ServingPolicy,
    ) -> None:
        self._channels = channels
        self._catalogue = catalogue
        self._quotes = quotes
        self._tools = tools
        self._clock = clock
        self.policy = policy
        self.running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tokenising = asyncio.Semaphore(TOKENISING)
        self._tokenising_long = asyncio.Semaphore(1)
        self._reuse_secret = secrets.token_bytes(32)
        self._turns: WeakValueDictionary[Address, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def open(
        self,
        asked: TextRequest,
        offer: AdapterOffer,
        access: AccessRecord,
        *,
        request_id: str,
        body: bytes,
        name: str | None = None,
        quote_hash: Hash32 | None = None,
        list_price: Price | None = None,
    ) -> AsyncIterator[PaidStream]:
        """Check a request, pay its first step, and yield its stream; bill it however it ends.

        ``offer``: the offer of the requested model. ``body``: the HTTP body as sent. ``name``: what
        the buyer calls the request, if it does. ``quote_hash``: the quote to charge by. Without one
        the list price is charged, which must not exceed ``list_price`` if the client states one.
        Raises AdapterNotServable, PromptEmpty, PromptTooLong, InvalidRequest, QuoteExpired,
        ChannelClosing, PaymentRequired (with the ``quote`` and ``need`` objects), EngineOverloaded,
        StoreFull.
        """
        # The cheapest checks come first, so that a stranger can cause little work. Tokenising is
        # the only unpaid work: the engine starts after the first step is paid.
        self._channels.require_room()
        await self._catalogue.require_servable(offer.adapter_id)
        active_channel = await self._channels.get(access.signer)
        engine = self._catalogue.engine_of(offer)
        await self._require_channel(asked, offer, active_channel, engine)
        prompt = await self._tokenise(engine, asked.prompt, asked.so_far, access.signer)
        max_tokens = self._max_tokens(engine.model, asked, len(prompt))
        price, quote_hash = self._agreed_price(
            offer, access.signer, max_tokens, quote_hash=quote_hash, list_price=list_price
        )
        # The buyer does not pay for the control tokens that the tokenizer puts around a raw prompt.
        frame = engine.model.frame_tokens if isinstance(asked.prompt, str) else 0
        request = PaidRequest(
            request_id=request_id,
            adapter_id=offer.adapter_id,
            engine=engine,
            price=price,
            quote_hash=quote_hash,
            body=body,
            prompt=prompt,
            prompt_tokens=len(prompt) - frame,
            sampling=replace(asked.sampling, max_tokens=max_tokens),
            choices=asked.choices,
            stream=asked.stream,
            reuse_key=self._reuse_key(access.signer),
            name=name,
        )
        meter = Meter(self._tools, active_channel, request)
        stream = PaidStream(active_channel, meter, request, policy=self.policy)
        try:
            await stream.pay_first()
        except PaymentRequired as error:
            need = stream.need(error) if stream.has_channel else None
            raise self._with_quote(
                error, offer, access.signer, max_tokens, need, engine=engine
            ) from error
        self.running += 1
        self._idle.clear()
        try:
            await stream.start()
            yield stream
        finally:
            # Shielded: if the caller is cancelled here, the request is billed all the same, and
            # ``drain`` waits for that.
            await asyncio.shield(asyncio.ensure_future(self._end(stream)))

    def _reuse_key(self, signer: Address) -> str:
        """Return the key under which this signer's prompts may be reused; it tells no one who."""
        return blake2b(signer.encode(), key=self._reuse_secret, digest_size=32).hexdigest()

    async def _end(self, stream: PaidStream) -> None:
        try:
            await stream.close()
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    async def drain(self) -> None:
        """Wait until all generations have ended and are billed; raise TimeoutError.

        Call it before the ledger closes.
        """
        async with asyncio.timeout(DRAIN_S):
            await self._idle.wait()

    async def _require_channel(
        self,
        asked: TextRequest,
        offer: AdapterOffer,
        active_channel: ActiveChannel,
        engine: Engine,
    ) -> None:
        """Raise PaymentRequired if the model has a price and the signer has no money here.

        Checked before tokenising, which costs CPU, because anybody can open a session for free.
        Raises ChannelClosing while the channel closes.
        """
        if not (offer.prompt_price_units or offer.completion_price_units):
            return
        channel = active_channel.channel
        require_selling(channel, active_channel.chain_s)
        why = "there is no channel of this signer here: open one, then ask"
        # If the block that opened the channel is gone, its vouchers cannot be claimed.
        if channel.payer != ZERO_ADDRESS:
            if channel.deposit_units or channel.available_units(offer.adapter_id) > 0:
                return
            why = "the channel's deposit is used up: top it up, then ask"
        wanted = asked.max_tokens or self.policy.default_max_tokens
        max_tokens = min(wanted, engine.model.context_tokens)
        raise self._with_quote(
            PaymentRequired(why), offer, channel.signer, max_tokens, None, engine=engine
        )

    async def _tokenise(
        self,
        engine: Engine,
        prompt: str | Sequence[Mapping[str, str]],
        so_far: str,
        signer: Address,
    ) -> tuple[int, ...]:
        """Tokenise the prompt and return its ids, in a thread, one at a time per signer.

        ``so_far`` is the beginning of a chat's reply, which belongs to the prompt.

        Nobody can block the others: the requests of one signer wait for each other, and long
        prompts wait only for long ones. A tiny prompt is tokenised at once. Raises PromptEmpty,
        PromptTooLong.
        """
        if isinstance(prompt, str):
            texts = [prompt]
        else:
            _require_few_messages(engine.model, len(prompt))
            texts = [*(message.get("content", "") for message in prompt), so_far]
        if not any(texts):
            raise PromptEmpty("the prompt is empty: send some text")
        size = _require_may_fit(engine.model, texts)
        if size <= TINY_PROMPT_BYTES and len(texts) <= TINY_PROMPT_MESSAGES:
            return _ids_of(engine, prompt, so_far)
        is_short = size <= LONG_PROMPT_BYTES
        threads = self._tokenising if is_short else self._tokenising_long
        # The signer's lock is taken first, so that a request that waits for it holds no thread.
        turn = self._turns.setdefault(signer, asyncio.Lock())
        async with turn, threads:
            return await asyncio.to_thread(_ids_of, engine, prompt, so_far)

    def _max_tokens(self, model: BaseModel, asked: TextRequest, prompt_tokens: int) -> int:
        """Return the answer's limit in tokens; raise PromptTooLong if the context has no room."""
        context_tokens = model.context_tokens
        room = context_tokens - prompt_tokens
        if room <= 0:
            raise PromptTooLong(
                f"the prompt has {prompt_tokens} tokens; the context holds "
                f"{context_tokens}, answer included"
            )
        max_tokens = asked.max_tokens or min(self.policy.default_max_tokens, room)
        if max_tokens > room:
            raise PromptTooLong(
                f"the prompt has {prompt_tokens} tokens, which leaves {room} for the answer: ask "
                f"for fewer than {max_tokens}",
                roomTokens=room,
            )
        return max_tokens

    def _agreed_price(
        self,
        offer: AdapterOffer,
        signer: Address,
        max_tokens: int,
        *,
        quote_hash: Hash32 | None,
        list_price: Price | None,
    ) -> tuple[Price, Hash32]:
        """Return the price to charge and the hash of its quote, which is zero for the list price.

        Raises QuoteExpired if the client would not get the price that it expects, and
        InvalidRequest if the quote was made for another signer, adapter or length.
        """
        if quote_hash is None:
            price = Price(offer.prompt_price_units, offer.completion_price_units)
            if list_price is not None and not price.is_within(list_price):
                raise QuoteExpired(
                    f"the list price is {price.prompt_price_units} and "
                    f"{price.completion_price_units} units per million tokens by now: read the "
                    "offer again"
                )
            return price, ZERO_HASH
        quote = self._quotes.find(quote_hash)
        if quote is None or quote.valid_until_s < self._clock.now_s():
            raise QuoteExpired("the quote is unknown or has expired: ask without one for a new one")
        if (quote.signer, quote.adapter_id) != (signer, offer.adapter_id):
            raise InvalidRequest("the quote is for another signer or adapter")
        if max_tokens > quote.max_tokens:
            raise InvalidRequest(f"the quote is for at most {quote.max_tokens} tokens")
        if quote.weights_digest != offer.weights_digest:
            raise QuoteExpired("the adapter's weights changed since the quote: ask for a new one")
        return Price(quote.prompt_price_units, quote.completion_price_units), quote_hash

    def _with_quote(
        self,
        error: PaymentRequired,
        offer: AdapterOffer,
        signer: Address,
        max_tokens: int,
        need: NeedVoucher | None,
        *,
        engine: Engine,
    ) -> PaymentRequired:
        """Return the error with the data of its challenge: a quote, and the voucher it needs."""
        quote = self._quotes.make(
            signer, offer, max_tokens, tokenizer_digest=engine.model.tokenizer_digest
        )
        return PaymentRequired(error.detail, **{**error.extensions, "quote": quote, "need": need})


def _ids_of(
    engine: Engine, prompt: str | Sequence[Mapping[str, str]], so_far: str
) -> tuple[int, ...]:
    return engine.encode(prompt) if isinstance(prompt, str) else engine.render(prompt, so_far)


def _require_few_messages(model: BaseModel, messages: int) -> None:
    """Raise PromptTooLong if so many messages cannot fit, whatever their texts.

    Rendering takes time for each message, and is unpaid until the prompt's price is known.
    """
    least = messages * max(1, model.message_tokens)
    if least >= model.context_tokens:
        raise PromptTooLong(
            f"the prompt has {messages} messages, which take {least} tokens at least; the "
            f"context holds {model.context_tokens}, answer included"
        )


def _require_may_fit(model: BaseModel, texts: Sequence[str]) -> int:
    """Return the size of the texts in bytes; raise PromptTooLong if the context is too small.

    Judged by size alone, so that a prompt that cannot fit is refused before it is tokenised.
    """
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    most = model.context_tokens * min(model.longest_token_bytes, BYTES_A_TOKEN)
    if size > most:
        raise PromptTooLong(
            f"the prompt has {size} bytes of text; the context's {model.context_tokens} tokens "
            f"hold {most} at most"
        )
    return size
