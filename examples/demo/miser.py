"""A buyer who pays the first step and nothing more: what the node gives is what was paid."""

from __future__ import annotations

import json
from dataclasses import dataclass

from examples.demo.world import DemoError
from viz.buyer.client import BuyerClient
from viz.domain.units import BASE_MODEL, Units, hex_of
from viz.protocol.payment import (
    CHAT_PATH,
    NEED_VOUCHER_EVENT,
    QUOTE_HEADER,
    RECEIPT_EVENT,
    Challenge,
    receipt_from_json,
)
from viz.protocol.sse import SseReader
from viz.protocol.wire import parse_json


@dataclass(frozen=True, slots=True)
class Stopped:
    """What came before the node stopped; ``needs`` counts how often it asked for more."""

    text: str
    needs: int
    paid_units: Units
    billed_units: Units


async def pay_once(client: BuyerClient, prompt: str, max_tokens: int) -> Stopped:
    """Ask the base model, sign one voucher for the first step, then only read until the end."""
    await client.sync()
    model = client.info.base_model
    offer = await client.offer_of(model)
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }
    body, token = json.dumps(asked).encode(), await client.token()
    async with client.api.generate(CHAT_PATH, body, token, {}) as refused:
        if refused.status != 402:
            raise DemoError(f"a request without money was answered {refused.status}, not 402")
        challenge = Challenge.from_header(refused.headers["WWW-Authenticate"])
    client.quotes.accept(challenge, client.info, offer, client.channel)
    known, need = client.quotes.of(offer), challenge.need
    if known is None or need is None:
        raise DemoError("the node's challenge names neither its price nor its need")
    paid = need.required_units
    quote = {QUOTE_HEADER: hex_of(known[0])}
    signer = client.voucher_signer
    with signer.open_request(BASE_MODEL, body) as open_request:
        open_request.units = paid
        signer.keep(open_request)
        await signer.cover(BASE_MODEL, required_units=paid, wanted_units=paid)
        async with client.api.generate(CHAT_PATH, body, token, quote) as answered:
            if answered.status != 200:
                raise DemoError(f"a request whose first step is paid got {answered.status}")
            events = SseReader().feed(await answered.content.read())
        receipts = [
            receipt_from_json(parse_json(e.data)) for e in events if e.name == RECEIPT_EVENT
        ]
        # Kept as every buyer keeps it: a bill that no request accounts for is refused later.
        signer.take(receipts[0], open_request)
    bodies = [parse_json(each.data) for each in events if not each.name and each.data[0] == "{"]
    texts = [body["choices"][0]["delta"].get("content") or "" for body in bodies]
    needs = sum(each.name == NEED_VOUCHER_EVENT for each in events)
    return Stopped("".join(texts), needs, paid, receipts[0].receipt.amount_units)
