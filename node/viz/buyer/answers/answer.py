"""Ask for one paid answer: admission, the stream, the receipt.

Owns the course of one request. ``viz.buyer.answers.admission`` owns its beginning, and
``viz.buyer.answers.stream_payer`` its money.

Invariants: an answer is billed once, and its receipt states what arrived; if a request ends without
a verified receipt, the voucher signer keeps it as an open request, so that the most it may cost
stays counted; a node that signs a bill beyond the request is not asked again. The text is not
signed, and a server in front of the node can change it, so a wrong text is a broken answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from viz.buyer.answers.admission import AnswerAdmission
from viz.buyer.answers.context import AnswerContext
from viz.buyer.answers.received import AnswerChunk, ReceivedAnswer, said_in
from viz.buyer.answers.stream_payer import StreamPayer
from viz.buyer.ledger.open_request import OpenRequest
from viz.buyer.terms.checks import ExpectedReceipt, check_receipt, is_for, own_link
from viz.buyer.terms.request import AskedRequest
from viz.buyer.vouchers.undelivered import Undelivered
from viz.domain.receipt import SignedReceipt
from viz.domain.units import Units
from viz.errors import (
    BooksMismatch,
    DepositExceeded,
    InvalidSignature,
    NodeNotTrusted,
    NodeRefused,
    NodeUnreachable,
    PriceAboveCap,
    StoreError,
    TooMuchLeftOver,
    VizError,
)
from viz.protocol.payment import (
    NEED_VOUCHER_EVENT,
    RECEIPT_EVENT,
    NeedVoucher,
    receipt_from_json,
)
from viz.protocol.problems import error_of, told_by
from viz.protocol.sse import ServerEvent, SseReader

BILL_WAIT_S: Final = 3.0


class PaidAnswer:
    """A stream of OpenAI chunks that is paid for while it arrives. Made by ``BuyerClient.ask``."""

    def __init__(self, context: AnswerContext, path: str, body: dict[str, Any]) -> None:
        self._context = context
        self._admission = AnswerAdmission(context, AskedRequest(path, body))
        self._stack = AsyncExitStack()
        self._response: aiohttp.ClientResponse | None = None
        self._arrival = ReceivedAnswer(1, 0)
        # A server on the way may have taken out the header that asks for payment events. The node
        # then sends them as comments.
        self._reader = SseReader(commented=frozenset((NEED_VOUCHER_EVENT, RECEIPT_EVENT)))
        self._arrived: Iterator[ServerEvent] = iter(())
        self._paying: asyncio.Task[None] | None = None
        self._failure: VizError | None = None
        self._free, self._done = False, False
        self.receipt: SignedReceipt | None = None

    @property
    def asked(self) -> AskedRequest:
        """The request as it is sent: it names the model by its id once the offer is known."""
        return self._admission.asked

    @property
    def _open_request(self) -> OpenRequest:
        return self._admission.open_request

    @property
    def _undelivered(self) -> Undelivered:
        return self._context.voucher_signer.undelivered

    @property
    def _payer(self) -> StreamPayer:
        return self._admission.payer

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
        begun = self._admission.sent and self._open_request.seq
        return self._open_request.billed_units if begun else None

    @property
    def most_units(self) -> Units:
        """What the request cost; if it ended without a bill, the most that can be taken for it."""
        known = self.cost_units is not None or not self._admission.sent
        return (
            self.cost_units or 0 if known else self._undelivered.takeable_units(self._open_request)
        )

    def held_as(self, name: str) -> None:
        """Note what the buyer's day holds for the answer, before it begins."""
        self._admission.held = name

    def note_counted(self, units: Units) -> None:
        """Note what the buyer's day counts for the answer, so that it adds what a bill is above."""
        if self._admission.sent and self.cost_units is None:
            self._undelivered.note_counted(self._open_request, units)

    @property
    def counted(self) -> tuple[int, int]:
        """The tokens of the prompt and of the text so far, as this buyer counts them."""
        return self._payer.prompt_tokens, self._arrival.count()

    @property
    def billed_tokens(self) -> tuple[int, int] | None:
        """The bill's tokens of prompt and answer; None without a bill."""
        if self.receipt is not None:
            return self.receipt.receipt.prompt_tokens, self.receipt.receipt.completion_tokens
        return self._open_request.billed_tokens if self._admission.sent else None

    @property
    def counts_exactly(self) -> bool:
        """Whether ``counted`` is by the model's tokenizer; else it is a bound."""
        return self._admission.counter.exact

    async def __aenter__(self) -> Self:
        try:
            self._response = await self._admission.begin(self._stack)
            self._arrival = self._payer.begin()
        except BaseException as error:
            if self._admission.sent:
                # The node may have admitted the request, so a bill may follow.
                self._payer.ended()
                self._open_request.provoked = isinstance(error, VizError)
                self._context.voucher_signer.leave_unreceipted(
                    self._open_request, broken=isinstance(error, NodeUnreachable)
                )
            elif self._admission.kept:
                self._context.voucher_signer.drop(
                    self._open_request, refused=self._admission.refused
                )
            await self._stack.aclose()
            if self._admission.sent and isinstance(error, NodeUnreachable):
                cost = self._open_request.cost_if_begun(self._context.deployment)
                raise NodeUnreachable(f"{error.detail} ({cost})") from error
            raise
        self._paying = asyncio.create_task(self._pay(), name="viz-buyer-payer")
        return self

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
                self._open_request.provoked = not isinstance(error, StoreError)
                self._open_request.capped = isinstance(error, PriceAboveCap) and self._is_capped
                raise
            raise await self._broken_off(error) from error

    @property
    def _is_capped(self) -> bool:
        """Whether the buyer's own cap leaves nothing more to pay for this answer."""
        return self._open_request.units >= self._context.limits.request_units

    def _is_ours(self, error: VizError) -> bool:
        """Say whether the buyer ended the answer: its deposit, disk or cap, or earlier answers.

        So it did if it gave up having a voucher taken. An error that the node answered with is
        never the buyer's own, whatever its class, and no more is one that follows from what the
        node says of the buyer's vouchers. What such an answer is billed for beyond what arrived is
        lost: a node can provoke all of these ends but that of the disk. It says what the deposit
        is where no chain is read, and how much of it the next step needs.
        """
        if error.answered or isinstance(error, BooksMismatch):
            return False
        # What the node delivers to a dead connection or a slow reader, the others' vouchers pay.
        shared = self._context.voucher_signer.shares(self._open_request)
        gave_up = isinstance(error, NodeRefused) and error is self._failure
        return (
            gave_up
            or isinstance(error, DepositExceeded | StoreError | TooMuchLeftOver)
            or (isinstance(error, PriceAboveCap) and (self._is_capped or shared))
        )

    async def _read(self, response: aiohttp.ClientResponse) -> AsyncIterator[AnswerChunk]:
        waiting, now_s = self._open_request, time.monotonic
        try:
            async for raw in response.content.iter_any():
                self._arrival.read(len(raw))
                self._arrived = iter(self._reader.feed(raw))
                for event in self._arrived:
                    chunk = self._take(event)
                    if chunk is None:
                        continue
                    # Stop the clock while the caller has the chunk: the node is not waited for.
                    waited_s = now_s() - waiting.waits_since_s if waiting.waits_since_s else 0.0
                    waiting.waits_since_s = 0.0
                    yield chunk
                    waiting.waits_since_s = now_s() - waited_s
        except (aiohttp.ClientError, TimeoutError) as error:
            self._open_request.cut = self._failure is None
            raise self._failure or NodeUnreachable(
                f"the node broke off the answer: {str(error) or type(error).__name__}"
            ) from error
        if self._failure is not None:
            raise self._failure
        if self.receipt is not None:
            return
        if not self._done:
            self._open_request.cut = True
            raise NodeUnreachable("the answer was cut off, by the node or on the way: ask again")
        # An answer that costs nothing has no receipt. Judge the cost by the least prompt (one
        # token) and the longest answer that the text can be (one token for each byte).
        price, most_tokens = self._payer.agreed.price, self._arrival.text_bytes
        self._free = price.amount_units(1, most_tokens) == 0
        if not self._free:
            raise NodeNotTrusted("the node ended its answer without a receipt")

    async def _broken_off(self, error: VizError) -> VizError:
        """Return the error that ended an answer, with the answer's cost added to its text."""
        context, open_request = self._context, self._open_request
        self._leave(broken=True)
        if self._response is not None:
            self._response.close()
        with suppress(VizError, TimeoutError):
            # If the node still runs, it has billed the answer or will do so in a moment.
            async with asyncio.timeout(BILL_WAIT_S):
                await context.sync.sync_for_bill(open_request)
        refused_units, said = None, error.detail
        if fault := context.voucher_signer.fault:
            refused_units = self._undelivered.takeable_units(open_request)
            # The reading found another bill that is not accepted: that is why this one is not.
            said += "" if fault in said else f"; and then {fault}"
        cost = open_request.cost_so_far(context.deployment, refused_units)
        return type(error)(f"{said} ({cost})", **error.extensions)

    def _leave(self, *, broken: bool = False) -> None:
        self._payer.ended()
        self._context.voucher_signer.leave_unreceipted(self._open_request, broken=broken)

    def _hear_rest(self, response: aiohttp.ClientResponse) -> None:
        """Take what had arrived when the buyer left and was not read: text, or the receipt even.

        A buyer that pauses before it leaves has let the node run ahead of what it read.
        """
        with suppress(VizError, aiohttp.ClientError, OSError, RuntimeError):
            for event in self._arrived:
                self._take(event)
            raw = response.content.read_nowait()
            self._arrival.read(len(raw))
            for event in self._reader.feed(raw):
                self._take(event)

    def _take(self, event: ServerEvent) -> AnswerChunk | None:
        if event.name == NEED_VOUCHER_EVENT:
            self._payer.ask(said_in(event, NeedVoucher.from_json))
            return None
        if event.name == RECEIPT_EVENT:
            try:
                self._take_receipt(said_in(event, receipt_from_json))
            except VizError as error:
                if not isinstance(error, StoreError):
                    # Not a break of the line: such a bill counts, also if it is for what arrived.
                    self._open_request.excused_units = 0
                raise
            return None
        if event.data == "[DONE]":
            self._done = True
        if event.name or self._done:
            return None
        chunk = said_in(event, dict)
        if "error" in chunk:
            raise told_by(error_of(chunk, 200), self._context.api.who)
        if self._arrival.take(chunk):
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
        signer = self._context.voucher_signer
        if self.receipt is not None:
            # This answer is billed: a server on the way repeats itself, or repeated the request.
            # A bill for that is found among the receipts.
            return
        if not is_for(signed, expected):
            raise NodeUnreachable(
                "the bill does not match this request and this text: the answer was changed or "
                "swapped on the way"
            )
        try:
            check_receipt(signed, expected, self._admission.counter)
            if signed.receipt.seq <= signer.channel.seq:
                # It was read before, or the node gives a lost number anew: the next reading tells.
                self._context.sync.read_again()
            signer.take(signed, self._open_request)
        except (NodeNotTrusted, InvalidSignature) as error:
            # Only what the node signed accuses it for good; all else is an answer that broke off.
            own_link(signer.channel, signer.domain, signed)
            signer.distrust(error.detail)
            raise
        signer.answered(empty=not self.text)
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
        ended = self._free or self._open_request.ended_at_s
        if self.receipt is None and not ended and self._response is not None:
            self._hear_rest(self._response)
        if self.receipt is None:
            if self._free:
                self._context.voucher_signer.drop(self._open_request)
            else:
                self._leave()
            if self._response is not None:
                self._response.close()
        await self._stack.aclose()
