"""One paid generation under way: tokens out, money in, and a pause where it is missing.

Owns the stream of one request: its steps, its needs for vouchers, what counts as sent, and its end.
Does not know how a request was admitted (``viz.services.serving.admission``) or how money is booked
(``viz.services.payments.metering``).

Invariants: no token is allowed that is not reserved; whoever leaves, however, what was sent is
billed once, and of what is not billed nothing is sent; a node failure before the first token bills
nothing; a wait for money is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from viz.domain.ports.engine import Engine, Generation, GenerationRequest, Piece, Sampling
from viz.domain.pricing import Price
from viz.domain.receipt import SignedReceipt
from viz.domain.units import ZERO_ADDRESS, Hash32, Units
from viz.errors import EngineError, InvalidRequest, PaymentRequired, VizError
from viz.protocol.messages import AdapterOffer
from viz.protocol.payment import NeedVoucher
from viz.services.payments.metering import MakeAnswer, Meter
from viz.services.payments.open_channel import OpenChannel
from viz.services.serving.shown_logprobs import ShownLogprobs

ENGINE_STALL_S: Final = 120.0
QUEUE: Final = 16
ChainNow = Callable[[OpenChannel], Awaitable[int]]
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServingPolicy:
    """``step_tokens`` are paid for at a time; a wait for a voucher lasts ``voucher_grace_s``.

    Without streaming, prompt and max_tokens are paid ahead, at most ``max_prepay_units``.
    """

    step_tokens: int = 32
    voucher_grace_s: float = 20.0
    default_max_tokens: int = 256
    max_prepay_units: Units = 1_000_000
    max_choices: int = 8


@dataclass(frozen=True, slots=True)
class ChatJob:
    """A request for service. ``prompt`` is chat messages or plain text; ``body`` as it was sent.

    Without a quote, ``list_price`` is the one that the asker counts on, if it said so.
    """

    request_id: str
    offer: AdapterOffer
    prompt: str | Sequence[Mapping[str, str]]
    sampling: Sampling | None
    max_tokens: int | None
    choices: int
    stream: bool
    body: bytes
    quote_hash: Hash32 | None = None
    list_price: Price | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of one choice, to be sent to the buyer."""

    choice: int
    piece: Piece


@dataclass(frozen=True, slots=True)
class Done:
    """The end: what was billed."""

    prompt_tokens: int
    completion_tokens: int
    receipt: SignedReceipt | None


