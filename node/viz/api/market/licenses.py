"""Answer the licenses of the works in this node's custody, in every form.

A document is shown only while it agrees with the chain. Chain reads are cached for a short time,
and every answer has an ETag.
"""

from __future__ import annotations

import json
from typing import Final

from aiohttp import hdrs, web

from viz.api.context import LOOKS, ask_chain, number_of, parts_of
from viz.api.negotiation import tagged
from viz.domain.units import ContentId
from viz.errors import LicenseUnknown
from viz.protocol.license_forms.catalogue import DOCUMENT
from viz.protocol.license_forms.tdmrep import POLICY
from viz.protocol.wire import JSON_INTEGER_MAX
from viz.services.licensing.license_documents import LICENSE_PATH, KeptLicense

TDMREP_PATH: Final = "/.well-known/tdmrep.json"
KEPT_S: Final = 60
# A page with strangers' texts must not run scripts, load anything or be framed.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def routes() -> list[web.RouteDef]:
    """Return the routes of licenses."""
    return [
        web.get(TDMREP_PATH, tdmrep),
        web.get(LICENSE_PATH + "/{content_id}", document),
        web.get(LICENSE_PATH + "/{content_id}/{form}", form),
    ]


async def tdmrep(request: web.Request) -> web.Response:
    """Answer TDMRep's rules for the works in custody: their rights are reserved."""
    rules = await request.app[LOOKS].get(
        "tdmrep",
        parts_of(request).license_documents.tdm_rules,
        kept_s=KEPT_S,
        admit=lambda: ask_chain(request),
    )
    return _tagged(request, json.dumps(rules, indent=2).encode(), "application/json")


async def document(request: web.Request) -> web.Response:
    """Answer a work's license document: the bytes whose hash is on the chain."""
    kept = await _kept(request)
    forms = (("rsl.xml", "license"), (POLICY, "license"), ("summary.html", "describedby"))
    links = [
        f'<{kept.where.form(name)}>; rel="{relation}"; type="{found.media_type}"'
        for name, relation in forms
        if (found := kept.form(name)) is not None
    ]
    answer = _shown(request, kept, DOCUMENT)
    answer.headers["Link"] = ", ".join(links)
    return answer


async def form(request: web.Request) -> web.Response:
    """Answer one form of a work's license, by its file name."""
    return _shown(request, await _kept(request), request.match_info["form"])


async def _kept(request: web.Request) -> KeptLicense:
    content_id = ContentId(number_of(request, "content_id", JSON_INTEGER_MAX))
    documents = parts_of(request).license_documents
    return await request.app[LOOKS].get(
        ("license", content_id),
        lambda: documents.get(content_id),
        kept_s=KEPT_S,
        admit=lambda: ask_chain(request),
    )


def _shown(request: web.Request, kept: KeptLicense, name: str) -> web.Response:
    found = kept.form(name)
    if found is None:
        raise LicenseUnknown(f"this license has no form {name[:40]!r}: see docs/licenses.md")
    return _tagged(request, found.body, found.media_type)


def _tagged(request: web.Request, body: bytes, media_type: str) -> web.Response:
    headers = {
        hdrs.CACHE_CONTROL: f"public, max-age={KEPT_S}",
        "Content-Security-Policy": _POLICY,
    }
    return tagged(request, body, media_type, headers)
