"""Answer what adapters were made from: the signed manifest, and the forms that others read.

Facts are cached for a short time and shared by all requests; every answer has an ETag.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from viz.api.context import LOOKS, adapter_of, ask_chain, parts_of
from viz.api.negotiation import tagged
from viz.errors import InvalidRequest
from viz.protocol.provenance_forms.catalogue import FORMS
from viz.protocol.provenance_forms.facts import (
    PROVENANCE_PATH,
    AdapterProvenance,
    forms_to_json,
)

KEPT_S: Final = 60


def routes() -> list[web.RouteDef]:
    """Return the routes of provenance."""
    return [
        web.get(PROVENANCE_PATH, forms),
        web.get(PROVENANCE_PATH + "/{form}", form),
    ]


async def forms(request: web.Request) -> web.Response:
    """Answer the forms of an adapter's provenance, if its manifest is kept here."""
    return web.json_response(forms_to_json(await _provenance(request), FORMS))


async def form(request: web.Request) -> web.Response:
    """Answer one form, by its name."""
    name = request.match_info["form"]
    if name not in FORMS:
        raise InvalidRequest(f"provenance has no form {name[:40]!r}: ask for {', '.join(FORMS)}")
    found = await _provenance(request)
    body = await request.app[LOOKS].get(
        ("provenance", found.adapter.adapter_id, name),
        lambda: parts_of(request).provenance.form(found, name),
        kept_s=KEPT_S,
    )
    headers: dict[str, str] = {hdrs.CACHE_CONTROL: f"public, max-age={KEPT_S}"}
    return tagged(request, body, FORMS[name], headers)


async def _provenance(request: web.Request) -> AdapterProvenance:
    adapter_id = adapter_of(request)
    return await request.app[LOOKS].get(
        ("provenance", adapter_id),
        lambda: parts_of(request).provenance.get(adapter_id),
        kept_s=KEPT_S,
        admit=lambda: ask_chain(request),
    )
