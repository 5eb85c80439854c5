"""Serve OpenAI's interface for payment: models, chat completions, completions.

Owns the life of a paid HTTP request around ``viz.services.serving.admission``: who asks, the 402
answer that says what is missing, the stream of events or the whole answer, and idempotent repeats.
A client that did not opt in gets plain OpenAI events; the data about payment is only in comments
and headers.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog
from aiohttp import web

from viz.api.access import bears_our_token
from viz.api.bodies import STRANGER_BODY_BYTES, is_large, trusted_body_of
from viz.api.context import (
    REQUEST_ID,
    RUNNING,
    NodeContext,
    access_of,
    name_channel,
    parts_of,
    send,
)
from viz.api.monitoring.metrics import METRICS
from viz.api.openai.answer import Answer, Choice, model_entry, usage
from viz.api.openai.named_requests import NAMED, NamedRequest
from viz.api.openai.repeats import Repeat
from viz.api.openai.request import read_chat, read_completion
from viz.api.payments import take_voucher_of
from viz.api.problems import ID_HEADER, problem_body
from viz.api.unpaid_help import how_to_pay
from viz.domain.ports.engine import Sampling
from viz.domain.ports.ledger import AccessRecord, AnswerRecord
from viz.domain.pricing import Price
from viz.domain.receipt import SignedReceipt
from viz.domain.text_request import TextRequest
from viz.domain.units import BASE_MODEL, Hash32, parse_hash
from viz.errors import ChannelUnknown, PaymentRequired, StoreConflict, VizError
from viz.protocol.messages import AdapterOffer
from viz.protocol.payment import (
    ACCEPT_HEADER,
    ACCEPT_VALUE,
    CHAT_PATH,
    COMPLETIONS_PATH,
    MODELS_PATH,
    NAME_HEADER,
    NEED_VOUCHER_EVENT,
    PRICE_HEADER,
    QUOTE_HEADER,
    RECEIPT_EVENT,
    RECEIPT_HEADER,
    Challenge,
    NeedVoucher,
    price_from_header,
    receipt_to_json,
)
from viz.protocol.sse import DONE, EVENT_STREAM, json_line, sse_comment, sse_event
from viz.protocol.wire import Json, to_base64url
from viz.services.serving.paid_stream import Done, PaidStream

_log = structlog.get_logger()


def routes() -> list[web.RouteDef]:
    """Return OpenAI's routes."""
    return [
        web.get(MODELS_PATH, models),
        web.get(MODELS_PATH + "/{model}", model),
        web.post(CHAT_PATH, chat),
        web.post(COMPLETIONS_PATH, completions),
    ]


async def models(request: web.Request) -> web.Response:
    """Answer the models on offer."""
    return web.json_response({"object": "list", "data": _models(parts_of(request))})


async def model(request: web.Request) -> web.Response:
    """Answer one model."""
    parts = parts_of(request)
    offer = parts.catalogue.find(request.match_info["model"])
    return web.json_response(next(each for each in _models(parts) if each["id"] == offer.model))


async def chat(request: web.Request) -> web.StreamResponse:
    """Answer a chat completion."""
    access, raw, body = await _paid_body(request)
    most = parts_of(request).serving.policy.max_choices
    return await _serve_once(request, access, raw, read_chat(body, max_choices=most))


async def completions(request: web.Request) -> web.StreamResponse:
    """Answer a completion."""
    access, raw, body = await _paid_body(request)
    most = parts_of(request).serving.policy.max_choices
    return await _serve_once(request, access, raw, read_completion(body, max_choices=most))


async def _paid_body(request: web.Request) -> tuple[AccessRecord, bytes, Json]:
    """Return the access, the body as sent, and as JSON; authenticate before reading the body."""
    parts = parts_of(request)
    if not bears_our_token(request):
        origin = parts.sessions.origin
        raise _challenged(parts, PaymentRequired(how_to_pay(origin), help=f"{origin}/"))
    access = await access_of(request)
    name_channel(request, access.signer)
    if is_large(request) and not await parts.vouchers.has_money(access.signer):
        error = PaymentRequired(
            f"only who has a deposit here may send more than {STRANGER_BODY_BYTES} bytes: open a "
            "channel first"
        )
        raise _challenged(parts, error)
    return access, *await trusted_body_of(request)


