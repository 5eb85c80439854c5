"""One paid generation under way: tokens out, money in, and a pause while money is missing.

Owns the stream of one request: its phases, its needs for vouchers, what counts as sent, and its
end. How a request is admitted: ``viz.services.serving.admission``; how money is booked:
``viz.services.payments.metering``.

Invariants: the engine is allowed no token that is not reserved; however a stream ends, what was
sent is billed once, and nothing is sent that is not billed; a node failure before the first token
bills nothing; a wait for money is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

import structlog

from viz.domain.ports.engine import Engine, Generation, GenerationRequest, Piece
from viz.domain.receipt import SignedReceipt
from viz.domain.units import ZERO_ADDRESS, Units
from viz.errors import EngineError, InvalidRequest, PaymentRequired, VizError
from viz.protocol.payment import NeedVoucher
from viz.services.payments.active_channel import ActiveChannel
from viz.services.payments.metering import MakeAnswer, Meter
from viz.services.payments.paid_request import PaidRequest
from viz.services.serving.shown_logprobs import ShownLogprobs

ENGINE_STALL_S: Final = 120.0
QUEUE: Final = 16
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
class Text:
    """A piece of one choice, to be sent to the buyer."""

    choice: int
    piece: Piece


@dataclass(frozen=True, slots=True)
class Done:
    """What was billed at the end."""

    prompt_tokens: int
    completion_tokens: int
    receipt: SignedReceipt | None


class Phase(Enum):
    """Where a stream stands; it only moves down this list, except from PAUSED back to RUNNING."""

    RESERVING = auto()
    """The first step is being reserved, and the engine was not asked: nothing is to be paid."""
    RUNNING = auto()
    """The engine generates within what is reserved."""
    PAUSED = auto()
    """Every choice has used up its reservation and waits for a voucher."""
    ENDING = auto()
    """No more text follows: all choices are done, or no voucher came in time."""
    FAILED = auto()
    """The engine failed, so only text that was sent before is billed."""
    ENDED = auto()
    """Billed or released; nothing is left to do."""


class PaidStream:
    """One generation under way; iterate ``events``, then call ``finish`` for the receipt."""

    def __init__(
        self,
        active_channel: ActiveChannel,
        meter: Meter,
        request: PaidRequest,
        *,
        policy: ServingPolicy,
    ) -> None:
        self._policy = policy
        self._active_channel = active_channel
        self._meter = meter
        self._request = request
        self.phase = Phase.RESERVING
        # When a pause without a voucher ends the stream, on the loop's clock.
        self._pause_ends_s = 0.0
        # Tokens of each choice: allowed to the engine, and taken out of the queue.
        self._allowed = 0
        self._made = [0] * request.choices
        self._open_choices = set(range(request.choices))
        self._generations: list[Generation] = []
        self._pumps: list[asyncio.Task[None]] = []
        # Bounded, so that a slow reader slows its engine and not the node's memory.
        self._queue: asyncio.Queue[Text | VizError | None] = asyncio.Queue(QUEUE)
        # How often this channel's money changed. A count and no event: a refused reservation
        # remembers the count that it saw, so a voucher during its await is not lost.
        self._wakes = 0
        # The last yielded text; it counts as sent once the next event is asked for.
        self._unsent: Text | None = None
        # A whole answer's text, none of which is delivered before ``finish``.
        self._held: list[Text] = []
        self._sent_pieces = 0

    # the phases, in their order

    async def pay_first(self) -> None:
        """Reserve the first step, or all of the request if it does not stream."""
        goal = self._request.max_tokens
        if self._request.stream:
            goal = min(goal, self._policy.step_tokens)
        else:
            self._check_prepayment(goal)
        await self._reserve(goal)

    async def start(self, engine: Engine) -> None:
        """Admit the request to the engine: RESERVING to RUNNING. From here the prompt is billed."""
        request, sampling = self._request, self._request.sampling
        try:
            for choice in range(request.choices):
                # One seed for all choices would give one text for all of them.
                seed = None if sampling.seed is None else sampling.seed + choice
                generation = await engine.generate(
                    GenerationRequest(
                        f"{request.request_id}-{choice}",
                        request.prompt,
                        request.adapter_id,
                        replace(sampling, seed=seed),
                    )
                )
                self._generations.append(generation)
                generation.allow(self._allowed)
        except BaseException:
            self.phase = Phase.FAILED
            raise
        self.phase = Phase.RUNNING
        self._meter.admit()
        self._active_channel.waiting.add(self._wake)
        for choice, generation in enumerate(self._generations):
            self._pumps.append(asyncio.create_task(self._pump(choice, generation)))

    async def events(self) -> AsyncIterator[Text | NeedVoucher]:
        """Yield texts to send and needs for vouchers to tell; end when done or not paid for.

        A text counts as sent when the next event is asked for. Raises EngineError.
        """
        told_units: Units | None = None
        refused_at: int | None = None
        while self._open_choices:
            # After a refusal only new money can change the result, so nothing is asked before.
            if self._wants_more() and refused_at != self._wakes:
                wakes = self._wakes
                need = await self._extend()
                if need is None:
                    continue
                refused_at = wakes
                if need.required_units != told_units:
                    told_units = need.required_units
                    yield need
            self._pause_if_used_up()
            try:
                async with asyncio.timeout(self._patience_s()):
                    item = await self._queue.get()
            except TimeoutError:
                if not self._queue.empty():
                    continue  # an item came in the last moment
                if self.phase is Phase.PAUSED:
                    if refused_at != self._wakes:
                        continue  # so did money, and a full queue had no place for the notice
                    _log.info("stopped for want of a voucher", request=self._request.request_id)
                    break
                self.phase = Phase.FAILED
                raise EngineError("the engine does not answer: try again later") from None
            if item is None:
                continue
            if isinstance(item, VizError):
                self.phase = Phase.FAILED
                raise item
            self._made[item.choice] += len(item.piece.token_ids)
            if item.piece.finish_reason is not None:
                self._open_choices.discard(item.choice)
            self._unsent = item
            yield item
            self._confirm_sent()
        self.phase = Phase.ENDING

    async def finish(self, answer: MakeAnswer | None = None) -> Done:
        """Bill what was sent and return the receipt; call it after ``events`` ended."""
        self._confirm_sent()
        await self._stop()
        # Delivered before it is sent: the receipt goes into the header of the whole answer.
        for item in self._held:
            self._meter.delivered(item.choice, item.piece.text)
        receipt = await self._meter.bill(answer)
        self.phase = Phase.ENDED
        return Done(self._meter.prompt_tokens, self._meter.completion_tokens(), receipt)

    async def close(self) -> None:
        """Stop, and settle the account if ``finish`` did not: bill what was sent, or nothing."""
        if self.phase is Phase.ENDED:
            return
        await self._stop()
        if self._is_billed():
            await self._meter.bill()
        else:
            await self._meter.release()
        self.phase = Phase.ENDED

    def _is_billed(self) -> bool:
        """Say whether a stream that ends without ``finish`` is billed for what was sent."""
        if not self._request.stream:
            return False  # of a whole answer nothing is sent before ``finish``
        if self.phase is Phase.FAILED:
            return self._sent_pieces > 0
        return self.phase is not Phase.RESERVING

    @property
    def prompt_tokens(self) -> int:
        """The tokens of the prompt that are billed."""
        return self._meter.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """The canonical count of what was delivered until now, paid for or free."""
        return self._meter.completion_tokens()

    @property
    def has_channel(self) -> bool:
        """Whether there is a channel to pay from."""
        return self._active_channel.channel.payer != ZERO_ADDRESS

    # money

    async def _reserve(self, tokens: int) -> None:
        now_s = self._active_channel.chain_s
        await self._meter.reserve(tokens * self._request.choices, now_s)
        self._allowed = tokens

    def need(self, error: PaymentRequired) -> NeedVoucher:
        """Return what a refused reservation lacks."""
        channel, adapter_id = self._active_channel.channel, self._request.adapter_id
        return NeedVoucher(
            adapter_id,
            channel.base_units,
            channel.accepted_units(adapter_id),
            int(error.extensions["required"]),
            channel.best_lines,
        )

    async def _extend(self) -> NeedVoucher | None:
        """Reserve and allow one step more, which ends a pause; return what is missing, or None."""
        try:
            await self._reserve(
                min(self._allowed + self._policy.step_tokens, self._request.max_tokens)
            )
        except PaymentRequired as error:
            return self.need(error)
        for generation in self._generations:
            generation.allow(self._allowed)
        self.phase = Phase.RUNNING
        return None

    def _wants_more(self) -> bool:
        """Say whether the fastest choice has used half of the last step.

        So the next voucher travels while the other half is generated, and a buyer that pays in
        time sees no pause.
        """
        if self._allowed >= self._request.max_tokens:
            return False
        most = max(self._made[choice] for choice in self._open_choices)
        return most * 2 >= 2 * self._allowed - self._policy.step_tokens

    def _pause_if_used_up(self) -> None:
        """Move from RUNNING to PAUSED once no choice can go on without money.

        Text that waits in the queue is sent first. The time runs from the first such moment until
        the next reservation, so that a buyer cannot lengthen it.
        """
        if self.phase is not Phase.RUNNING or not self._queue.empty():
            return
        if self._allowed >= self._request.max_tokens:
            return
        if all(self._made[choice] >= self._allowed for choice in self._open_choices):
            self.phase = Phase.PAUSED
            now_s = asyncio.get_running_loop().time()
            self._pause_ends_s = now_s + self._policy.voucher_grace_s

    def _patience_s(self) -> float:
        """Return how long to wait for the next item: for money, or for the engine."""
        if self.phase is Phase.PAUSED:
            return self._pause_ends_s - asyncio.get_running_loop().time()
        return ENGINE_STALL_S

    def _check_prepayment(self, tokens: int) -> None:
        units = self._request.price.amount_units(
            self._meter.prompt_tokens, tokens * self._request.choices
        )
        if units > self._policy.max_prepay_units:
            raise InvalidRequest(
                f"without streaming {units} units would be paid ahead, more than "
                f"{self._policy.max_prepay_units}: stream, or lower max_tokens"
            )

    def _wake(self) -> None:
        # The count is the notice. None only ends a wait, and a full queue holds what ends it.
        self._wakes += 1
        if not self._queue.full():
            self._queue.put_nowait(None)

    # the engine

    async def _pump(self, choice: int, generation: Generation) -> None:
        """Move one choice's pieces into the queue; an error is its last item."""
        showing = ShownLogprobs()
        try:
            async for piece in generation:
                await self._queue.put(Text(choice, showing.take(piece)))
        except VizError as error:
            await self._queue.put(error)
        except Exception as error:  # noqa: BLE001  a bug in a backend ends this stream alone
            _log.error("the engine failed", request=self._request.request_id, exc_info=error)
            await self._queue.put(EngineError("the engine failed: try again later"))

    def _confirm_sent(self) -> None:
        """Count the last yielded text as sent; of a whole answer, hold it until ``finish``."""
        if self._unsent is None:
            return
        item, self._unsent = self._unsent, None
        if not self._request.stream:
            self._held.append(item)
            return
        self._meter.delivered(item.choice, item.piece.text)
        # A token whose text is held back, such as half a character, was generated all the same.
        if item.piece.token_ids or item.piece.text:
            self._sent_pieces += 1

    async def _stop(self) -> None:
        """Stop the engine; safe to call again. Afterwards nothing more is made or delivered."""
        self._active_channel.waiting.discard(self._wake)
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