class PaidStream:
    """One generation under way; iterate ``events``, then ask ``finish`` for the receipt."""

    def __init__(
        self,
        open_channel: OpenChannel,
        meter: Meter,
        job: ChatJob,
        *,
        max_tokens: int,
        policy: ServingPolicy,
        chain_now: ChainNow,
    ) -> None:
        self._policy = policy
        self._chain_now = chain_now
        self._open_channel = open_channel
        self._meter = meter
        self._job = job
        self.offer = job.offer
        self._max_tokens = max_tokens
        self._allowed = 0
        self._made = [0] * job.choices
        self._open = set(range(job.choices))
        self._generations: list[Generation] = []
        self._pumps: list[asyncio.Task[None]] = []
        self._queue: asyncio.Queue[Text | VizError | None] = asyncio.Queue(QUEUE)
        self._woken = False
        self._unsent: Text | None = None
        self._held: list[Text] = []
        self._admitted = False
        self._sent_text = False
        self._failed = False

    async def pay_first(self) -> None:
        """Reserve the first step, or without streaming all of it."""
        goal = self._max_tokens
        if self._job.stream:
            goal = min(goal, self._policy.step_tokens)
        else:
            self._check_prepayment(goal)
        await self._reserve(goal)

    async def start(self, engine: Engine, prompt: tuple[int, ...], sampling: Sampling) -> None:
        """Admit the request to the engine; from here on the prompt is owed."""
        try:
            for choice in range(self._job.choices):
                seed = sampling.seed
                request = GenerationRequest(
                    f"{self._job.request_id}-{choice}",
                    prompt,
                    self._job.offer.adapter_id,
                    replace(sampling, seed=None if seed is None else seed + choice),
                )
                self._generations.append(await engine.generate(request))
                self._generations[-1].allow(self._allowed)
        except BaseException:
            self._failed = True
            raise
        self._admitted = True
        self._meter.admit()
        self._open_channel.waiting.add(self._wake)
        for choice, generation in enumerate(self._generations):
            self._pumps.append(asyncio.create_task(self._pump(choice, generation)))

    async def events(self) -> AsyncIterator[Text | NeedVoucher]:
        """Yield text to send and needs for vouchers to tell; ends when done or not paid for.

        A text counts as sent when the next event is asked for. Raises EngineError.
        """
        asked_for: Units = -1
        retry = True
        paused_at: float | None = None
        loop = asyncio.get_running_loop()
        while self._open:
            if self._woken:
                self._woken, retry = False, True
            if retry and self._wants_more():
                retry = False
                need = await self._extend()
                if need is None:
                    paused_at, retry = None, True
                    continue
                if need.required_units != asked_for:
                    asked_for = need.required_units
                    yield need
            if self._paused():
                paused_at = loop.time() if paused_at is None else paused_at
                left = paused_at + self._policy.voucher_grace_s - loop.time()
            else:
                left = ENGINE_STALL_S
            try:
                async with asyncio.timeout(left):
                    item = await self._queue.get()
            except TimeoutError:
                if self._woken:
                    continue
                if self._paused():
                    _log.info("stopped for want of a voucher", request=self._job.request_id)
                    return
                self._failed = True
                raise EngineError("the engine does not answer: try again later") from None
            if item is None:
                continue
            if isinstance(item, VizError):
                self._failed = True
                raise item
            self._made[item.choice] += len(item.piece.token_ids)
            if item.piece.finish_reason is not None:
                self._open.discard(item.choice)
            self._unsent = item
            yield item
            self._sent()

    async def finish(self, answer: MakeAnswer | None = None) -> Done:
        """Bill what was sent and return the receipt; call it after ``events`` ended."""
        self._sent()
        await self._stop()
        for item in self._held:
            self._meter.delivered(item.choice, item.piece.text)
        receipt = await self._meter.bill(answer)
        return Done(self._meter.prompt_tokens, self._meter.completion_tokens(), receipt)

    async def close(self) -> None:
        """Stop and settle the account if ``finish`` did not: bill what was sent, or nothing.

        Of a whole answer nothing was sent before ``finish``, so what broke off costs nothing.
        """
        await self._stop()
        unsent = self._failed and not self._sent_text
        if not self._admitted or unsent or not self._job.stream:
            await self._meter.release()
        else:
            await self._meter.bill()

    @property
    def prompt_tokens(self) -> int:
        return self._meter.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """The canonical count of what was delivered until now, paid for or free."""
        return self._meter.completion_tokens()

    @property
    def has_channel(self) -> bool:
        """Whether there is a channel to pay from."""
        return self._open_channel.channel.payer != ZERO_ADDRESS

    # money

    async def _reserve(self, tokens: int) -> None:
        now_s = await self._chain_now(self._open_channel)
        await self._meter.reserve(tokens * self._job.choices, now_s)
        self._allowed = tokens

    def need(self, error: PaymentRequired) -> NeedVoucher:
        """Return what a refused reservation lacks."""
        channel = self._open_channel.channel
        return NeedVoucher(
            self.offer.adapter_id,
            channel.base_units,
            channel.accepted_units(self.offer.adapter_id),
            int(error.extensions["required"]),
            channel.best_lines,
        )

    async def _extend(self) -> NeedVoucher | None:
        """Allow one step more; return what is missing when it is not paid for."""
        try:
            await self._reserve(min(self._allowed + self._policy.step_tokens, self._max_tokens))
        except PaymentRequired as error:
            return self.need(error)
        for generation in self._generations:
            generation.allow(self._allowed)
        return None

    def _wants_more(self) -> bool:
        if self._allowed >= self._max_tokens:
            return False
        most = max(self._made[choice] for choice in self._open)
        return most * 2 >= 2 * self._allowed - self._policy.step_tokens

    def _paused(self) -> bool:
        if self._allowed >= self._max_tokens or not self._queue.empty():
            return False
        return all(self._made[choice] >= self._allowed for choice in self._open)

    def _check_prepayment(self, tokens: int) -> None:
        offer = self._job.offer
        price = Price(offer.prompt_price_units, offer.completion_price_units)
        units = price.amount_units(self._meter.prompt_tokens, tokens * self._job.choices)
        if units > self._policy.max_prepay_units:
            raise InvalidRequest(
                f"without streaming {units} units would be paid ahead, more than "
                f"{self._policy.max_prepay_units}: stream, or lower max_tokens"
            )

    def _wake(self) -> None:
        # The flag is the notice; None only ends a wait, and a full queue holds what ends it.
        self._woken = True
        if not self._queue.full():
            self._queue.put_nowait(None)

    # the engine

    async def _pump(self, choice: int, generation: Generation) -> None:
        showing = ShownLogprobs()
        try:
            async for piece in generation:
                await self._queue.put(Text(choice, showing.take(piece)))
        except VizError as error:
            await self._queue.put(error)
        except Exception as error:  # noqa: BLE001  a bug in a backend ends this stream alone
            _log.error("the engine failed", request=self._job.request_id, exc_info=error)
            await self._queue.put(EngineError("the engine failed: try again later"))

    def _sent(self) -> None:
        if self._unsent is not None:
            item, self._unsent = self._unsent, None
            if not self._job.stream:
                self._held.append(item)
                return
            self._meter.delivered(item.choice, item.piece.text)
            self._sent_text = self._sent_text or bool(item.piece.token_ids or item.piece.text)

    async def _stop(self) -> None:
        self._open_channel.waiting.discard(self._wake)
        for pump in self._pumps:
            pump.cancel()
        for generation in self._generations:
            try:
                async with asyncio.timeout(ENGINE_STALL_S):
                    await generation.cancel()
            except (TimeoutError, VizError) as error:
                _log.warning("a generation did not stop", reason=str(error))
        if self._pumps:
            await asyncio.wait(self._pumps)