def _models(parts: NodeContext) -> list[Json]:
    created = {record.adapter_id: record for record in parts.catalogue.records()}
    found: list[Json] = []
    for offer in parts.catalogue.offers():
        record = created.get(offer.adapter_id)
        extra: dict[str, Any] = {"viz": offer.to_json()}
        owner = "base" if offer.adapter_id == BASE_MODEL else parts.sessions.node
        found.append(model_entry(offer.model, record.created_at if record else 0, owner, extra))
    return found


def _sampling(wanted: TextRequest, offer: AdapterOffer) -> Sampling:
    """Return how to choose tokens; without a temperature in the request, use the adapter's."""
    if wanted.names_temperature or offer.card is None:
        return wanted.sampling
    return replace(wanted.sampling, temperature=offer.card.default_temperature)


async def _serve_once(
    request: web.Request, access: AccessRecord, raw: bytes, wanted: TextRequest
) -> web.StreamResponse:
    name = request.headers.get(NAME_HEADER)
    with request.app[NAMED].once(access.signer, name) as named:
        return await _serve(request, access, raw, wanted, named)


async def _serve(
    request: web.Request,
    access: AccessRecord,
    raw: bytes,
    wanted: TextRequest,
    named: NamedRequest,
) -> web.StreamResponse:
    parts = parts_of(request)
    offer = parts.catalogue.find(wanted.model)
    wanted = replace(wanted, sampling=_sampling(wanted, offer))
    quote_hash, list_price = _price_of(request)
    repeat = Repeat.of(request, access, raw)
    shape = Answer(
        f"{'chatcmpl' if wanted.chat else 'cmpl'}-{request[REQUEST_ID]}{secrets.token_hex(4)}",
        parts.clock.now_s(),
        offer.model,
        wanted.chat,
        wanted.sampling.logprobs is not None,
        wanted.stream and wanted.include_usage,
    )
    writer = AnswerWriter(request, wanted, shape, repeat)
    running = request.app[RUNNING]
    if repeat is not None:
        if repeat.name in running:
            raise StoreConflict("a request with this idempotency key is under way: wait for it")
        running.add(repeat.name)
    try:
        # Before a stored answer is looked up: status 200 means that the voucher was accepted.
        await take_voucher_of(request, access)
        # Look for a stored answer after the key is marked as running. Otherwise the first request
        # could end in between, and the answer would be generated twice.
        if repeat is not None and (kept := await repeat.earlier(parts)) is not None:
            return kept
        async with parts.serving.open(
            wanted,
            offer,
            access,
            request_id=request[REQUEST_ID],
            body=raw,
            name=named.name,
            quote_hash=quote_hash,
            list_price=list_price,
        ) as stream:
            named.served = True
            return await (writer.stream(stream) if wanted.stream else writer.whole(stream))
    except (PaymentRequired, ChannelUnknown) as error:
        raise _challenged(parts, error) from error
    finally:
        if repeat is not None:
            running.discard(repeat.name)


def _price_of(request: web.Request) -> tuple[Hash32 | None, Price | None]:
    quote, price = (request.headers.get(name) for name in (QUOTE_HEADER, PRICE_HEADER))
    return (
        None if quote is None else parse_hash(quote),
        None if price is None else price_from_header(price),
    )


def _challenged(parts: NodeContext, error: VizError) -> VizError:
    """Return the error with the challenge that says how to pay."""
    deployment = parts.chain.deployment
    price = parts.catalogue.list_price_of(parts.engines.first_model.digest)
    challenge = Challenge(
        secrets.token_urlsafe(12),
        parts.sessions.origin,
        deployment.chain_id,
        deployment.settlement,
        parts.sessions.node,
        parts.terms.suggested_deposit_units,
        price.amount_units(0, parts.serving.policy.step_tokens),
        quote=error.extensions.get("quote"),
        need=error.extensions.get("need"),
    )
    return type(error)(error.detail, **{**error.extensions, "challenge": challenge})


