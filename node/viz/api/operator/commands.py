"""Answer the operator's commands: train, license, publish, activate, settle, show.

The commands go through the running daemon, because two senders with one key would use the same
nonces. They are accepted only from this machine, and only with the token from a file that only the
operator can read.
"""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web

from viz.api.access import OPERATOR_PATH, for_operator
from viz.api.bodies import trusted_body_of
from viz.api.context import STOPPING, NodeContext, adapter_of, parts_of
from viz.api.operator import settlement as money
from viz.api.operator import works
from viz.api.serialise import plain, training_json
from viz.domain.ports.ledger import TrainingRecord
from viz.domain.units import AdapterId, ContentId
from viz.errors import InvalidRequest, VizError
from viz.protocol.sse import EVENT_STREAM, sse_event
from viz.protocol.wire import JSON_INTEGER_MAX, Json, Reader
from viz.services.training.succession import plan_succession
from viz.services.training.wish import offer_terms, wish_of

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
        web.get(f"{path}/works/{{content_id}}/notices", for_operator(works.notices)),
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
    """Buy a grant to a work, for at most the fee that the request names.

    With ``listed`` nothing is paid for a work that cannot be fetched because no node lists it.
    """
    _, body = await trusted_body_of(request)
    reader, parts = Reader(body, "the request"), parts_of(request)
    content_id = ContentId(reader.integer("contentId", JSON_INTEGER_MAX))
    terms_hash = reader.optional("termsHash", reader.hash32)
    max_fee_units = reader.optional("maxFee", reader.units)
    if reader.optional("listed", reader.boolean):
        # What costs nothing to refuse is refused before nodes are asked.
        offer = await parts.grants.agreed(
            content_id, expected_terms=terms_hash, max_fee_units=max_fee_units
        )
        if await parts.grants.held(offer) is None:
            await parts.licensed_works.require_listed(content_id)
    state = await parts.grants.acquire(
        content_id, expected_terms=terms_hash, max_fee_units=max_fee_units
    )
    return web.json_response(plain(state))


async def publish(request: web.Request) -> web.Response:
    """Store a training run's adapter, register it with its royalties, and put it on offer.

    ``shares`` ([[contentId, bps], ...]) replace the default shares, which are in proportion to the
    works' sizes. If the registration is not confirmed yet, or the adapter cannot be loaded,
    ``offer`` is null, and ``detail`` says what to do.
    """
    _, body = await trusted_body_of(request)
    training_id = Reader(body, "the request").text("trainingId")
    made = await parts_of(request).publisher.publish(training_id, wish_of(body))
    return web.json_response(dict(made), status=201)


async def activate(request: web.Request) -> web.Response:
    """Fetch a registered adapter, load it, and put it on offer."""
    _, body = await trusted_body_of(request)
    reader = Reader(body, "the request")
    adapter_id = AdapterId(reader.integer("adapterId"))
    offer = await parts_of(request).offering.put_on_offer(adapter_id, offer_terms(reader))
    return web.json_response(offer.to_json(), status=201)


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
    parts_of(request).engines.require_any("training")
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
        headers={"Content-Type": EVENT_STREAM, "Cache-Control": "no-store"}
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
            await response.write(sse_event(following.result()))
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
