"""Pay for one answer: bound what it may cost, and deliver the vouchers that keep it flowing.

Owns the agreed price, the amounts of the open request, which grow with what arrives, and the task
that signs ahead, so that reading never waits for paying. ``viz.buyer.vouchers.voucher_signer``
bounds what is paid in total; ``viz.buyer.answers.answer`` asks for the answer and reads it.

Invariant: what a request may cost now grows only with what has arrived, and never exceeds what was
asked for or the cap for one request.
"""

from __future__ import annotations

import asyncio
from typing import Final

from viz.buyer.answers.context import AnswerContext
from viz.buyer.answers.received import ReceivedAnswer
from viz.buyer.ledger.open_request import TEXT_KEPT_BYTES, OpenRequest
from viz.buyer.terms.checks import Agreed, agreed_list_price
from viz.buyer.terms.counting import Counter
from viz.buyer.terms.request import AskedRequest
from viz.domain.display import amount
from viz.domain.node_channel import PresentedVoucher
from viz.domain.pricing import Price
from viz.domain.units import BASE_MODEL, Units
from viz.errors import NodeNotTrusted, NodeRefused, PriceAboveCap
from viz.protocol.payment import NeedVoucher

# What an honest node may have sent at the moment when the buyer left.
ON_THE_LINE_TOKENS: Final = 16