class AnswerWriter:
    """Write the answer to one admitted request."""

    def __init__(
        self, request: web.Request, wanted: TextRequest, shape: Answer, repeat: Repeat | None
    ) -> None:
        self._request = request
        self._parts = parts_of(request)
        self._wanted = wanted
        self._shape = shape
        self._repeat = repeat
        self._opted_in = ACCEPT_VALUE in request.headers.get(ACCEPT_HEADER, "").replace(" ", "")
        self._choices = [Choice() for _ in range(wanted.choices)]
        self._sent: list[bytes] = []

    async def whole(self, stream: PaidStream) -> web.Response:
        """Collect the text, bill it, and return it as one answer."""
        async for event in stream.events():
            if not isinstance(event, NeedVoucher):
                self._choices[event.choice].add(event.piece)
        bodies: list[bytes] = []

        def answer(_: SignedReceipt | None) -> AnswerRecord | None:
            used = usage(stream.prompt_tokens, stream.completion_tokens)
            bodies[:] = [json.dumps(self._shape.whole(self._choices, used)).encode()]
            if self._repeat is None:
                return None
            return self._repeat.record("application/json", bodies[0], self._parts.clock.now_s())

        done = await stream.finish(answer)
        self._count(done)
        headers = {}
        if done.receipt is not None:
            headers[RECEIPT_HEADER] = to_base64url(receipt_to_json(done.receipt))
        return web.Response(body=bodies[0], content_type="application/json", headers=headers)

    async def stream(self, stream: PaidStream) -> web.StreamResponse:
        """Send events as they come; bill at the end, or when the buyer disconnects."""
        headers = {
            "Content-Type": EVENT_STREAM,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            ID_HEADER: self._request[REQUEST_ID],
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(self._request)
        try:
            await self._events(response, stream)
        except ConnectionResetError as error:
            _log.info("the buyer left; what was sent is billed", reason=str(error))
        except VizError as error:
            _log.warning("the stream broke", code=error.code, reason=error.detail)
            with suppress(ConnectionResetError):
                said = problem_body(error, self._request[REQUEST_ID])
                await send(self._request, response, sse_event(said))
        except Exception as error:  # noqa: BLE001  too late for an error status: break off
            _log.error("unexpected, in a stream", exc_info=error)
            response.force_close()
        return response

    async def _events(self, response: web.StreamResponse, stream: PaidStream) -> None:
        if self._wanted.chat:
            for index in range(self._wanted.choices):
                await self._write(response, sse_event(self._shape.opening(index)))
        async for event in stream.events():
            if isinstance(event, NeedVoucher):
                # Sent but not stored: a repeated answer must not ask for money again.
                need = self._aside(NEED_VOUCHER_EVENT, event.to_json())
                await send(self._request, response, need)
                continue
            choice = self._choices[event.choice]
            choice.add(event.piece)
            if event.piece.text or event.piece.logprobs:
                offsets = choice.offsets[len(choice.tokens) - len(event.piece.logprobs) :]
                await self._write(
                    response, self._shape.piece_event(event.choice, event.piece, offsets)
                )
        for index, choice in enumerate(self._choices):
            await self._write(
                response, sse_event(self._shape.closing(index, choice.finish or "length"))
            )
        tail: list[bytes] = []

        def answer(receipt: SignedReceipt | None) -> AnswerRecord | None:
            tail[:] = [self._tail(stream, receipt)]
            if self._repeat is None:
                return None
            whole = b"".join((*self._sent, *tail))
            return self._repeat.record(EVENT_STREAM, whole, self._parts.clock.now_s())

        self._count(await stream.finish(answer))
        await send(self._request, response, b"".join(tail), last=True)

    def _tail(self, stream: PaidStream, receipt: SignedReceipt | None) -> bytes:
        parts: list[bytes] = []
        if self._wanted.include_usage:
            used = usage(stream.prompt_tokens, stream.completion_tokens)
            parts.append(sse_event(self._shape.usage(used)))
        if receipt is not None:
            parts.append(self._aside(RECEIPT_EVENT, receipt_to_json(receipt)))
        return b"".join((*parts, DONE))

    def _aside(self, name: str, data: Json) -> bytes:
        """Return a payment event; for a client that did not opt in, return it as a comment."""
        if self._opted_in:
            return sse_event(data, name)
        return sse_comment(f"{name} {json_line(data)}")

    async def _write(self, response: web.StreamResponse, event: bytes) -> None:
        await send(self._request, response, event)
        if self._repeat is not None:
            self._sent.append(event)

    def _count(self, done: Done) -> None:
        amount = done.receipt.receipt.amount_units if done.receipt else 0
        self._request.app[METRICS].billed(done.prompt_tokens, done.completion_tokens, amount)
