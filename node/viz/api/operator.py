"""Answer the operator's commands: train, license, publish, activate, settle, show.

The commands go through the running daemon, because two senders with one key would use the same
nonces. They are accepted only from this machine, and only with the token from a file that only the
operator can read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import structlog
from aiohttp import web

from viz.api import operator_settlement as money
from viz.api import operator_works as works
from viz.api.access import OPERATOR_PATH, for_operator
from viz.api.bodies import trusted_body_of
from viz.api.context import STOPPING, NodeContext, adapter_of, parts_of
from viz.api.serialise import plain, training_json
from viz.domain.card import ReportCard, card_of
from viz.domain.ports.ledger import AdapterRecord, OfferedWork, TrainingRecord
from viz.domain.shares import MAX_SHARES
from viz.domain.units import BPS, UINT64_MAX, AdapterId, ContentId, Hash32, hex_of
from viz.errors import InvalidRequest, UnknownAdapter, VizError
from viz.protocol.messages import AdapterOffer
from viz.protocol.wire import JSON_INTEGER_MAX, MAX_TEXT_CHARS, Json, Reader
from viz.services.market.work_records import titles_of
from viz.services.training.succession import plan_succession

_log = structlog.get_logger()


def routes() -> list[web.RouteDef]:
    """Return the operator's routes."""
    path = OPERATOR_PATH
    return [
        web.get(f"{path}/status", for_operator(money.status)),
        web.get(f"{path}/channels", for_operator(money.channels)),
        web.post(f"{path}/settle", for_operator(money.settle)),
        web.get(f"{path}/royalties", for_operator(money.royalties)),
        web.post(f"{path}/distribute", for_operator(money.distribute)),
        web.post(f"{path}/collect", for_operator(money.collect)),
        web.post(f"{path}/grants", for_operator(grant)),
        web.post(f"{path}/works", for_operator(works.fetch)),
        web.post(f"{path}/adapters/permissions", for_operator(works.permit)),
        web.post(f"{path}/adapters", for_operator(activate)),
        web.post(f"{path}/publications", for_operator(publish)),
        web.delete(f"{path}/adapters/{{adapter_id}}", for_operator(drop)),
        web.get(f"{path}/adapters/{{adapter_id}}/succession", for_operator(succession)),
        web.get(f"{path}/trainings", for_operator(trainings)),
        web.post(f"{path}/trainings", for_operator(train)),
        web.get(f"{path}/trainings/{{training_id}}", for_operator(training)),
        web.get(f"{path}/trainings/{{training_id}}/events", for_operator(training_events)),
        web.delete(f"{path}/trainings/{{training_id}}", for_operator(cancel_training)),
    ]


# licenses, adapters, trainings


async def grant(request: web.Request) -> web.Response:
    """Buy a grant to a work, for at most the fee that the request names."""
    _, body = await trusted_body_of(request)
    reader = Reader(body, "the request")
    content_id = ContentId(reader.integer("contentId", JSON_INTEGER_MAX))
    state = await parts_of(request).licensing.acquire_grant(
        content_id,
        expected_terms=reader.optional("termsHash", reader.hash32),
        max_fee_units=reader.optional("maxFee", reader.units),
    )
    return web.json_response(plain(state))


async def publish(request: web.Request) -> web.Response:
    """Store a training run's adapter, register it with its royalties, and put it on offer.

    ``shares`` ([[contentId, bps], ...]) replace the default shares, which are in proportion to the
    works' sizes. If the registration is not confirmed yet, or the adapter cannot be loaded,
    ``offer`` is null, and ``detail`` says what to do.
    """
    parts = parts_of(request)
    _, body = await trusted_body_of(request)
    reader = Reader(body, "the request")
    record = await parts_of(request).trainings.record(reader.text("trainingId"))
    publication = parts_of(request).trainings.publication(
        record,
        royalty_bps=reader.integer("royaltyBps", BPS),
        trainer_bps=reader.integer("trainerBps", BPS),
        anyway=bool(reader.optional("anyway", reader.boolean)),
    )
    if reader.has("shares"):
        publication = replace(publication, shares=_shares(reader.array("shares", MAX_SHARES)))
    published = await parts.publishing.publish(publication)
    answer: Json = plain(published)
    try:
        await parts.trainings.published(record.training_id, published.adapter_id, published.cid)
        answer["offer"] = (await _put_on_offer(parts, published.adapter_id, reader)).to_json()
        if (before := reader.optional("succeeds", reader.integer)) is not None:
            await parts.catalogue.succeed(AdapterId(before), published.adapter_id)
    except Exception as error:  # noqa: BLE001  it is registered: the operator must learn the id now
        answer["offer"] = None
        answer["detail"] = _not_on_offer(published.adapter_id, error)
    return web.json_response(answer, status=201)


