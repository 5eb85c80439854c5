"""Handle custody: receive sealed works, hand out keys, and show the log of hand-outs.

Invariant: at most ``MAX_UPLOADS`` works are received at the same time, each at no less than
``LEAST_BYTES_A_S``; no body is read before the owner's signature and quota are checked.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import hdrs, web

from viz.api.bodies import body_of
from viz.api.context import PAYMENTS, ask_chain, asked_number, number_of, parts_of
from viz.errors import InvalidRequest, StorageBusy
from viz.protocol.custody import (
    CUSTODY_HEADER,
    CUSTODY_PATH,
    END_CUSTODY_PATH,
    HANDED_PATH,
    KEY_CHALLENGE_PATH,
    KEYS_PATH,
    KIND_NAMES,
    CustodyAnswer,
    HandedKeys,
    HandedKeyView,
    HandOver,
    SignedEndCustody,
    SignedKeyRequest,
)
from viz.protocol.wire import JSON_INTEGER_MAX, Reader

MAX_UPLOADS: Final = 4
# For slow lines: 16 MiB take eleven minutes.
LEAST_BYTES_A_S: Final = 25_000
UPLOAD_S: Final = 30


def routes() -> list[web.RouteDef]:
    """Return the routes of one application's custody."""
    return [
        web.post(KEY_CHALLENGE_PATH, challenge),
        web.post(KEYS_PATH, hand_out),
        web.get(HANDED_PATH, handed),
        web.post(CUSTODY_PATH, Uploads().take),
        web.post(END_CUSTODY_PATH, end),
    ]


async def challenge(request: web.Request) -> web.Response:
    """Answer a challenge that an account signs to hand a work over or to ask for a key."""
    _, body = await body_of(request)
    account = Reader(body, "the request").address("account")
    return web.json_response(parts_of(request).custodian.challenge(account).to_json())


async def hand_out(request: web.Request) -> web.Response:
    """Answer a key, wrapped for the requester, if the chain permits the requester to have it."""
    _, body = await body_of(request)
    asked = SignedKeyRequest.from_json(body)
    ask_chain(request)
    given = await parts_of(request).custodian.hand_out(asked)
    return web.json_response(given.to_json(), headers={hdrs.CACHE_CONTROL: "no-store"})


async def handed(request: web.Request) -> web.Response:
    """Answer to whom and when a work's or adapter's key was handed out."""
    kind = KIND_NAMES.get(request.match_info["kind"])
    if kind is None:
        raise InvalidRequest(f"there are keys of {' and '.join(KIND_NAMES)} only: use one of these")
    item_id = number_of(request, "item_id", JSON_INTEGER_MAX)
    found = await parts_of(request).custodian.handed(
        kind, item_id, after=asked_number(request, "after", 0)
    )
    views = tuple(
        HandedKeyView(each.seq, each.requester, each.cid, each.block, each.handed_at)
        for each in found
    )
    return web.json_response(HandedKeys(views).to_json())


async def end(request: web.Request) -> web.Response:
    """Destroy what the node holds of a work for its owner; answer the certificate."""
    _, body = await body_of(request)
    asked = SignedEndCustody.from_json(body)
    ask_chain(request)
    made = await parts_of(request).custody_ending.end(asked)
    return web.json_response(made.to_json())


class Uploads:
    """Receives sealed works, and limits the simultaneous uploads."""

    def __init__(self) -> None:
        self._under_way = 0

    async def take(self, request: web.Request) -> web.Response:
        """Receive a sealed work and its key from the work's owner."""
        said = HandOver.from_header(request.headers.get(CUSTODY_HEADER, ""))
        if request.content_length != said.custody.size_bytes:
            raise InvalidRequest(
                f"Content-Length is {request.content_length}, and {said.custody.size_bytes} bytes "
                "were signed: send the sealed work as the body, in one piece"
            )
        ask_chain(request, budget=PAYMENTS)
        if self._under_way >= MAX_UPLOADS:
            raise StorageBusy(f"{MAX_UPLOADS} works are being received here: try again")
        self._under_way += 1
        try:
            limit_s = UPLOAD_S + said.custody.size_bytes / LEAST_BYTES_A_S
            async with asyncio.timeout(limit_s):
                kept = await parts_of(request).custodian.take(said, request.content.iter_any())
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        finally:
            self._under_way -= 1
        answer = CustodyAnswer(kept.content_id, kept.cid, kept.size_bytes)
        return web.json_response(answer.to_json(), status=201)
