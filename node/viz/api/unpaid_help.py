"""Tell clients that do not pay yet how to pay this node."""

from __future__ import annotations

from aiohttp import web

from viz.api.context import parts_of
from viz.protocol import payment

_PAGE = """\
This is a Viz node. It answers as OpenAI's interface does, and is paid for each answer from a
channel on chain {chain_id}: it knows no accounts and no API keys.

To use it from any OpenAI client, run the proxy that pays on your own machine:

    viz trust {origin}          (once: which chain and contracts you accept)
    viz channel open 5 --node {origin}
    viz buyer proxy --node {origin}

and give your client http://127.0.0.1:8403/v1 as its base URL. Any API key will do.

    {origin}{models}            what is sold here
    {origin}{node}              the chain, the contracts and the prices
"""


def routes() -> list[web.RouteDef]:
    """Return the page's route."""
    return [web.get("/", page)]


async def page(request: web.Request) -> web.Response:
    """Answer a page that explains how to buy here."""
    parts = parts_of(request)
    text = _PAGE.format(
        origin=parts.sessions.origin,
        chain_id=parts.chain.deployment.chain_id,
        models=payment.MODELS_PATH,
        node=payment.NODE_PATH,
    )
    return web.Response(text=text)


def how_to_pay(origin: str) -> str:
    """Return the text that tells a client without an access token what to do."""
    return (
        "this costs money, and an API key does not pay: run `viz buyer proxy --node "
        f"{origin}` on your machine and give your client http://127.0.0.1:8403/v1; {origin}/ "
        "tells how"
    )
