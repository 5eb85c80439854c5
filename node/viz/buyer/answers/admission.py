"""Send one request until its answer begins: agree on a price, get a token, make the first payment.

Owns the attempts, and what each changes after a refusal. ``viz.buyer.answers.answer`` reads the
answer.

Invariants: a request is on disk before it is sent. ``sent`` is true as long as the node may have
admitted the request, so that a bill may follow. ``refused``: an attempt was refused.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

import aiohttp

from viz.buyer.answers.context import AnswerContext
from viz.buyer.answers.stream_payer import StreamPayer
from viz.buyer.ledger.open_request import OpenRequest
from viz.buyer.terms.checks import agreed_list_price, agreed_quote
from viz.buyer.terms.counting import Counter
from viz.buyer.terms.request import AskedRequest
from viz.client.node_client import challenge_of, problem_of
from viz.domain.pricing import Price
from viz.domain.trust import REPLICAS
from viz.domain.units import Units, hex_of
from viz.errors import (
    AccessTokenInvalid,
    InvalidRequest,
    LineBelowBest,
    NodeRefused,
    NodeUnreachable,
    QuoteExpired,
    StaleVoucher,
    StoreConflict,
    VizError,
)
from viz.protocol.answers import no_answer
from viz.protocol.credential import voucher_to_text
from viz.protocol.messages import AccessToken, AdapterOffer
from viz.protocol.payment import (
    NAME_HEADER,
    PRICE_HEADER,
    QUOTE_HEADER,
    VOUCHER_HEADER,
    price_to_header,
)
from viz.protocol.problems import told_by

ADMISSIONS: Final = 6
# Attempts more, and for how long, while another answer of the same adapter runs and each demand is
# above the one before: an answer that waits for money, because its reader pauses, takes each
# payment before the new request comes, step by step until it ends.
SHARED_ADMISSIONS: Final = 512
SHARED_S: Final = 60.0


class AnswerAdmission:
    """The admission of one request; ``open_request``, ``payer``, ``counter`` exist once it began.

    ``asked``: the request, which names the model by its id as soon as the offer is known.
    ``kept``: whether the open request is on disk. ``held``: what the day's budget holds for it.
    """

    open_request: OpenRequest
    payer: StreamPayer
    counter: Counter

    def __init__(self, context: AnswerContext, asked: AskedRequest) -> None:
        self._context = context
        self.asked = asked
        self.sent = False
        self.refused = False
        self.kept = False
        self.held = ""
        # What the request may cost at most, as its record on disk says.
        self._kept_units: Units = -1
        self._kept_price: Price | None = None
        self._offer: AdapterOffer
        self._renewed = False
        # Whether the next attempt carries a voucher.
        self._rides = True
        # What the latest refusal required.
        self._required_units: Units = 0

    async def begin(self, stack: AsyncExitStack) -> aiohttp.ClientResponse:
        """Send the request, and correct what the node refuses, until its answer begins.

        ``stack`` gets what must be closed after the answer. Raises the refusal if no correction
        would help, NodeRefused after too many attempts, NodeUnreachable, NodeNotTrusted,
        PriceAboveCap, DepositExceeded, StoreError.
        """
        context = self._context
        await context.sync.sync_if_behind()
        context.voucher_signer.require_trust()
        self._offer = await context.node.offer_of(self.asked.model)
        context.names.use(self.asked.model, self._offer)
        self.asked = self.asked.naming(self._offer.model)
        self.counter = await context.node.counter(self._offer)
        self.open_request = stack.enter_context(
            context.voucher_signer.open_request(self._offer.adapter_id, self.asked.body)
        )
        self.open_request.held = self.held
        # In a thread: counting a long prompt takes time, and other answers must not wait for it.
        tokens = await asyncio.to_thread(self.counter.prompt_tokens, self.asked)
        self.payer = StreamPayer(
            context,
            self.asked,
            self.open_request,
            self.counter,
            tokens,
            context_tokens=context.node.info.base_of(self._offer).context_tokens,
        )
        attempts, shared, until_s = ADMISSIONS, SHARED_ADMISSIONS, time.monotonic() + SHARED_S
        while attempts > 0:
            # The node gives a payment to whichever request comes first. If another request began
            # meanwhile, it may have used this one's payment, so the attempt is not counted. The
            # number of such requests is limited, and so are the steps of an answer that runs.
            beginning, required_units = self._beside()[0], self._required_units
            attempt = AsyncExitStack()
            try:
                if (response := await self._attempt(attempt)) is not None:
                    stack.push_async_callback(attempt.aclose)
                    return response
            except BaseException:
                await attempt.aclose()
                raise
            await attempt.aclose()
            left, running = self._beside()
            taken = running and self._required_units > required_units
            if taken and shared and time.monotonic() < until_s:
                shared -= 1
            elif left >= beginning:
                attempts -= 1
        raise NodeRefused(
            "the node keeps asking for payment: it does not accept what it is sent, and nothing "
            f"more is signed now. {REPLICAS}"
        )

    def _beside(self) -> tuple[int, int]:
        """Return how many other requests for the adapter have not begun, and how many run."""
        others = self._context.voucher_signer.beside(self.open_request)
        began = sum(each.began for each in others)
        return len(others) - began, began

    async def _attempt(self, stack: AsyncExitStack) -> aiohttp.ClientResponse | None:
        """Send the request once; return the response if the answer began.

        If it did not (None), the cause was corrected, and another attempt makes sense. Raises the
        refusal if no correction would help.
        """
        context = self._context
        known = context.quotes.of(self._offer)
        if known:
            agreed = agreed_quote(*known)
            headers = {QUOTE_HEADER: hex_of(agreed.quote_hash)}
        else:
            agreed = agreed_list_price(self._offer)
            headers = {PRICE_HEADER: price_to_header(agreed.price)}
        self.payer.agree(agreed)
        await context.node.pin(self._offer)
        token = await context.access.token()
        terms = self.open_request.most_units, self.open_request.price
        if terms[0] > self._kept_units or terms[1] != self._kept_price:
            # Again if the next quote allows more or has another price: a process that is killed
            # knows its record only.
            self._kept_units, self._kept_price = terms
            await asyncio.to_thread(context.voucher_signer.keep, self.open_request)
            self.kept = True
        rides = self.payer.riding() if self._rides else None
        # The same for all attempts: the node serves one of them, also if others repeat it.
        headers[NAME_HEADER] = self.open_request.name
        if rides is not None:
            headers[VOUCHER_HEADER] = voucher_to_text(rides)
        self.sent = True
        self.open_request.waits_since_s = time.monotonic()
        try:
            response = await stack.enter_async_context(
                context.api.generate(self.asked.path, self.asked.body, token, headers)
            )
        except VizError as refusal:
            # A refused request is not billed, and without a connection nothing was sent. After any
            # other failure the node may have begun.
            self.sent = isinstance(refusal, NodeUnreachable) and not isinstance(
                refusal.__cause__, aiohttp.ClientConnectorError
            )
            self.refused |= refusal.answered
            if isinstance(refusal, StoreConflict):
                self.sent = True
                raise NodeUnreachable(
                    "a server in front of the node repeated the request, and handed on the refusal "
                    f"of the repetition ({refusal.detail}): ask the node's operator"
                ) from refusal
            if isinstance(refusal, AccessTokenInvalid):
                context.access.drop(token)
            elif rides is not None and isinstance(refusal, StaleVoucher | LineBelowBest):
                context.voucher_signer.follow(refusal)
                await context.sync.require_not_older()
            else:
                await self._mend(refusal, quoted=known is not None)
            return None
        if response.status == 402:
            self.sent, self.refused = False, True
            # Whatever was wrong with the voucher on the request: pay now what the node asks for.
            self._rides = False
            await self._answer_challenge(response, token, rode=rides is not None)
            return None
        return response

    async def _mend(self, refusal: VizError, *, quoted: bool) -> None:
        """Change what the next attempt sends; raise the refusal if no change would help."""
        context = self._context
        if quoted and isinstance(refusal, QuoteExpired | InvalidRequest):
            # InvalidRequest too: the request may want more tokens than the kept quote allows.
            context.quotes.drop(self._offer)
        elif isinstance(refusal, QuoteExpired):
            # The node has changed its price since its description was read.
            renewed = await context.node.renewed_offer(self.asked.model)
            if agreed_list_price(renewed).price == agreed_list_price(self._offer).price:
                raise QuoteExpired(
                    f"the node refuses {self.asked.model} at the price that it offers it for: it "
                    "sells at another price than it tells, or a server in front of it answers an "
                    "old description. Use another node, or ask its operator"
                ) from refusal
            self._offer = renewed
        else:
            raise refusal

    async def _answer_challenge(
        self, response: aiohttp.ClientResponse, token: AccessToken, *, rode: bool
    ) -> None:
        refusal = told_by(await problem_of(response), self._context.api.who)
        if not refusal.answered:
            self.sent = True  # it is not the node's word, so the node may have begun
            raise refusal
        context, challenge = self._context, challenge_of(response)
        if challenge is None:
            if rode:
                return
            raise no_answer(
                "a 402 without the Payment challenge, which a server in front of it may have taken "
                "out"
            )
        if context.quotes.is_for_another(challenge, context.node.info, self._offer):
            self._offer = await context.node.renewed_offer(self.asked.model)
        context.quotes.accept(
            challenge, context.node.info, self._offer, context.voucher_signer.channel
        )
        known = context.quotes.of(self._offer)
        if challenge.need is None and not self._renewed:
            # The channel is open, but the node does not know whose request this is. A new session
            # tells it.
            self._renewed = True
            context.access.drop(token)
            return
        if challenge.need is None or known is None:
            raise refusal
        self._required_units = challenge.need.required_units
        self.payer.agree(agreed_quote(*known))
        await self.payer.pay_first(challenge.need)
