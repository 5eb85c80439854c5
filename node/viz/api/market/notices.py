"""Receive notices of third parties, show them, and take the operator's answers."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from viz.api.access import OPERATOR_PATH, for_operator
from viz.api.bodies import body_of, trusted_body_of
from viz.api.context import ask_chain, asked_number, number_of, parts_of
from viz.errors import InvalidRequest
from viz.protocol.notices import (
    MAX_NOTICE_BYTES,
    NOTICES_PATH,
    NoticePage,
    SignedNotice,
    operators_json,
    published,
    view_of,
)
from viz.protocol.wire import JSON_INTEGER_MAX, Reader

ANSWERS: Final = {"uphold": True, "reject": False}


def routes() -> list[web.RouteDef]:
    """Return the routes of notices, the operator's included."""
    path = f"{OPERATOR_PATH}/notices"
    return [
        web.post(NOTICES_PATH, receive),
        web.get(NOTICES_PATH, notices),
        web.get(path, for_operator(all_notices)),
        web.get(f"{path}/{{notice_id}}", for_operator(notice)),
        web.post(f"{path}/{{notice_id}}", for_operator(answer)),
    ]


async def receive(request: web.Request) -> web.Response:
    """Keep a signed notice; the same one again is answered with what was kept."""
    _, body = await body_of(request, max_bytes=MAX_NOTICE_BYTES)
    signed = SignedNotice.from_json(body)
    ask_chain(request)
    parts = parts_of(request)
    kept, is_new = await parts.notices.accept(signed, served=parts.catalogue.known)
    return web.json_response(view_of(kept).to_json(), status=201 if is_new else 200)


async def notices(request: web.Request) -> web.Response:
    """Answer a page of the notices, and the rule by which they are answered."""
    kept = parts_of(request).notices
    page, following = kept.page(
        after=asked_number(request, "after", 0),
        adapter_id=asked_number(request, "adapter", 0),
        content_id=asked_number(request, "work", 0),
    )
    found = NoticePage(published(kept.rule), tuple(map(view_of, page)), following)
    return web.json_response(found.to_json())


async def all_notices(request: web.Request) -> web.Response:
    """Answer every notice with all that its notifier wrote."""
    kept = parts_of(request).notices
    return web.json_response({"notices": [operators_json(each) for each in kept.all()]})


async def notice(request: web.Request) -> web.Response:
    """Answer one notice with all that its notifier wrote."""
    found = parts_of(request).notices.get(number_of(request, "notice_id", JSON_INTEGER_MAX))
    return web.json_response(operators_json(found))


async def answer(request: web.Request) -> web.Response:
    """Keep the operator's answer to a notice."""
    _, body = await trusted_body_of(request)
    reader = Reader(body, "the answer")
    given = reader.text("answer")
    if given not in ANSWERS:
        raise InvalidRequest(f"the answer is {given[:40]!r}: write {' or '.join(ANSWERS)}")
    done = await parts_of(request).notices.answer(
        number_of(request, "notice_id", JSON_INTEGER_MAX),
        upholds=ANSWERS[given],
        reason=reader.text("reason"),
    )
    return web.json_response(operators_json(done))