class StreamPayer:
    """Pays for one answer. Call ``agree`` before anything else."""

    def __init__(
        self,
        context: AnswerContext,
        asked: AskedRequest,
        open_request: OpenRequest,
        counter: Counter,
        prompt_tokens: int,
        *,
        context_tokens: int,
    ) -> None:
        """``prompt_tokens`` is the count of the prompt: exact if possible, else an upper bound.

        ``context_tokens``: how long prompt and answer together can be.
        """
        self._context_tokens = context_tokens
        self._context = context
        self._asked = asked
        self._open_request = open_request
        self._start_units: Units = context.voucher_signer.received_units(open_request.adapter_id)
        self._need: NeedVoucher | None = None
        # What the voucher on the last request pays the adapter; 0 if it had none.
        self._riding_units: Units = 0
        self._now = asyncio.Event()
        self._counter = counter
        self.prompt_tokens = prompt_tokens
        self.arrival = ReceivedAnswer(asked.choices, 0)
        self.agreed: Agreed
        # The first price that the node told for this request.
        self._told: Price | None = None

    # what it may cost

    def agree(self, agreed: Agreed) -> None:
        """Set the price of the next attempt, and the bounds by it; raise PriceAboveCap."""
        context, adapter_id, model = self._context, self._open_request.adapter_id, self._asked.model
        context.prices.check(adapter_id, model, agreed.price, context.limits, told=self._told)
        self._told = self._told or agreed.price
        self.agreed = agreed
        self._update_bound()

    def _accept(self) -> None:
        """Record the price, at which the node sells; raise StoreError."""
        context, adapter_id = self._context, self._open_request.adapter_id
        context.prices.agree(adapter_id, self._asked.model, self.agreed.price, context.limits)

    def begin(self) -> ReceivedAnswer:
        """Note that the node began the answer; return the object that collects it."""
        self._accept()
        cap = self._context.limits.request_units
        payable = self.agreed.price.completion_tokens_for(cap, 0)
        most = self._max_tokens()
        self.arrival = ReceivedAnswer(
            self._asked.choices,
            most if payable is None else min(most, payable),
            self._counter,
        )
        self._open_request.began = True
        if self._riding_units:
            adapter_id = self._open_request.adapter_id
            self._context.voucher_signer.held.served(adapter_id, self._riding_units)
        return self.arrival

    def grew(self) -> None:
        """Let the request cost what has arrived; raise PriceAboveCap if that exceeds the cap."""
        self._update_bound()
        cap, pieces = self._context.limits.request_units, self.arrival.pieces
        # The signer cannot check this: it knows one sum per adapter, in which vouchers for other
        # requests may already cover this answer.
        if self.agreed.price.amount_units(self.prompt_tokens, pieces) > cap:
            raise self._above_cap(self.agreed.price.amount_units(self.prompt_tokens, pieces))
        if pieces % max(1, self._context.limits.ahead_tokens // 2) == 0:
            self._now.set()

    def ended(self) -> None:
        """Count what arrived anew, and note it for a receipt that may come later."""
        opened, text = self._open_request, "".join(self.arrival.texts).encode()
        self.arrival.recount()
        excused_units = opened.excused_units
        self._update_bound()
        # The answer may have ended in a way that excuses less.
        opened.excused_units = min(opened.excused_units, excused_units)
        if len(text) <= TEXT_KEPT_BYTES:
            opened.text = text
            if self._counter.exact:
                opened.tokens = self.prompt_tokens, self.arrival.tokens

    def _update_bound(self) -> None:
        """Set the amounts of the open request: what has arrived, and one step more."""
        limits, most, open_request = self._context.limits, self._max_tokens(), self._open_request
        price, prompt, arrived = self.agreed.price, self.prompt_tokens, self.arrival.tokens
        ahead = min(most, arrived + limits.step_tokens * self._asked.choices)
        open_request.units = min(limits.request_units, price.amount_units(prompt, ahead))
        open_request.asked_units = price.amount_units(prompt, most)
        open_request.prompt_units = price.amount_units(prompt, 0)
        open_request.price = price
        open_request.most_units = min(limits.request_units, open_request.asked_units)
        step = self._node_step_tokens()
        first = min(most, step * self._asked.choices)
        open_request.first_units = price.amount_units(prompt, first)
        # If the buyer leaves now, the node can have sent what was paid ahead and two of its steps.
        step = min(limits.step_tokens, limits.ahead_tokens + 2 * step)
        on_line = price.amount_units(prompt, min(most, arrived + step * self._asked.choices))
        open_request.leaving_units = min(open_request.units, on_line)
        excused = price.amount_units(prompt, arrived + ON_THE_LINE_TOKENS * self._asked.choices)
        open_request.excused_units = min(open_request.units, excused)
        if arrived:
            open_request.arrived_units = min(
                open_request.units, price.amount_units(prompt, arrived)
            )

    def _node_step_tokens(self) -> int:
        """Return how many tokens the node wants paid at a time, at most the buyer's own step."""
        limits, info = self._context.limits, self._context.node.info
        for offer in info.adapters:
            if offer.adapter_id == BASE_MODEL:
                base = agreed_list_price(offer).price
                found = base.completion_tokens_for(info.minimum_step_units, 0)
                return limits.step_tokens if found is None else min(limits.step_tokens, found)
        return limits.step_tokens

    def _max_tokens(self) -> int:
        given = [most for most in (self._asked.max_tokens, self.agreed.max_tokens) if most]
        return min(given, default=self._context_tokens) * self._asked.choices

    # paying

    def ask(self, need: NeedVoucher) -> None:
        """Have ``run`` pay what the node asks for in its stream."""
        self._need = need
        self._now.set()

    def riding(self) -> PresentedVoucher | None:
        """Return a voucher for the first step, to send on the request; None if none is needed.

        A buyer that knows only an upper bound of the prompt's tokens would pay for that bound, so
        it waits until the node asks.
        """
        signer, adapter_id = self._context.voucher_signer, self._open_request.adapter_id
        ahead = self.agreed.price.amount_units(0, self._context.limits.ahead_tokens)
        found = signer.riding(self._open_request, ahead) if self._counter.exact else None
        if found is None:
            self._riding_units = 0
            return None
        presented, target_units = found
        self._riding_units = signer.channel.signed_units(adapter_id)
        self._paid_to_begin(target_units - ahead)
        return presented

    async def pay_first(self, need: NeedVoucher) -> None:
        """Pay what the node asks for before it begins; raise what ``VoucherSigner.cover`` raises.

        The node uses a payment for whichever request comes first. So the requests that begin
        together are paid for together.
        """
        self._accept()
        others = self._context.voucher_signer.beside(self._open_request)
        await self._cover(need, sum(each.first_units for each in others if not each.began))
        self._paid_to_begin(need.required_units)

    def _paid_to_begin(self, units: Units) -> None:
        # The amount contains a step whose tokens ``run`` counts again when they arrive. Subtract it
        # here, so that it is not signed for twice.
        step_units = self._context.node.info.minimum_step_units * self._asked.choices
        self._start_units = max(self._start_units, units - step_units)

    async def run(self) -> None:
        """Sign ahead as the answer arrives, and at once when the node asks; ends by an error."""
        context, ahead = self._context, self._context.limits.ahead_tokens
        ahead_units = self.agreed.price.amount_units(0, ahead)
        while True:
            await self._now.wait()
            self._now.clear()
            context.voucher_signer.require_trust()
            need, self._need = self._need, None
            if need is not None:
                await self._cover(need)
                continue
            tokens = min(self._max_tokens(), self.arrival.pieces + ahead)
            await context.voucher_signer.cover(
                self._open_request.adapter_id,
                required_units=0,
                wanted_units=self._start_units + self.agreed.price.amount_units(0, tokens),
                ahead_units=ahead_units,
            )

    async def _cover(self, need: NeedVoucher, more_units: Units = 0) -> None:
        if need.adapter_id != self._open_request.adapter_id:
            raise NodeNotTrusted("the node wants a voucher for an adapter that was not asked for")
        self._context.voucher_signer.held.asked(need.adapter_id, need.accepted_units)
        ahead = self.agreed.price.amount_units(0, self._context.limits.ahead_tokens)
        # Read the bills first: one that came late may justify what the node requires.
        await self._context.sync.sync_for(need.adapter_id, need.required_units)
        try:
            await self._context.voucher_signer.cover(
                need.adapter_id,
                required_units=need.required_units,
                wanted_units=need.required_units + ahead + more_units,
                ahead_units=ahead,
                base_units=need.base_units,
            )
        except NodeRefused as refusal:
            if not refusal.answered:
                await self._context.sync.require_not_older()
            raise
        except PriceAboveCap as refusal:
            step = self._node_step_tokens() * self._asked.choices
            tokens = min(self._max_tokens(), self.arrival.tokens + step)
            justified_units = self.agreed.price.amount_units(self.prompt_tokens, tokens)
            if justified_units <= self._context.limits.request_units:
                raise
            # The node asks for what the next step costs: it is the buyer's own cap that forbids it.
            raise self._above_cap(justified_units) from refusal

    def _above_cap(self, needed_units: Units) -> PriceAboveCap:
        """Return the refusal of an answer that needs more than the buyer's cap, in words."""
        here, price = self._context.deployment, self.agreed.price
        most = amount(price.amount_units(self.prompt_tokens, self._max_tokens()), here)
        begun = "to go on" if self.arrival.tokens else "to begin"
        return PriceAboveCap(
            f"the answer may cost {amount(self._context.limits.request_units, here)} at most, and "
            f"needs {amount(needed_units, here)} {begun} and up to {most} in all: raise "
            "--max-per-request (--max-cost), or --max-per-day if less is left of the day, or ask "
            "for fewer tokens"
        )
