"""Relay what works' owners sign, and answer an account's works and balances."""

from __future__ import annotations

from typing import Final, TypeVar

from aiohttp import web

from viz.api.bodies import body_of
from viz.api.context import LOOKS, PAYMENTS, NodeContext, ask_chain, number_of, parts_of
from viz.domain.units import Address, ContentId, parse_address
from viz.errors import InvalidRequest
from viz.protocol.destruction import CERTIFICATES_PATH, Certificates
from viz.protocol.owner_actions import (
    ACCOUNT_PATH,
    APPROVALS_PATH,
    OWNED_PAGE,
    OWNED_PATH,
    TERMS_PATH,
    WITHDRAWALS_PATH,
    AccountView,
    ActionAnswer,
    OwnedWorks,
    SignedAction,
    SignedApproval,
    SignedTerms,
    SignedWithdrawal,
)
from viz.protocol.registration import STATE_KEPT_S
from viz.protocol.wire import JSON_INTEGER_MAX

_ID_DIGITS: Final = 15
ACCOUNT_READS: Final = 4
A = TypeVar("A", SignedTerms, SignedApproval, SignedWithdrawal)


def routes() -> list[web.RouteDef]:
    """Return the routes for owners of works."""
    return [
        web.post(TERMS_PATH, set_terms),
        web.post(APPROVALS_PATH, approve),
        web.post(WITHDRAWALS_PATH, withdraw),
        web.get(ACCOUNT_PATH, account),
        web.get(OWNED_PATH, owned),
        web.get(CERTIFICATES_PATH, certificates),
    ]


async def set_terms(request: web.Request) -> web.Response:
    """Relay an owner's new terms at the node's expense."""
    return await _submit(request, await _read(request, SignedTerms))


async def approve(request: web.Request) -> web.Response:
    """Relay an owner's approval of a trainer, or its end, at the node's expense."""
    return await _submit(request, await _read(request, SignedApproval))


async def withdraw(request: web.Request) -> web.Response:
    """Relay an owner's withdrawal of a work at the node's expense."""
    return await _submit(request, await _read(request, SignedWithdrawal))


async def _read(request: web.Request, kind: type[A]) -> A:
    _, body = await body_of(request)
    return kind.from_json(body)


async def _submit(request: web.Request, signed: SignedAction) -> web.Response:
    ask_chain(request, budget=PAYMENTS)
    content_id = signed.action.content_id
    try:
        sent = await parts_of(request).creator_relay.relay_action(signed.action, signed.signature)
    finally:
        request.app[LOOKS].forget(("content", content_id))
    return web.json_response(ActionAnswer(content_id, sent.hash).to_json())


async def account(request: web.Request) -> web.Response:
    """Answer an account's tokens, its balance in Settlement, and its coin for gas."""
    asked, parts = parse_address(request.match_info["account"]), parts_of(request)
    view = await request.app[LOOKS].get(
        ("account", asked),
        lambda: _view(parts, asked),
        kept_s=STATE_KEPT_S,
        admit=lambda: ask_chain(request, weight=ACCOUNT_READS),
    )
    return web.json_response(view.to_json())


async def certificates(request: web.Request) -> web.Response:
    """Answer the signed certificates of what this node destroyed of a withdrawn work."""
    content_id = ContentId(number_of(request, "content_id", JSON_INTEGER_MAX))
    found = await parts_of(request).destruction.certificates(content_id)
    return web.json_response(Certificates(found).to_json())


async def _view(parts: NodeContext, asked: Address) -> AccountView:
    chain = parts.chain
    return AccountView(
        asked,
        await chain.token_balance(asked),
        await chain.collectable(asked),
        await chain.collected_to(asked),
        await chain.coin_wei(asked),
    )


async def owned(request: web.Request) -> web.Response:
    """Answer the works that an account owns, a bounded number of ids at a time."""
    asked, parts = parse_address(request.match_info["account"]), parts_of(request)
    text = request.query.get("after", "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= _ID_DIGITS):
        raise InvalidRequest("'after' must be the id of a work")
    after = int(text)
    found = await request.app[LOOKS].get(
        ("owned", asked, after),
        lambda: _owned(parts, asked, after),
        kept_s=STATE_KEPT_S,
        admit=lambda: ask_chain(request),
    )
    return web.json_response(found.to_json())


async def _owned(parts: NodeContext, asked: Address, after: int) -> OwnedWorks:
    count = await parts.chain.content_count()
    last = min(count, after + OWNED_PAGE)
    ids = [ContentId(each) for each in range(after + 1, last + 1)]
    owners = await parts.chain.owners(ids) if ids else ()
    works = tuple(int(each) for each, owner in zip(ids, owners, strict=True) if owner == asked)
    return OwnedWorks(asked, works, last if ids else after, count)