def _not_on_offer(adapter_id: AdapterId, error: Exception) -> str:
    """Say what the operator must do to put a registered adapter on offer."""
    activate = f"`viz adapter activate {adapter_id}`"
    if isinstance(error, UnknownAdapter):
        return (
            f"adapter {adapter_id} is registered and not confirmed yet: put it on offer later with "
            f"{activate}"
        )
    if isinstance(error, VizError):
        reason = error.detail
    else:
        reason = "an unexpected error, which is in the log"
        _log.error("a registered adapter is not on offer", adapter=adapter_id, exc_info=error)
    return (
        f"adapter {adapter_id} is registered and could not be put on offer ({reason}): do not "
        f"register it again, put it on offer with {activate}"
    )


def _shares(rows: Sequence[Any]) -> list[tuple[ContentId, int]]:
    try:
        return [(ContentId(int(row[0])), int(row[1])) for row in rows]
    except (TypeError, ValueError, LookupError) as error:
        raise InvalidRequest("shares must be [[contentId, bps], ...]") from error


def _titles(rows: Sequence[Any]) -> dict[ContentId, str]:
    try:
        return {ContentId(int(key)): str(title)[:MAX_TEXT_CHARS] for key, title in rows}
    except (TypeError, ValueError) as error:
        raise InvalidRequest("titles must be [[contentId, title], ...]") from error


async def activate(request: web.Request) -> web.Response:
    """Fetch a registered adapter, load it, and put it on offer."""
    _, body = await trusted_body_of(request)
    reader = Reader(body, "the request")
    adapter_id = AdapterId(reader.integer("adapterId"))
    offer = await _put_on_offer(parts_of(request), adapter_id, reader)
    return web.json_response(offer.to_json(), status=201)


async def _put_on_offer(parts: NodeContext, adapter_id: AdapterId, reader: Reader) -> AdapterOffer:
    """Load a registered adapter and sell it under the name and prices that ``reader`` gives.

    If ``reader`` does not give a value, an adapter that was on offer before keeps its old one. A
    new adapter that was trained here gets the name and description of its training request.
    """

    def units(name: str) -> int:
        return reader.units(name, UINT64_MAX)

    given: dict[str, Any] = {
        "name": reader.optional("name", reader.text) or None,
        "description": reader.optional("description", reader.text),
        "prompt_units_per_million": reader.optional("promptPrice", units),
        "completion_units_per_million": reader.optional("completionPrice", units),
    }
    state = await parts.publishing.activate(adapter_id)
    fresh = AdapterRecord(
        adapter_id,
        f"adapter {adapter_id}",
        "",
        state.base_model,
        state.weights_digest,
        state.cid,
        state.manifest_hash,
        str(parts.publishing.path_of(state.weights_digest)),
        parts.catalogue.list_price.prompt_price_units,
        parts.catalogue.list_price.completion_price_units,
        parts.clock.now_s(),
    )
    titles, card, asked = await _trained_here(parts, state.weights_digest)
    fresh = replace(fresh, **asked)
    for before in await parts.ledger.adapters():
        if before.adapter_id == adapter_id:
            kept = {name: getattr(before, name) for name in (*given, "created_at")}
            fresh = replace(fresh, **kept)
            titles = {work.content_id: work.title for work in before.works} | titles
    titles |= _titles(reader.array("titles", MAX_SHARES)) if reader.has("titles") else {}
    works = tuple(OfferedWork(key, titles.get(key, "")) for key, _ in state.shares)
    changed = {name: value for name, value in given.items() if value is not None}
    record = replace(fresh, works=works, card=card, **changed)
    await parts.catalogue.add(record)
    return parts.catalogue.offer(adapter_id)


