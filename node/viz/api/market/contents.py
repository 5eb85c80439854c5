"""Answer works as the chain has them, and register works for creators who hold no gas."""

from __future__ import annotations

from aiohttp import web

from viz.api.bodies import body_of
from viz.api.context import LOOKS, PAYMENTS, NodeContext, ask_chain, number_of, parts_of
from viz.api.serialise import notices_json
from viz.domain.units import ContentId, hex_of, parse_address
from viz.errors import LicenseError
from viz.protocol.registration import (
    CONTENTS_PATH,
    REGISTRATION_CONTEXT_PATH,
    STATE_KEPT_S,
    RegistrationAnswer,
    SignedRegistration,
)
from viz.protocol.wire import Json


def routes() -> list[web.RouteDef]:
    """Return the routes of works and of their registration."""
    return [
        web.get(REGISTRATION_CONTEXT_PATH, registration_context),
        web.get(CONTENTS_PATH + "/{content_id}", content),
        web.post(CONTENTS_PATH, register),
    ]


async def registration_context(request: web.Request) -> web.Response:
    """Answer the data that a creator needs to sign the registration of a work."""
    ask_chain(request)
    parts = parts_of(request)
    creator = parse_address(request.match_info["creator"])
    found = await parts.creator_relay.registration_context(creator)
    return web.json_response(found.to_json())


async def content(request: web.Request) -> web.Response:
    """Answer a work as the chain has it, with its terms if it is still licensed."""
    content_id = ContentId(number_of(request, "content_id", 2**53 - 1))
    parts = parts_of(request)
    found = await request.app[LOOKS].get(
        ("content", content_id),
        lambda: _content(parts, content_id),
        kept_s=STATE_KEPT_S,
        admit=lambda: ask_chain(request),
    )
    # Not kept with the chain's answer: a notice shows at once.
    noticed = parts.notices.on_work(content_id)
    if (trainer := request.query.get("trainer")) is not None:
        # Not kept either: who asks is about to sign.
        ask_chain(request)
        owner, named = parse_address(found["owner"]), parse_address(trainer)
        found = found | {"approved": await parts.chain.approved(content_id, owner, named)}
    return web.json_response(found | (notices_json(noticed) if noticed else {}))


async def _content(parts: NodeContext, content_id: ContentId) -> Json:
    state = await parts.chain.content(content_id)
    if state is None:
        raise LicenseError(f"there is no work {content_id}: check the id")
    found: Json = {
        "contentId": int(content_id),
        "owner": state.owner,
        "creator": state.creator,
        "commitment": hex_of(state.commitment),
        "termsHash": hex_of(state.terms_hash),
        "withdrawnAt": state.withdrawn_at,
    }
    if not state.withdrawn_at:
        offer = await parts.grants.offer(content_id)
        terms = {name: getattr(offer.terms, name) for name in offer.terms.__slots__}
        found |= {"licenseHash": hex_of(offer.license_hash), "terms": terms}
    return found


async def register(request: web.Request) -> web.Response:
    """Submit a creator's signed registration at the node's expense."""
    _, body = await body_of(request)
    signed = SignedRegistration.from_json(body)
    ask_chain(request, budget=PAYMENTS)
    done = await parts_of(request).creator_relay.relay_registration(
        signed.register, signed.signature
    )
    answer = RegistrationAnswer(done.content_id, done.transaction.hash)
    return web.json_response(answer.to_json(), status=201)
