"""Run one paid generation: send text while vouchers pay for it, and pause while money is missing.

Owns the stream of one request: its phases, when it needs a voucher, what counts as sent, and its
end. ``viz.services.serving.admission`` admits the request, ``viz.services.payments.metering`` books
the money. Invariants:

- The engine may generate a token only if it is reserved.
- However a stream ends, what was sent is billed once. Nothing is sent that is not billed.
- If the node fails before the first token, nothing is billed.
- A wait for money has a time limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

import structlog

from viz.domain.ports.engine import Generation, GenerationRequest
from viz.domain.receipt import SignedReceipt
from viz.domain.units import ZERO_ADDRESS, Units
from viz.errors import EngineError, InvalidRequest, PaymentRequired, VizError
from viz.protocol.payment import NeedVoucher
from viz.services.payments.active_channel import ActiveChannel
from viz.services.payments.metering import MakeAnswer, Meter
from viz.services.payments.paid_request import PaidRequest
from viz.services.serving.pieces import Pieces, Text, pieces_of

ENGINE_STALL_S: Final = 120.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServingPolicy:
    """Set how a request pays. A stream pays for ``step_tokens`` at a time.

    A stream without money waits ``voucher_grace_s`` for a voucher. A request that does not stream
    pays for its prompt and its max_tokens ahead, at most ``max_prepay_units``.
    """

    step_tokens: int = 32
    voucher_grace_s: float = 20.0
    default_max_tokens: int = 256
    max_prepay_units: Units = 1_000_000
    max_choices: int = 8


@dataclass(frozen=True, slots=True)
class Done:
    """Hold what was billed at the end."""

    prompt_tokens: int
    completion_tokens: int
    receipt: SignedReceipt | None


class Phase(Enum):
    """Name the phases of a stream, in order; only PAUSED can go back, to RUNNING."""

    RESERVING = auto()
    """The first step is being reserved. The engine has no request yet, so nothing is billed."""
    RUNNING = auto()
    """The engine generates within what is reserved."""
    PAUSED = auto()
    """Each choice has used up its reservation and waits for a voucher."""
    ENDING = auto()
    """No more text follows: all choices have ended, or no voucher came in time."""
    FAILED = auto()
    """The engine failed. Only text that was sent before is billed."""
    ENDED = auto()
    """The request is billed, or its reservation was given back."""


class PaidStream:
    """Run one generation; iterate ``events``, then call ``finish`` for the receipt."""

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
        # When a pause ends the stream if no voucher came, by the event loop's clock.
        self._pause_ends_s = 0.0
        # How many tokens the engine may generate of each choice, which are reserved, and how many
        # were taken from it.
        self._allowed = [0] * request.choices
        self._made = [0] * request.choices
        self._open_choices = set(range(request.choices))
        self._generations: list[Generation] = []
        self._pieces: Pieces | None = None
        # How often this channel's money changed. It is a count and not an event, because a voucher
        # may arrive while a reservation is being refused. ``events`` compares the count from before
        # the reservation with the current one, so it misses no voucher.
        self._wakes = 0
        # The last yielded text. It counts as sent when the caller asks for the next event.
        self._unsent: Text | None = None
        # The text of an answer that does not stream. It is delivered in ``finish``.
        self._held: list[Text] = []
        self._sent_pieces = 0

    # the phases, in their order

    async def pay_first(self) -> None:
        """Reserve the first step, or the whole request if it does not stream."""
        goal = self._request.max_tokens
        if self._request.stream:
            goal = min(goal, self._policy.step_tokens)
        else:
            self._check_prepayment(goal)
        await self._reserve([goal] * self._request.choices)

    async def start(self) -> None:
        """Give the request to its engine: RESERVING to RUNNING. From here the prompt is billed."""
        request, sampling = self._request, self._request.sampling
        try:
            for choice in range(request.choices):
                # With the same seed, all choices would have the same text.
                seed = None if sampling.seed is None else sampling.seed + choice
                generation = await request.engine.generate(
                    GenerationRequest(
                        f"{request.request_id}-{choice}",
                        request.prompt,
                        request.adapter_id,
                        replace(sampling, seed=seed),
                        request.reuse_key,
                    )
                )
                self._generations.append(generation)
                generation.allow(self._allowed[choice])
        except BaseException:
            self.phase = Phase.FAILED
            raise
        self.phase = Phase.RUNNING
        self._meter.admit()
        self._active_channel.waiting.add(self._wake)
        self._pieces = pieces_of(request.request_id, self._generations)

    async def events(self) -> AsyncIterator[Text | NeedVoucher]:
        """Yield texts to send and requests for vouchers; end when done, or if no voucher came.

        A text counts as sent when the caller asks for the next event. Raises EngineError.
        """
        told_units: Units | None = None
        refused_at: int | None = None
        while self._open_choices:
            # After a refusal, only new money can change the result. So wait for that.
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
            if self.phase is Phase.PAUSED and refused_at != self._wakes:
                continue  # money came while the demand was sent
            try:
                item = await self._next()
            except TimeoutError:
                if refused_at != self._wakes:
                    continue  # money came at the last moment
                _log.info("stopped: no voucher came in time", request=self._request.request_id)
                break
            if item is None:
                continue  # ``_wake`` ended the wait: new money may allow another step
            self._made[item.choice] += len(item.piece.token_ids)
            if item.piece.finish_reason is not None:
                self._open_choices.discard(item.choice)
            self._unsent = item
            yield item
            self._confirm_sent()
        self.phase = Phase.ENDING

    async def _next(self) -> Text | None:
        """Return the next text, or None if money came; raise TimeoutError if neither came in time.

        Raises EngineError if the engine fails or does not answer.
        """
        paused = self.phase is Phase.PAUSED
        if self._pieces is None:
            raise EngineError("the engine does not know this request: send it again")
        try:
            return await self._pieces.take(self._patience_s(), awaits_money=paused)
        except TimeoutError:
            if paused:
                raise
            self.phase = Phase.FAILED
            raise EngineError("the engine does not answer: try again later") from None
        except VizError:
            self.phase = Phase.FAILED
            raise

    async def finish(self, answer: MakeAnswer | None = None) -> Done:
        """Bill what was sent and return the receipt; call it after ``events`` ended."""
        self._confirm_sent()
        await self._stop()
        # An answer that does not stream is billed before it is sent, because its receipt goes into
        # the HTTP header.
        for item in self._held:
            self._meter.delivered(item.choice, item.piece.text)
        receipt = await self._meter.bill(answer)
        self.phase = Phase.ENDED
        return Done(self._meter.prompt_tokens, self._meter.completion_tokens(), receipt)

    async def close(self) -> None:
        """Stop; if ``finish`` was not called, bill what was sent, or release the reservation."""
        if self.phase is Phase.ENDED:
            return
        await self._stop()
        if self._is_billed():
            await self._meter.bill()
        else:
            await self._meter.release()
        self.phase = Phase.ENDED

    def _is_billed(self) -> bool:
        """Return whether a stream that ends without ``finish`` is billed for what was sent."""
        if not self._request.stream:
            return False  # without streaming, nothing is sent before ``finish``
        if self.phase is Phase.FAILED:
            return self._sent_pieces > 0
        return self.phase is not Phase.RESERVING

    @property
    def prompt_tokens(self) -> int:
        """The tokens of the prompt that are billed."""
        return self._meter.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """The canonical token count of what was delivered until now, also if it was free."""
        return self._meter.completion_tokens()

    @property
    def has_channel(self) -> bool:
        """Whether there is a channel to pay from."""
        return self._active_channel.channel.payer != ZERO_ADDRESS

    # money

    async def _reserve(self, allowed: list[int]) -> None:
        """Reserve so many tokens of each choice."""
        await self._meter.reserve(sum(allowed), self._active_channel.chain_s)
        self._allowed = allowed

    def need(self, error: PaymentRequired) -> NeedVoucher:
        """Return the voucher that a refused reservation needs."""
        channel, adapter_id = self._active_channel.channel, self._request.adapter_id
        return NeedVoucher(
            adapter_id,
            channel.base_units,
            channel.accepted_units(adapter_id),
            int(error.extensions["required"]),
            channel.best_lines,
        )

    async def _extend(self) -> NeedVoucher | None:
        """Reserve one more step and allow it to the engine, which ends a pause.

        A choice that has ended or has not begun its last step gets no more: the engine may have no
        room for all choices at once, and what the buyer accepts to pay follows what arrives.
        Returns None, or the voucher that is needed first.
        """
        step, most = self._policy.step_tokens, self._request.max_tokens
        try:
            await self._reserve(
                [
                    min(allowed + step, most)
                    if choice in self._open_choices and made > allowed - step
                    else allowed
                    for choice, (allowed, made) in enumerate(
                        zip(self._allowed, self._made, strict=True)
                    )
                ]
            )
        except PaymentRequired as error:
            return self.need(error)
        for generation, allowed in zip(self._generations, self._allowed, strict=False):
            generation.allow(allowed)
        self.phase = Phase.RUNNING
        return None

    def _wants_more(self) -> bool:
        """Return whether a choice has used half of its last step.

        The next voucher then travels while the other half is generated, and a buyer who pays in
        time sees no pause.
        """
        return any(
            self._made[choice] * 2 >= 2 * self._allowed[choice] - self._policy.step_tokens
            for choice in self._open_choices
            if self._allowed[choice] < self._request.max_tokens
        )

    def _pause_if_used_up(self) -> None:
        """Move from RUNNING to PAUSED if no choice can continue without money.

        A choice that has not begun may wait for the place in the engine of one that has no money,
        so it does not count as one that can. Text that waits is sent first. The time limit is set
        once, when the pause begins, so that a buyer cannot extend it without paying.
        """
        if self.phase is not Phase.RUNNING or self._pieces is None or not self._pieces.is_empty():
            return
        waiting = [
            choice
            for choice in self._open_choices
            if self._made[choice] >= self._allowed[choice] < self._request.max_tokens
        ]
        begun = [choice for choice in self._open_choices if self._made[choice]]
        if waiting and len(waiting) == len(begun):
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
        # The count shows that money came even if nothing is waiting for it at the moment.
        self._wakes += 1
        if self._pieces is not None:
            self._pieces.wake()

    def _confirm_sent(self) -> None:
        """Count the last yielded text as sent; without streaming, hold it until ``finish``."""
        if self._unsent is None:
            return
        item, self._unsent = self._unsent, None
        if not self._request.stream:
            self._held.append(item)
            return
        self._meter.delivered(item.choice, item.piece.text)
        # A token may have no text yet, such as half a character. It was generated, so it counts.
        if item.piece.token_ids or item.piece.text:
            self._sent_pieces += 1

    async def _stop(self) -> None:
        """Stop the engine; it generates and delivers nothing after this. Safe to call again."""
        self._active_channel.waiting.discard(self._wake)
        if self._pieces is not None:
            await self._pieces.stop()
        for generation in self._generations:
            try:
                async with asyncio.timeout(ENGINE_STALL_S):
                    await generation.cancel()
            except (TimeoutError, VizError) as error:
                _log.warning("a generation did not stop", reason=str(error))
