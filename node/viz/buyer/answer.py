"""One paid answer: admission, the stream, the money that keeps it flowing, the receipt.

Owns the course of a single request. Signs ahead in a task of its own, so that reading never waits
for paying. Does not know what the client may pay in total (``viz.buyer.purse``) nor what a caller
does with the chunks.

Invariants: what a request exposes grows only with what has arrived; an answer that ends without a
verified receipt leaves its exposure with the purse, so the books stay an upper bound.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp

from viz.buyer.events import EventReader, ServerEvent
from viz.buyer.node_api import error_of, problem_of
from viz.buyer.purse import Exposure
from viz.buyer.verify import (
    Agreed,
    Served,
    agreed_list_price,
    agreed_quote,
    check_receipt,
    prompt_bound,
)
from viz.domain.exchange import AdapterOffer
from viz.domain.payment import (
    NEED_VOUCHER_EVENT,
    QUOTE_HEADER,
    RECEIPT_EVENT,
    Challenge,
    NeedVoucher,
    receipt_from_json,
)
from viz.domain.receipt import SignedReceipt
from viz.domain.units import Units, hex_of
from viz.domain.wire import parse_json
from viz.errors import (
    AccessTokenInvalid,
    InvalidRequest,
    InvalidSignature,
    NodeNotTrusted,
    NodeRefused,
    NodeUnreachable,
    QuoteExpired,
    VizError,
)

if TYPE_CHECKING:
    from viz.buyer.client import BuyerClient

ADMISSIONS: Final = 6
Chunk = dict[str, Any]


class PaidAnswer:
    """A stream of OpenAI chunks that pays its way; made by ``BuyerClient.ask``."""

    def __init__(self, client: BuyerClient, path: str, body: dict[str, Any]) -> None:
        self._client = client
        self._path = path
        self._body = body
        self._request = json.dumps(body, ensure_ascii=False).encode()
        self._stack = AsyncExitStack()
        self._response: aiohttp.ClientResponse | None = None
        self._texts: dict[int, str] = {}
        self._text_bytes = 0
        self._pieces = 0
        self._offer: AdapterOffer
        self._agreed: Agreed
        self._exposure: Exposure
        self._prompt_tokens = 0
        self._start_units: Units = 0
        self._need: NeedVoucher | None = None
        self._pay_now = asyncio.Event()
        self._payer: asyncio.Task[None] | None = None
        self._failure: VizError | None = None
        self._free = False
        self.receipt: SignedReceipt | None = None

    @property
    def text(self) -> str:
        """What was delivered so far, choice after choice."""
        return "".join(self._texts[index] for index in sorted(self._texts))

    @property
    def cost_units(self) -> Units | None:
        """What the request cost, once its receipt is verified or it ended without owing any."""
        if self.receipt is None:
            return 0 if self._free else None
        return self.receipt.receipt.amount_units

    # admission

    async def __aenter__(self) -> Self:
        try:
            await self._admit()
        except BaseException:
            await self._stack.aclose()
            raise
        self._payer = asyncio.create_task(self._pay_on(), name="viz-buyer-payer")
        return self

    async def _admit(self) -> None:
        client = self._client
        await client.sync_if_behind()
        self._offer = await client.offer_of(self._body["model"])
        texts = _prompt_texts(self._body)
        self._prompt_tokens = prompt_bound(texts, len(texts), client.count_tokens)
        self._start_units = client.curve.spent_units(self._offer.adapter_id)
        self._exposure = self._stack.enter_context(client.purse.expose(self._offer.adapter_id, 0))
        for _ in range(ADMISSIONS):
            attempt = AsyncExitStack()
            try:
                if await self._attempt(attempt):
                    self._stack.push_async_callback(attempt.aclose)
                    return
            except BaseException:
                await attempt.aclose()
                raise
            await attempt.aclose()
        raise NodeRefused("the node keeps asking for payment: it does not accept what it is sent")

    async def _attempt(self, stack: AsyncExitStack) -> bool:
        """Ask once; say whether the answer began. False: what was missing is mended."""
        client = self._client
        known = client.quote_of(self._offer)
        self._agree(
            agreed_quote(*known) if known else agreed_list_price(self._offer, client.limits)
        )
        headers = {QUOTE_HEADER: hex_of(self._agreed.quote_hash)} if known else {}
        try:
            response = await stack.enter_async_context(
                client.api.generate(self._path, self._request, await client.token(), headers)
            )
        except AccessTokenInvalid:
            client.drop_token()
            return False
        except (QuoteExpired, InvalidRequest):
            # also a request for more tokens than the kept quote allows
            if known is None:
                raise
            client.drop_quote(self._offer)
            return False
        if response.status == 402:
            await self._answer_challenge(response)
            return False
        self._response = response
        return True

    async def _answer_challenge(self, response: aiohttp.ClientResponse) -> None:
        refusal = await problem_of(response)
        header = response.headers.get("WWW-Authenticate")
        if header is None:
            raise refusal
        client = self._client
        challenge = Challenge.from_header(header)
        client.accept_challenge(challenge, self._offer)
        known = client.quote_of(self._offer)
        if challenge.need is None or known is None:
            raise refusal
        self._agree(agreed_quote(*known))
        await self._cover(challenge.need)
        self._start_units = challenge.need.required_units

    # paying

    def _agree(self, agreed: Agreed) -> None:
        self._agreed = agreed
        self._expose()

    def _expose(self) -> None:
        """Let the request cost what has arrived, and one step more."""
        limits = self._client.limits
        ahead = min(self._max_tokens(), self._text_bytes + limits.step_tokens * self._choices())
        units = self._agreed.price.amount_units(self._prompt_tokens, ahead)
        self._exposure.units = min(limits.request_units, units)

    def _choices(self) -> int:
        asked = self._body.get("n")
        return asked if isinstance(asked, int) and asked > 0 else 1

    def _max_tokens(self) -> int:
        asked = self._body.get("max_completion_tokens") or self._body.get("max_tokens")
        most = self._agreed.max_tokens
        if isinstance(asked, int) and asked > 0:
            most = asked if most is None else min(most, asked)
        return (self._client.info.context_tokens if most is None else most) * self._choices()

    async def _cover(self, need: NeedVoucher) -> None:
        if need.adapter_id != self._offer.adapter_id:
            raise NodeNotTrusted("the node wants a voucher for an adapter that was not asked for")
        ahead = self._agreed.price.amount_units(0, self._client.limits.ahead_tokens)
        await self._client.sync_for(need.adapter_id, need.required_units)
        await self._client.purse.cover(
            need.adapter_id,
            required_units=need.required_units,
            wanted_units=need.required_units + ahead,
            base_units=need.base_units,
        )

    async def _pay_on(self) -> None:
        """Sign ahead as the answer arrives, and at once when the node asks."""
        client, ahead = self._client, self._client.limits.ahead_tokens
        try:
            while True:
                await self._pay_now.wait()
                self._pay_now.clear()
                need, self._need = self._need, None
                if need is not None:
                    await self._cover(need)
                    continue
                tokens = min(self._max_tokens(), self._pieces + ahead)
                await client.purse.cover(
                    self._offer.adapter_id,
                    required_units=0,
                    wanted_units=self._start_units + self._agreed.price.amount_units(0, tokens),
                )
        except VizError as error:
            self._failure = error
            if self._response is not None:
                self._response.close()

    # the stream

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        if self._response is None:
            raise NodeRefused("enter the answer with `async with` before reading it")
        reader = EventReader()
        try:
            async for raw in self._response.content.iter_any():
                for event in reader.feed(raw):
                    chunk = self._take(event)
                    if chunk is not None:
                        yield chunk
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._failure or NodeUnreachable(
                f"the node broke off the answer: {str(error) or type(error).__name__}"
            ) from error
        if self._failure is not None:
            raise self._failure
        if self.receipt is None:
            # Where nothing is owed there is no receipt: a prompt has a token at least.
            self._free = self._agreed.price.amount_units(1, self._text_bytes) == 0
        if self.receipt is None and not self._free:
            raise NodeNotTrusted("the node ended its answer without a receipt")

    def _take(self, event: ServerEvent) -> Chunk | None:
        if event.name == NEED_VOUCHER_EVENT:
            self._need = NeedVoucher.from_json(parse_json(event.data))
            self._pay_now.set()
            return None
        if event.name == RECEIPT_EVENT:
            self._take_receipt(receipt_from_json(parse_json(event.data)))
            return None
        if event.name or event.data == "[DONE]":
            return None
        chunk = parse_json(event.data, max_bytes=len(event.data))
        if "error" in chunk:
            raise error_of(chunk)
        if self._collect(chunk):
            self._expose()
            if self._pieces % max(1, self._client.limits.ahead_tokens // 2) == 0:
                self._pay_now.set()
        return chunk

    def _collect(self, chunk: Chunk) -> bool:
        """Keep the new text of a chunk of either kind; say whether there was any."""
        grew = False
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta")
            text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
            if isinstance(text, str) and text:
                index = int(choice.get("index", 0))
                self._texts[index] = self._texts.get(index, "") + text
                self._text_bytes += len(text.encode())
                self._pieces += 1
                grew = True
        return grew

    def _take_receipt(self, signed: SignedReceipt) -> None:
        served = Served(
            adapter_id=self._offer.adapter_id,
            agreed=self._agreed,
            request=self._request,
            prompt_bound_tokens=self._prompt_tokens,
            texts=tuple(self._texts[index] for index in sorted(self._texts)),
        )
        try:
            check_receipt(signed, served, count_tokens=self._client.count_tokens)
            self._client.purse.take(signed)
        except (NodeNotTrusted, InvalidSignature) as error:
            self._client.distrust(error.detail)
            raise
        self.receipt = signed

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._payer is not None:
            self._payer.cancel()
            await asyncio.gather(self._payer, return_exceptions=True)
        if self.receipt is None:
            self._client.purse.leave_unreceipted(self._exposure)
            if self._response is not None:
                self._response.close()
        await self._stack.aclose()


def _prompt_texts(body: dict[str, Any]) -> list[str]:
    """Return every text of a request that becomes part of its prompt."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        prompt = body.get("prompt", "")
        return [prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)]
    found: list[str] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else message
        found.append(content if isinstance(content, str) else json.dumps(content))
    return found
