"""Write what a license costs, as data for programs of those who buy grants."""

from __future__ import annotations

from typing import Any, Final

from viz.domain.display import visible
from viz.domain.units import BPS, hex_of
from viz.protocol.license_document.agreement import terms_of
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_forms.place import LicensePlace

_USED: Final = "the rights in the license"
_NAMED: Final = "an adapter that names this registration; no other use needs one"
_REVENUE: Final = "an adapter's gross revenue, distributed to the work's owner"
_NOTHING: Final = "nothing: the work is in the public domain, and nobody owns it"


def rate_card(document: LicenseDocument, where: LicensePlace) -> dict[str, Any]:
    """Return fee, royalty (also per million units of revenue) and token; amounts are text.

    ``permissionNeeded`` is false for a work in the public domain. A grant of it is free, and is
    needed only by an adapter that names this registration.
    """
    terms, chain, unowned = terms_of(document), document.chain, document.in_public_domain
    return {
        "title": visible(document.work.title),
        "contentId": where.content_id,
        "licenseHash": hex_of(document.license_hash),
        "license": where.form("license.json"),
        "open": not where.withdrawn_at,
        "withdrawnAt": where.withdrawn_at,
        "permissionNeeded": not unowned,
        "grant": {
            "for": _NAMED if unowned else _USED,
            "fee": document.money.training_fee,
            "feeUnits": str(terms.training_fee_units),
            "seconds": terms.grant_duration_s,
            "approvalRequired": terms.approval_required,
        },
        "royalty": {
            "minimumBps": terms.min_royalty_bps,
            "of": _NOTHING if unowned else _REVENUE,
            "perMillionUnits": str(terms.min_royalty_bps * 1_000_000 // BPS),
        },
        "token": {
            "chainId": chain.chain_id,
            "address": chain.token,
            "decimals": chain.token_decimals,
            "symbol": chain.token_symbol,
        },
        "registry": chain.registry,
    }
