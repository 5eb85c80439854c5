"""Answer the operator's commands about money: status, claims, royalties, the node's income."""

from __future__ import annotations

from aiohttp import web

from viz.api.bodies import trusted_body_of
from viz.api.context import parts_of
from viz.api.serialise import failing_json, plain, training_json
from viz.domain.units import BASE_MODEL, AdapterId
from viz.protocol.wire import Json, Reader
from viz.services.settlement.reconciliation import Comparison


async def status(request: web.Request) -> web.Response:
    """Answer the node's state: balances, channels, adapters, training runs, engines."""
    parts = parts_of(request)
    rows = await parts.ledger.channels()
    node = parts.sessions.node
    return web.json_response(
        {
            "node": node,
            "chainId": parts.chain.deployment.chain_id,
            "chainTime": await parts.chain.chain_time(),
            "tokenDecimals": parts.chain.deployment.token_decimals,
            "tokenSymbol": parts.chain.deployment.token_symbol,
            "balance": str(await parts.chain.token_balance(node)),
            "collectable": str(await parts.chain.collectable(node)),
            "channels": len(rows),
            "unclaimed": str(sum(sum(row.unclaimed().values()) for row in rows)),
            "receipts": sum(row.seq for row in rows),
            "billed": str(sum(row.total_units for row in rows)),
            "books": _channels(parts.reconciliation.last),
            "failing": failing_json(parts.supervisor),
            "running": parts.serving.running,
            "openNotices": sum(each.state == "open" for each in parts.notices.all()),
            "adapters": [offer.to_json() for offer in parts.catalogue.offers()],
            "trainings": [
                training_json(row, parts.trainings.standing(row.training_id))
                for row in await parts.ledger.trainings()
            ],
            "engines": {each.model.name: dict(each.stats()) for each in parts.engines},
        }
    )


def _channels(found: Comparison) -> Json:
    return {
        "comparedAt": found.compared_at_s,
        "channels": found.channels,
        "mismatches": [
            {
                "signer": each.signer,
                "what": each.what,
                "books": str(each.books_units),
                "chain": str(each.chain_units),
            }
            for each in found.mismatches
        ],
    }


async def channels(request: web.Request) -> web.Response:
    """Answer every channel of the ledger."""
    rows = await parts_of(request).ledger.channels()
    return web.json_response(
        {
            "channels": [
                {
                    "signer": row.signer,
                    "base": str(row.base_units),
                    "unclaimed": str(sum(row.unclaimed().values())),
                    "spent": str(sum(line.spent_units for line in row.lines.values())),
                    "receipts": row.seq,
                    "lastVoucherAt": row.voucher_at,
                }
                for row in rows
            ]
        }
    )


async def settle(request: web.Request) -> web.Response:
    """Claim at once everything that the channels owe."""
    return web.json_response(plain(await parts_of(request).settlement.step(force=True)))


async def royalties(request: web.Request) -> web.Response:
    """Answer the undistributed royalties of every adapter that this node ever sold.

    Adapters that are no longer on offer are included, because the channels still name them.
    """
    parts = parts_of(request)
    sold = {record.adapter_id for record in await parts.ledger.adapters()}
    for row in await parts.ledger.channels():
        sold |= row.lines.keys()
    found = await parts.payouts.undistributed(sorted(sold - {BASE_MODEL}))
    return web.json_response(
        {
            "royalties": [
                {"adapterId": key, "undistributed": str(units)} for key, units in found.items()
            ]
        }
    )


async def distribute(request: web.Request) -> web.Response:
    """Pay an adapter's undistributed royalties to the owners of its works."""
    _, body = await trusted_body_of(request)
    adapter_id = AdapterId(Reader(body, "the request").integer("adapterId"))
    return web.json_response(plain(await parts_of(request).payouts.distribute(adapter_id)))


async def collect(request: web.Request) -> web.Response:
    """Collect this node's balance from Settlement."""
    return web.json_response(plain(await parts_of(request).payouts.collect()))
