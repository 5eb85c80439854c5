"""Make the golden vectors of the market: listing, hand-over, request for a key, certificate.

The sealed work and its wrapped key are those of sealed.json, which nothing makes again: age's
output is never the same twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.vector_cast import (
    CHAIN_ID,
    CONTENT_REGISTRY,
    NODE,
    NODE_KEY,
    PAYER,
    PAYER_KEY,
    SETTLEMENT,
    SIGNER,
    SIGNER_KEY,
    word,
)

from viz.domain import typed_data
from viz.domain.destruction import HeldItem, LeftItem
from viz.domain.eip712 import (
    Domain,
    content_registry_domain,
    settlement_domain,
    sign,
    sign_compact,
)
from viz.domain.units import Cid, ContentId, hex_of
from viz.protocol.custody import HandOver, SignedEndCustody, SignedKeyRequest
from viz.protocol.destruction import certify
from viz.protocol.listing import SignedListing
from viz.protocol.wire import Json, canonical_json
from viz.protocol.wire_model import struct_to_json
from viz.storage.sealing import recipient_of


def market_vectors(folder: Path) -> dict[str, Any]:
    """Return what travels about a work; ``folder`` has sealed.json."""
    sealed = json.loads((folder / "sealed.json").read_text(encoding="utf-8"))
    blob, wrapped = bytes.fromhex(sealed["sealed"][2:]), sealed["wrappedFor"]
    registry = content_registry_domain(CHAIN_ID, CONTENT_REGISTRY)
    work, cid = ContentId(int(sealed["contentId"])), Cid(sealed["cid"])
    origin, challenge, expiry = "https://node.example", word("challenge"), 1_700_000_300
    handed = typed_data.Custody(work, NODE, origin, cid, len(blob), challenge, expiry)
    asked = typed_data.KeyRequest(
        SIGNER, NODE, origin, 1, int(work), recipient_of(wrapped["identity"]), challenge, expiry
    )
    hand_over = HandOver(
        handed, sign(PAYER_KEY, registry.digest(handed)), bytes.fromhex(wrapped["wrappedKey"][2:])
    )
    requested = SignedKeyRequest(asked, sign(SIGNER_KEY, registry.digest(asked)))
    ending = typed_data.EndCustody(work, NODE, origin, challenge, expiry)
    ended = SignedEndCustody(ending, sign(PAYER_KEY, registry.digest(ending)))
    return {
        "chainId": CHAIN_ID,
        "settlement": SETTLEMENT,
        "contentRegistry": CONTENT_REGISTRY,
        "owner": PAYER,
        "custodian": NODE,
        "requester": SIGNER,
        "listing": _listing_vector(registry, work, cid, len(blob)),
        "handOver": {
            "message": hand_over.to_json(),
            "header": hand_over.to_header(),
            "digest": hex_of(registry.digest(handed)),
        },
        "keyRequest": {
            "message": requested.to_json(),
            "digest": hex_of(registry.digest(asked)),
        },
        "endCustody": {
            "message": ended.to_json(),
            "digest": hex_of(registry.digest(ending)),
        },
        "certificate": _certificate_vector(work, cid),
    }


def _listing_vector(registry: Domain, work: ContentId, cid: Cid, size: int) -> dict[str, Any]:
    """Return a listing with every member, one that no version knows, and text beyond ASCII."""
    document: Json = {
        "chainId": CHAIN_ID,
        "contentRegistry": CONTENT_REGISTRY,
        "contentId": int(work),
        "title": "Der Wärter von Varn Point",
        "credit": "Alma Reyes",
        "language": "de",
        "kind": "text",
        "sizeBytes": 1_024,
        "license": {"text": "Name me, and pay.", "max_verbatim_tokens": 64},
        "sealed": {"cid": cid, "sizeBytes": size},
        "custodians": [{"node": NODE, "url": "https://node.example"}],
        "issuedAt": 1_700_000_000,
        "sample": "Er zündet die Lampe \u201ebei Dämmerung\u201c an.\n\u20ac 2 \U0001f56f",
        "laterMember": [True, None, 1],
    }
    unsigned = SignedListing.of(document, b"")
    digest = registry.digest(unsigned.struct)
    signed = SignedListing.of(document, sign_compact(PAYER_KEY, digest))
    return {
        "canonical": signed.document.decode(),
        "listingHash": hex_of(signed.struct.listing_hash),
        "licenseHash": hex_of(signed.listing.license_hash),
        "message": struct_to_json(signed.struct),
        "digest": hex_of(digest),
        "plainSignature": hex_of(sign(PAYER_KEY, digest)),
        "signed": signed.to_json(),
    }


def _certificate_vector(work: ContentId, cid: Cid) -> dict[str, Any]:
    settlement = settlement_domain(CHAIN_ID, SETTLEMENT)
    made = certify(
        NODE_KEY,
        settlement,
        NODE,
        work,
        withdrawn_at_s=1_700_000_000,
        due_at_s=1_700_604_800,
        time_s=1_700_604_860,
        destroyed=[HeldItem("sealed work", cid), HeldItem("key of the sealed work", cid)],
        left=[LeftItem("copy of the work", "/home/b/work.txt", "it is the operator's own file")],
    )
    listed = made.to_json()
    hashed = {name: listed[name] for name in ("destroyed", "left", "beyondRecall")}
    return {
        "canonical": canonical_json(hashed).decode(),
        "digest": hex_of(settlement.digest(made.certificate)),
        "signed": listed,
    }
