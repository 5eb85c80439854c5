"""Ask for one paid answer: admission, the stream, the receipt.

Owns the course of one request. ``viz.buyer.stream_payer`` owns its money.

Invariants: an answer is billed once, and its receipt states what arrived; a request is on disk
before it is sent; if a request ends without a verified receipt, the voucher signer keeps it as an
open request, so that the most it may cost stays counted; a node that does not keep to the request
is not asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from viz.buyer.answer_context import AnswerContext
from viz.buyer.checks import ExpectedReceipt, agreed_list_price, agreed_quote, check_receipt
from viz.buyer.counting import Counter
from viz.buyer.open_requests import OpenRequest
from viz.buyer.received import AnswerChunk, ReceivedAnswer
from viz.buyer.request import AskedRequest
from viz.buyer.stream_payer import StreamPayer
from viz.client.node_client import problem_of
from viz.domain.receipt import SignedReceipt
from viz.domain.units import Units, hex_of
from viz.errors import (
    AccessTokenInvalid,
    DepositExceeded,
    InvalidRequest,
    InvalidSignature,
    LineBelowBest,
    NodeNotTrusted,
    NodeRefused,
    NodeUnreachable,
    PriceAboveCap,
    QuoteExpired,
    StaleVoucher,
    StoreError,
    VizError,
)
from viz.protocol.credential import voucher_to_text
from viz.protocol.messages import AccessToken, AdapterOffer
from viz.protocol.payment import (
    NEED_VOUCHER_EVENT,
    PRICE_HEADER,
    QUOTE_HEADER,
    RECEIPT_EVENT,
    VOUCHER_HEADER,
    Challenge,
    NeedVoucher,
    price_to_header,
    receipt_from_json,
)
from viz.protocol.problems import error_of
from viz.protocol.sse import ServerEvent, SseReader
from viz.protocol.wire import parse_json

ADMISSIONS: Final = 6
BILL_WAIT_S: Final = 3.0


class PaidAnswer:
    """A stream of OpenAI chunks that is paid for while it arrives. Made by ``BuyerClient.ask``."""

    def __init__(self, context: AnswerContext, path: str, body: dict[str, Any]) -> None:
        self._context = context
        self.asked = AskedRequest(path, body)
        self._stack = AsyncExitStack()
        self._response: aiohttp.ClientResponse | None = None
        self._offer: AdapterOffer
        self._open_request: OpenRequest
        self._payer: StreamPayer
        self._counter: Counter
        self._arrival = ReceivedAnswer(1, 0)
        self._sent = False
        self._kept = False
        self._paying: asyncio.Task[None] | None = None
        self._failure: VizError | None = None
        self._renewed = False
        self._rides, self._free = True, False
        self.receipt: SignedReceipt | None = None

    @property
    def text(self) -> str:
        """The text that has arrived so far, choice after choice."""
        return "".join(self._arrival.texts)

    @property
    def model(self) -> str:
        """The id of the model that answers, even if the request used its name."""
        return self.asked.model

    @property
    def cost_units(self) -> Units | None:
        """What the request cost; None until its bill is verified or it ended and owes nothing."""
        if self.receipt is not None:
            return self.receipt.receipt.amount_units
        if self._free:
            return 0
        return self._open_request.billed_units if self._sent and self._open_request.seq else None

    @property
    def most_units(self) -> Units:
        """What the request cost; if there is no bill yet, the most that it may cost."""
        known = self.cost_units is not None or not self._sent
        return self.cost_units or 0 if known else self._open_request.units

    @property
    def counted(self) -> tuple[int, int]:
        """The tokens of the prompt and of the text so far, as this buyer counts them."""
        return self._payer.prompt_tokens, self._arrival.tokens

    # admission

    async def __aenter__(self) -> Self:
        try:
            await self._admit()
        except BaseException as error:
            if self._sent:
                # The node may have admitted the request, so a bill may follow.
                self._context.voucher_signer.leave_unreceipted(
                    self._open_request, broken=isinstance(error, NodeUnreachable)
                )
            elif self._kept:
                self._context.voucher_signer.drop(self._open_request)
            await self._stack.aclose()
            if self._sent and isinstance(error, NodeUnreachable):
                cost = self._open_request.cost_if_begun(self._context.deployment)
                raise NodeUnreachable(f"{error.detail} ({cost})") from error
            raise
        self._paying = asyncio.create_task(self._pay(), name="viz-buyer-payer")
        return self

    async def _admit(self) -> None:
        context = self._context
        await context.sync.sync_if_behind()
        context.voucher_signer.require_trust()
        self._offer = await context.node.offer_of(self.asked.model)
        context.names.use(self.asked.model, self._offer)
        self.asked = self.asked.naming(self._offer.model)
        self._counter = await context.node.counter()
        self._open_request = self._stack.enter_context(
            context.voucher_signer.open_request(self._offer.adapter_id, self.asked.body)
        )
        # In a thread: counting a long prompt takes time, and other answers must not wait for it.
        tokens = await asyncio.to_thread(self._counter.prompt_tokens, self.asked)
        self._payer = StreamPayer(context, self.asked, self._open_request, self._counter, tokens)
        attempts = ADMISSIONS
        while attempts > 0:
            # The node gives a payment to whichever request comes first. If another request began
            # meanwhile, it may have used this one's payment, so the attempt is not counted. The
            # number of such requests is limited.
            beginning = len(context.voucher_signer.beginning(self._open_request))
            attempt = AsyncExitStack()
            try:
                if await self._attempt(attempt):
                    self._stack.push_async_callback(attempt.aclose)
                    return
            except BaseException:
                await attempt.aclose()
                raise
            await attempt.aclose()
            left = len(context.voucher_signer.beginning(self._open_request))
            attempts -= 0 if left < beginning else 1
        raise NodeRefused("the node keeps asking for payment: it does not accept what it is sent")

    async def _attempt(self, stack: AsyncExitStack) -> bool:
        """Send the request once; return whether the answer began.

        If it did not, the cause was corrected, and another attempt makes sense. Raises the refusal
        if no correction would help.
        """
        context = self._context
        known = context.quotes.of(self._offer)
        if known:
            agreed = agreed_quote(*known)
            headers = {QUOTE_HEADER: hex_of(agreed.quote_hash)}
        else:
            agreed = agreed_list_price(self._offer)
            headers = {PRICE_HEADER: price_to_header(agreed.price)}
        self._payer.agree(agreed)
        await context.node.pin(self._offer)
        token = await context.access.token()
        if not self._kept:
            await asyncio.to_thread(context.voucher_signer.keep, self._open_request)
            self._kept = True
        rides = self._payer.riding() if self._rides else None
        if rides is not None:
            headers[VOUCHER_HEADER] = voucher_to_text(rides)
        self._sent = True
        self._open_request.waits_since_s = time.monotonic()
        try:
            response = await stack.enter_async_context(
                context.api.generate(self.asked.path, self.asked.body, token, headers)
            )
        except VizError as refusal:
            # A refused request is not billed, and without a connection nothing was sent. After any
            # other failure the node may have begun.
            self._sent = isinstance(refusal, NodeUnreachable) and not isinstance(
                refusal.__cause__, aiohttp.ClientConnectorError
            )
            if isinstance(refusal, AccessTokenInvalid):
                context.access.drop(token)
            elif rides is not None and isinstance(refusal, StaleVoucher | LineBelowBest):
                context.voucher_signer.follow(refusal)
            else:
                await self._mend(refusal, quoted=known is not None)
            return False
        if response.status == 402:
            self._sent = False
            # Whatever was wrong with the voucher on the request: pay now what the node asks for.
            self._rides = False
            await self._answer_challenge(response, token, rode=rides is not None)
            return False
        self._response = response
        self._arrival = self._payer.begin()
        return True

    async def _mend(self, refusal: VizError, *, quoted: bool) -> None:
        """Change what the next attempt sends; raise the refusal if no change would help."""
        context = self._context
        if quoted and isinstance(refusal, QuoteExpired | InvalidRequest):
            # InvalidRequest too: the request may want more tokens than the kept quote allows.
            context.quotes.drop(self._offer)
        elif isinstance(refusal, QuoteExpired):
            # The node has changed its price since its description was read.
            self._offer = await context.node.renewed_offer(self.asked.model)
        else:
            raise refusal

    async def _answer_challenge(
        self, response: aiohttp.ClientResponse, token: AccessToken, *, rode: bool
    ) -> None:
        refusal = await problem_of(response)
        header = response.headers.get("WWW-Authenticate")
        if header is None:
            # Not the node's words, so it may have begun.
            self._sent = isinstance(refusal, NodeUnreachable)
            if rode and not self._sent:
                return
            raise refusal
        context = self._context
        challenge = Challenge.from_header(header)
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
        self._payer.agree(agreed_quote(*known))
        await self._payer.pay_first(challenge.need)

    async def _pay(self) -> None:
        try:
            await self._payer.run()
        except VizError as error:
            self._failure = error
            if self._response is not None:
                self._response.close()

    # the stream

    async def __aiter__(self) -> AsyncIterator[AnswerChunk]:
        if self._response is None:
            raise NodeRefused("enter the answer with `async with` before reading it")
        try:
            async for chunk in self._read(self._response):
                yield chunk
        except VizError as error:
            if self.receipt is not None or self._is_ours(error):
                raise
            raise await self._broken_off(error) from error

    def _is_ours(self, error: VizError) -> bool:
        """Say whether the buyer ended the answer: no deposit left, no disk, or its cap reached.

        An error that the node answered with is never the buyer's own, whatever its class. If an
        answer that the buyer ended is billed for more than what arrived, it counts like an answer
        that the buyer left.
        """
        if error.answered:
            return False
        capped = self._open_request.units >= self._context.limits.request_units
        return isinstance(error, DepositExceeded | StoreError) or (
            capped and isinstance(error, PriceAboveCap)
        )

    async def _read(self, response: aiohttp.ClientResponse) -> AsyncIterator[AnswerChunk]:
        reader, waiting, now_s = SseReader(), self._open_request, time.monotonic
        try:
            async for raw in response.content.iter_any():
                self._arrival.read(len(raw))
                for event in reader.feed(raw):
                    chunk = self._take(event)
                    if chunk is None:
                        continue
                    # Stop the clock while the caller has the chunk: the node is not waited for.
                    waited_s = now_s() - waiting.waits_since_s if waiting.waits_since_s else 0.0
                    waiting.waits_since_s = 0.0
                    yield chunk
                    waiting.waits_since_s = now_s() - waited_s
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._failure or NodeUnreachable(
                f"the node broke off the answer: {str(error) or type(error).__name__}"
            ) from error
        if self._failure is not None:
            raise self._failure
        if self.receipt is None:
            # An answer that costs nothing has no receipt. Judge the cost by the least prompt (one
            # token) and the longest answer that the text can be (one token for each byte).
            price, most_tokens = self._payer.agreed.price, self._arrival.text_bytes
            self._free = price.amount_units(1, most_tokens) == 0
        if self.receipt is None and not self._free:
            raise NodeNotTrusted("the node ended its answer without a receipt")

    async def _broken_off(self, error: VizError) -> VizError:
        """Return the error that ended an answer, with the answer's cost added to its text."""
        context, open_request = self._context, self._open_request
        context.voucher_signer.leave_unreceipted(open_request, broken=True)
        if self._response is not None:
            self._response.close()
        with suppress(VizError, TimeoutError):
            # If the node still runs, it has billed the answer or will do so in a moment.
            async with asyncio.timeout(BILL_WAIT_S):
                await context.sync.sync_for_bill(open_request)
        cost = open_request.cost_so_far(context.deployment)
        return type(error)(f"{error.detail} ({cost})", **error.extensions)

    def _take(self, event: ServerEvent) -> AnswerChunk | None:
        if event.name == NEED_VOUCHER_EVENT:
            self._payer.ask(NeedVoucher.from_json(parse_json(event.data)))
            return None
        if event.name == RECEIPT_EVENT:
            self._take_receipt(receipt_from_json(parse_json(event.data)))
            return None
        if event.name or event.data == "[DONE]":
            return None
        chunk = parse_json(event.data, max_bytes=len(event.data))
        if "error" in chunk:
            raise error_of(chunk, 200)
        try:
            grew = self._arrival.take(chunk)
        except NodeNotTrusted as error:
            self._context.voucher_signer.distrust(error.detail)
            raise
        if grew:
            self._open_request.waits_since_s = 0.0
            self._payer.grew()
        return chunk

    def _take_receipt(self, signed: SignedReceipt) -> None:
        expected = ExpectedReceipt(
            adapter_id=self._open_request.adapter_id,
            agreed=self._payer.agreed,
            request=self.asked.body,
            prompt_tokens=self._payer.prompt_tokens,
            texts=self._arrival.texts,
            most_units=self._open_request.most_units,
        )
        try:
            if self.receipt is not None:
                raise NodeNotTrusted("the node bills one request twice")
            check_receipt(signed, expected, self._counter)
            self._context.voucher_signer.take(signed, self._open_request)
        except (NodeNotTrusted, InvalidSignature) as error:
            self._context.voucher_signer.distrust(error.detail)
            raise
        self._context.voucher_signer.answered(empty=not self.text)
        self.receipt = signed
        self._context.spending.note(self.model, signed)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._paying is not None:
            self._paying.cancel()
            await asyncio.gather(self._paying, return_exceptions=True)
        if self.receipt is None:
            if self._free:
                self._context.voucher_signer.drop(self._open_request)
            else:
                self._context.voucher_signer.leave_unreceipted(self._open_request)
            if self._response is not None:
                self._response.close()
        await self._stack.aclose()