async def _trained_here(
    parts: NodeContext, weights_digest: Hash32
) -> tuple[dict[ContentId, str], ReportCard | None, dict[str, Any]]:
    """Return what is known of an adapter that was trained here.

    That is the titles of its works, its report card, and the name and description in the training
    request.
    """
    found: dict[ContentId, str] = {}
    card: ReportCard | None = None
    asked: dict[str, Any] = {}
    for training in await parts.ledger.trainings():
        if training.result.get("weightsDigest") == hex_of(weights_digest):
            found |= await asyncio.to_thread(titles_of, training.request)
            card = card_of(training.result.get("metrics", {})) or card
            given = {name: training.request.get(name) for name in ("name", "description")}
            asked |= {name: str(text)[:MAX_TEXT_CHARS] for name, text in given.items() if text}
    return found, card, asked


async def succession(request: web.Request) -> web.Response:
    """Answer the plan of an adapter's successor: what it would be trained on."""
    parts = parts_of(request)
    found = await plan_succession(
        adapter_of(request), parts.chain, parts.ledger, parts.sessions.node
    )
    return web.json_response(
        {
            "request": found.request,
            "royaltyBps": found.royalty_bps,
            "trainerBps": found.trainer_bps,
            "without": [int(each) for each in found.without],
        }
    )


async def drop(request: web.Request) -> web.Response:
    """Take an adapter off the offer."""
    await parts_of(request).catalogue.drop(adapter_of(request))
    return web.json_response({})


async def trainings(request: web.Request) -> web.Response:
    """Answer every training run."""
    parts = parts_of(request)
    found = [_training(parts, row) for row in await parts.ledger.trainings()]
    return web.json_response({"trainings": found})


async def training(request: web.Request) -> web.Response:
    """Answer one training run."""
    return web.json_response(_training(parts_of(request), await _record_of(request)))


async def train(request: web.Request) -> web.Response:
    """Queue a training run, or with ``dryRun`` answer what it would cost."""
    _, body = await trusted_body_of(request)
    parts_of(request).engine.model.require_served("training")
    is_dry = body.pop("dryRun", False)
    body = await works.with_paths(parts_of(request), body)
    if is_dry:
        return web.json_response(plain(await parts_of(request).trainings.plan(body)))
    started = await parts_of(request).trainings.start(body)
    return web.json_response(_training(parts_of(request), started), status=202)


async def cancel_training(request: web.Request) -> web.Response:
    """Cancel a training run."""
    record = await _record_of(request)
    cancelled = await parts_of(request).trainings.cancel(record.training_id)
    return web.json_response(_training(parts_of(request), cancelled))


async def training_events(request: web.Request) -> web.StreamResponse:
    """Stream a run's progress as server-sent events until it ends."""
    record = await _record_of(request)
    events = parts_of(request).trainings.events(record.training_id)
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    stopping = asyncio.ensure_future(request.app[STOPPING].wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(events))
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                break
            await response.write(b"data: " + json.dumps(following.result()).encode() + b"\n\n")
    except (StopAsyncIteration, ConnectionResetError):
        pass
    except VizError as error:
        _log.warning("training events broke off", code=error.code, reason=error.detail)
    finally:
        stopping.cancel()
    return response


def _training(parts: NodeContext, record: TrainingRecord) -> Json:
    return training_json(record, parts.trainings.standing(record.training_id))


async def _record_of(request: web.Request) -> TrainingRecord:
    training_id = request.match_info["training_id"]
    record = await parts_of(request).ledger.training(training_id)
    if record is None:
        raise InvalidRequest(
            f"there is no training run {training_id[:64]!r}: `viz status` lists those there are"
        )
    return record
