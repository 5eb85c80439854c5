"""Answer what this node is and sells: its chain and contracts, base models and adapters."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from viz.api.context import LOOKS, NodeContext, adapter_of, ask_chain, parts_of
from viz.api.serialise import notices_json
from viz.chain.deployment import deployment_json
from viz.domain.notices import NAME_OF_KIND
from viz.domain.ports.ledger import AdapterRecord
from viz.domain.pricing import Price
from viz.domain.units import AdapterId, hex_of
from viz.errors import AdapterEnded, ChainError, ChainMismatch, UnknownAdapter
from viz.protocol.messages import NodeInfo
from viz.protocol.payment import DEPLOYMENT_PATH, NODE_PATH
from viz.protocol.provenance_forms.facts import provenance_path
from viz.protocol.registration import STATE_KEPT_S
from viz.protocol.wire import Json
from viz.services.payments.deposit_relay import DepositTerms
from viz.services.payments.freshness import OLDEST_S

NODE_KEPT_S: Final = 2
# How long the node's description waits for the chain if there is an earlier reading.
CHAIN_WAIT_S: Final = 2.0


def routes() -> list[web.RouteDef]:
    """Return the routes of the node's own offers."""
    return [
        web.get(NODE_PATH, node),
        web.get(DEPLOYMENT_PATH, deployment),
        web.get("/viz/v1/adapters", adapters),
        web.get("/viz/v1/adapters/{adapter_id}", adapter),
    ]


async def node(request: web.Request) -> web.Response:
    """Answer the node's address, its chain and contracts, and what it sells."""
    parts = parts_of(request)
    where, model = parts.chain.deployment, parts.engines.first_model
    terms = await _terms(request)
    price: Price = parts.catalogue.list_price_of(model.digest)
    info = NodeInfo(
        node=parts.sessions.node,
        chain_id=where.chain_id,
        settlement=where.settlement,
        content_registry=where.content_registry,
        adapter_registry=where.adapter_registry,
        token=where.token,
        token_name=terms.token_name,
        token_version=terms.token_version,
        token_decimals=where.token_decimals,
        chain_time_s=terms.chain_time_s(parts.clock.now_s()),
        base_model=model.name,
        base_digest=model.digest,
        tokenizer_digest=model.tokenizer_digest,
        context_tokens=model.context_tokens,
        suggested_deposit_units=max(parts.terms.suggested_deposit_units, terms.minimum_units),
        minimum_deposit_units=terms.minimum_units,
        minimum_step_units=price.amount_units(0, parts.serving.policy.step_tokens),
        adapters=parts.catalogue.offers(),
        age_key=parts.terms.age_recipient,
    )
    return web.json_response(info.to_json())


async def _terms(request: web.Request) -> DepositTerms:
    """Return what the chain says now; if it does not answer, the last reading of this hour.

    Without such a reading the chain's answer is awaited. Raises ChainError.
    """
    parts = parts_of(request)
    # Every client asks this first. One reading serves all of them, so no client's limit counts it.
    reading = request.app[LOOKS].get(
        "node", parts.deposit_relay.read_terms, kept_s=NODE_KEPT_S, own=True
    )
    last = parts.deposit_relay.last_terms
    if last is None or parts.clock.now_s() - last.seen_s >= OLDEST_S:
        return await reading
    try:
        # A reading that takes longer goes on, and serves those who ask later.
        async with asyncio.timeout(CHAIN_WAIT_S):
            return await reading
    except ChainMismatch:
        raise
    except (ChainError, TimeoutError):
        return last


async def adapters(request: web.Request) -> web.Response:
    """Answer the adapters on offer, with their provenance."""
    records = parts_of(request).catalogue.records()
    return web.json_response({"adapters": [_spelled(record) for record in records]})


async def adapter(request: web.Request) -> web.Response:
    """Answer one adapter, with its royalty table as the chain has it."""
    parts = parts_of(request)
    adapter_id = adapter_of(request)
    state = await request.app[LOOKS].get(
        ("adapter", adapter_id),
        lambda: parts.chain.adapter(adapter_id),
        kept_s=STATE_KEPT_S,
        admit=lambda: ask_chain(request),
    )
    if state is None:
        raise UnknownAdapter(f"adapter {adapter_id} is not registered: check the id")
    record = next((r for r in parts.catalogue.records() if r.adapter_id == adapter_id), None)
    found: Json = {
        "adapterId": adapter_id,
        "trainer": state.trainer,
        "baseModel": hex_of(state.base_model),
        "weightsDigest": hex_of(state.weights_digest),
        "cid": state.cid,
        "manifestHash": hex_of(state.manifest_hash),
        "royaltyBps": state.royalty_bps,
        "trainerBps": state.trainer_bps,
        "retiresAt": state.retires_at,
        "shares": [[int(content_id), bps] for content_id, bps in state.shares],
        "servedHere": record is not None,
    }
    if record is not None:
        found |= _spelled(record) | _noticed(parts, adapter_id)
    elif (ended := _ended(parts, adapter_id)) is not None:
        found["ended"] = ended
    return web.json_response(found)


def _ended(parts: NodeContext, adapter_id: AdapterId) -> Json | None:
    """Return why and when an adapter ended here, and what follows it; None if it did not."""
    try:
        parts.catalogue.offer(adapter_id)
    except AdapterEnded as error:
        return {name: value for name, value in error.extensions.items() if name != "adapterId"}
    except UnknownAdapter:
        return None
    return None


async def deployment(request: web.Request) -> web.Response:
    """Answer the chain and the contracts that this node uses, as in a deployment file."""
    return web.json_response(deployment_json(parts_of(request).chain.deployment))


def _noticed(parts: NodeContext, adapter_id: AdapterId) -> Json:
    """Return what notices say of an adapter that is served here; nothing if there are none."""
    found: Json = {}
    if (noticed := parts.catalogue.offer(adapter_id).notices) is not None:
        found |= notices_json(noticed)
    if (suspended := parts.catalogue.suspension(adapter_id)) is not None:
        found["suspended"] = {
            "noticeId": suspended.notice_id,
            "kind": NAME_OF_KIND[suspended.kind],
            "since": suspended.since_s,
        }
    return found


def _spelled(record: AdapterRecord) -> Json:
    return {
        "adapterId": int(record.adapter_id),
        "name": record.name,
        "description": record.description,
        "baseModel": hex_of(record.base_model),
        "weightsDigest": hex_of(record.weights_digest),
        "cid": record.cid,
        "manifestHash": hex_of(record.manifest_hash),
        "provenance": provenance_path(record.adapter_id),
        "promptPrice": str(record.prompt_units_per_million),
        "completionPrice": str(record.completion_units_per_million),
        "works": [
            {"contentId": int(work.content_id), "title": work.title} for work in record.works
        ],
    }
