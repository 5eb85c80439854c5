"""Answer the payment method's requests: sessions, channels, vouchers, closes."""

from __future__ import annotations

import json
from typing import Final

from aiohttp import web

from viz.api.bodies import body_of
from viz.api.context import LOGINS, LOOKS, PAYMENTS, access_of, ask_chain, name_channel, parts_of
from viz.domain.node_channel import PresentedVoucher
from viz.domain.ports.ledger import AccessRecord
from viz.domain.units import Address, parse_address
from viz.errors import AccessTokenInvalid, InvalidRequest
from viz.protocol import payment
from viz.protocol.credential import (
    CloseRequest,
    Credential,
    Deposit,
    credential_from_header,
    voucher_from_text,
)
from viz.protocol.messages import SessionProof, session_challenge_to_json
from viz.protocol.wire import Reader

LOOK_KEPT_S: Final = 2


def routes() -> list[web.RouteDef]:
    """Return the routes of the payment method."""
    return [
        web.post(payment.SESSION_CHALLENGE_PATH, challenge),
        web.post(payment.SESSIONS_PATH, session),
        web.post(payment.CHANNELS_PATH, deposit),
        web.get(payment.CHANNEL_PATH, channel),
        web.get(payment.RECEIPTS_PATH, receipts),
        web.post(payment.VOUCHERS_PATH, voucher),
        web.post(payment.CLOSE_PATH, close),
    ]


async def challenge(request: web.Request) -> web.Response:
    """Answer the Session that the signer must sign to get an access token."""
    _, body = await body_of(request)
    signer = Reader(body, "the request").address("signer")
    return web.json_response(
        session_challenge_to_json(parts_of(request).sessions.challenge(signer))
    )


async def session(request: web.Request) -> web.Response:
    """Exchange a signed Session for an access token."""
    _, body = await body_of(request)
    proof = SessionProof.from_json(body)
    parts = parts_of(request)
    ask_chain(request, parts.vouchers.payer_behind(proof), budget=LOGINS)
    token = await parts.sessions.open_session(proof)
    return web.json_response(token.to_json(), headers={"Cache-Control": "no-store"})


async def deposit(request: web.Request) -> web.Response:
    """Relay the opening or the top-up of a channel."""
    # Refuse a deposit at a node that sells nothing.
    parts_of(request).engines.require_any("a channel")
    credential = _credential(request)
    if not isinstance(credential, Deposit):
        raise InvalidRequest("this resource takes the actions open and topUp")
    name_channel(request, credential.signer)
    ask_chain(request, budget=PAYMENTS)
    try:
        view = await parts_of(request).deposit_relay.relay(credential)
    finally:
        request.app[LOOKS].forget(_look(credential.signer))
    return web.json_response(view.to_json())


async def channel(request: web.Request) -> web.Response:
    """Answer a channel: its public part to anybody, all of it to its signer."""
    signer = parse_address(request.match_info["signer"])
    name_channel(request, signer)
    private = False
    if "Authorization" in request.headers:
        private = (await access_of(request)).signer == signer
    vouchers = parts_of(request).vouchers
    if private:
        return web.json_response((await vouchers.view(signer, private=True)).to_json())
    view = await request.app[LOOKS].get(
        _look(signer),
        lambda: vouchers.view(signer, private=False),
        kept_s=LOOK_KEPT_S,
        admit=lambda: ask_chain(request, signer),
    )
    return web.json_response(view.to_json())


async def receipts(request: web.Request) -> web.Response:
    """Answer the receipts after a given number, to the channel's signer only."""
    signer = parse_address(request.match_info["signer"])
    name_channel(request, signer)
    if (await access_of(request)).signer != signer:
        raise AccessTokenInvalid(f"the access token is not that of {signer}")
    after = request.query.get("after", "0")
    if not (after.isascii() and after.isdecimal() and len(after) <= 18):
        raise InvalidRequest("'after' is the number of a receipt")
    rows = await parts_of(request).ledger.receipts(
        signer, after=int(after), limit=payment.MAX_RECEIPTS
    )
    return web.json_response({"receipts": [json.loads(row.body) for row in rows]})


async def voucher(request: web.Request) -> web.Response:
    """Take a voucher, and answer after it is on disk."""
    credential = _credential(request)
    if not isinstance(credential, PresentedVoucher):
        raise InvalidRequest("this resource takes the action voucher")
    name_channel(request, credential.signer)
    vouchers = parts_of(request).vouchers
    ask_chain(request, vouchers.payer_behind(credential), budget=PAYMENTS)
    return web.json_response((await vouchers.accept(credential)).to_json())


async def take_voucher_of(request: web.Request, access: AccessRecord) -> None:
    """Accept the voucher in a request's header, if there is one; return once it is on disk.

    Raises the errors of the voucher route, and WrongDomain for another signer's voucher.
    """
    text = request.headers.get(payment.VOUCHER_HEADER)
    if text is None:
        return
    presented = voucher_from_text(text)
    vouchers = parts_of(request).vouchers
    ask_chain(request, vouchers.payer_behind(presented), budget=PAYMENTS)
    await vouchers.accept_on_request(presented, access.signer)


async def close(request: web.Request) -> web.Response:
    """Close a channel at the payer's signed request."""
    credential = _credential(request)
    if not isinstance(credential, CloseRequest):
        raise InvalidRequest("this resource takes the action close")
    name_channel(request, credential.request.signer)
    ask_chain(request, budget=PAYMENTS)
    try:
        done = await parts_of(request).channel_close.close(credential)
    finally:
        request.app[LOOKS].forget(_look(credential.request.signer))
    return web.json_response(done.to_json())


def _look(signer: Address) -> tuple[str, Address]:
    return ("channel", signer)


def _credential(request: web.Request) -> Credential:
    return credential_from_header(request.headers.get("Authorization", ""))
