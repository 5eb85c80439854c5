"""Write the golden vectors in tests/vectors: what Python and Solidity must both compute.

    python scripts/make_vectors.py            # write them
    python scripts/make_vectors.py --check    # fail when a file differs from what the code computes

A difference means that what people sign, or what a claim says, has changed: never regenerate to
make a test pass without knowing why. Amounts are decimal strings, bytes are 0x-hexadecimal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "node")]

from scripts.market_vectors import market_vectors  # noqa: E402
from scripts.vector_cast import (  # noqa: E402
    CHAIN_ID,
    CONTENT_REGISTRY,
    NODE,
    NODE_KEY,
    PAYER,
    PAYER_KEY,
    SETTLEMENT,
    SIGNER,
    SIGNER_KEY,
    TOKEN,
    word,
)

from viz.domain import typed_data  # noqa: E402
from viz.domain.claim_rows import SignedVoucher, pack_rows  # noqa: E402
from viz.domain.eip712 import (  # noqa: E402
    Domain,
    Struct,
    content_registry_domain,
    layout_of,
    public_address,
    settlement_domain,
    sign,
    sign_compact,
)
from viz.domain.license import ALL_USES, Terms, work_commitment  # noqa: E402
from viz.domain.receipt import next_head, salted_hash  # noqa: E402
from viz.domain.shares import (  # noqa: E402
    Share,
    distribute,
    share_words,
    shares_hash,
    split_revenue,
)
from viz.domain.units import AdapterId, Cid, ContentId, Hash32, hex_of  # noqa: E402
from viz.domain.usage import UsageLine, pack_lines, spelled_lines, usage_hash  # noqa: E402
from viz.domain.work import parse_work  # noqa: E402
from viz.protocol.wire_model import struct_to_json  # noqa: E402

TARGET = ROOT / "tests" / "vectors"
TOKEN_DOMAIN = Domain("Viz Test USD", "1", CHAIN_ID, TOKEN)
MAX96 = 2**96 - 1

LINES = (
    UsageLine(AdapterId(0), 1),
    UsageLine(AdapterId(7), 1_250_000),
    UsageLine(AdapterId(2**32 - 1), 2**64),
)
TERMS = Terms(25_000_000, 1_500, 31_536_000, 604_800, 2, int(ALL_USES), True)


def structs() -> list[tuple[Domain, Struct, bytes]]:
    settlement = settlement_domain(CHAIN_ID, SETTLEMENT)
    registry = content_registry_domain(CHAIN_ID, CONTENT_REGISTRY)
    content, late = ContentId(3), 2**64 - 1
    channel = typed_data.channel_id(SIGNER, NODE)
    nonce = typed_data.authorization_nonce(typed_data.OPEN_KIND, SIGNER, NODE, word("salt"))
    return [
        (registry, typed_data.Register(PAYER, word("c"), word("l"), TERMS, 0, late), PAYER_KEY),
        (registry, typed_data.SetTerms(content, word("l"), TERMS, 1, late), PAYER_KEY),
        (registry, typed_data.Approve(content, NODE, True, 2, 1_700_000_000), PAYER_KEY),
        (registry, typed_data.Approve(content, NODE, False, 3, 1_700_000_000), PAYER_KEY),
        (registry, typed_data.Withdraw(content, 2**256 - 1, 1_700_000_000), PAYER_KEY),
        (settlement, typed_data.OpenChannel(PAYER, NODE), SIGNER_KEY),
        (settlement, typed_data.Voucher(NODE, 0, usage_hash(LINES), Hash32(bytes(32))), SIGNER_KEY),
        (settlement, typed_data.Voucher(NODE, MAX96, usage_hash(LINES), word("head")), SIGNER_KEY),
        (settlement, typed_data.RequestClose(SIGNER, NODE, 1_700_000_000), PAYER_KEY),
        (settlement, typed_data.Close(SIGNER, NODE, 1_250_001, 1_700_000_000), NODE_KEY),
        (
            settlement,
            typed_data.Session(NODE, "http://127.0.0.1:8080", word("challenge"), 1_700_000_000),
            SIGNER_KEY,
        ),
        (
            settlement,
            typed_data.Quote(
                NODE,
                SIGNER,
                AdapterId(7),
                word("weights"),
                word("tokenizer"),
                200_000,
                600_000,
                512,
                1_700_000_060,
            ),
            NODE_KEY,
        ),
        (
            settlement,
            typed_data.Receipt(
                channel,
                1,
                usage_hash(LINES[1:2]),
                word("quote"),
                salted_hash(word("salt"), b"request"),
                salted_hash(word("salt"), b"response"),
                42,
                128,
                1_250_000,
                1_250_000,
                1_700_000_001,
            ),
            NODE_KEY,
        ),
        (
            TOKEN_DOMAIN,
            typed_data.ReceiveWithAuthorization(PAYER, SETTLEMENT, 10**7, 0, 2**64 - 1, nonce),
            PAYER_KEY,
        ),
        (registry, typed_data.Listing(content, word("listing"), 1_700_000_000), PAYER_KEY),
        (
            registry,
            typed_data.Custody(
                content,
                NODE,
                "https://node.example",
                Cid("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"),
                62_128,
                word("challenge"),
                1_700_000_300,
            ),
            PAYER_KEY,
        ),
        (
            registry,
            typed_data.KeyRequest(
                SIGNER,
                NODE,
                "https://node.example",
                1,
                3,
                "age1639teyhkcteeusmgmxzg0hwyv3ht45j8dewaelzsuz324yc3ye3q5kcuh3",
                word("challenge"),
                1_700_000_300,
            ),
            SIGNER_KEY,
        ),
        (
            settlement,
            typed_data.Destruction(
                NODE, content, 1_700_000_000, 1_700_604_800, 1_700_604_860, word("items")
            ),
            NODE_KEY,
        ),
        (
            settlement,
            typed_data.ReceiptPeriod(
                NODE, 4, 1_700_006_400, 1_700_092_800, word("before"), word("root"), 3, 6_000
            ),
            NODE_KEY,
        ),
        (
            registry,
            typed_data.EndCustody(
                content, NODE, "https://node.example", word("challenge"), 1_700_000_300
            ),
            PAYER_KEY,
        ),
        (
            registry,
            typed_data.Notice(
                SIGNER,
                NODE,
                AdapterId(7),
                ContentId(0),
                2,
                "It answers with my address.",
                "mail@example.org",
                word("evidence"),
                1_700_000_000,
            ),
            SIGNER_KEY,
        ),
    ]


def eip712_vectors() -> dict[str, Any]:
    found = []
    for domain, struct, key in structs():
        digest = domain.digest(struct)
        found.append(
            {
                "name": layout_of(type(struct)).name,
                "type": struct.TYPE,
                "typeHash": hex_of(layout_of(type(struct)).type_hash),
                "contract": domain.contract,
                "domainSeparator": hex_of(domain.separator),
                "message": struct_to_json(struct),
                "structHash": hex_of(struct.struct_hash()),
                "digest": hex_of(digest),
                "signer": public_address(key),
                "signature": hex_of(sign(key, digest)),
                "compactSignature": hex_of(sign_compact(key, digest)),
            }
        )
    salt = word("salt")
    return {
        "chainId": CHAIN_ID,
        "settlement": SETTLEMENT,
        "contentRegistry": CONTENT_REGISTRY,
        "token": TOKEN,
        "signer": SIGNER,
        "node": NODE,
        "payer": PAYER,
        "channelId": hex_of(typed_data.channel_id(SIGNER, NODE)),
        "salt": hex_of(salt),
        "openNonce": hex_of(
            typed_data.authorization_nonce(typed_data.OPEN_KIND, SIGNER, NODE, salt)
        ),
        "topUpNonce": hex_of(
            typed_data.authorization_nonce(typed_data.TOP_UP_KIND, SIGNER, NODE, salt)
        ),
        "grantNonce": hex_of(typed_data.grant_nonce(ContentId(3), word("terms"), salt)),
        "termsHash": hex_of(TERMS.terms_hash(word("l"))),
        "commitment": hex_of(work_commitment(PAYER, salt, word("root"))),
        "structs": found,
    }


def claim_vectors() -> dict[str, Any]:
    settlement = settlement_domain(CHAIN_ID, SETTLEMENT)
    rows, base = [], 0
    for number, lines in enumerate((LINES[:1], LINES, LINES[1:2])):
        head = Hash32(bytes(32)) if number == 0 else word(f"head {number}")
        row = SignedVoucher(base, head, lines, b"")
        signature = sign_compact(SIGNER_KEY, settlement.digest(row.voucher(NODE)))
        rows.append(SignedVoucher(base, head, lines, signature))
        base = row.end_units
    return {
        "chainId": CHAIN_ID,
        "settlement": SETTLEMENT,
        "signer": SIGNER,
        "node": NODE,
        "rows": [
            {
                "settled": str(row.base_units),
                "end": str(row.end_units),
                "receiptsHead": hex_of(row.receipts_head),
                "lines": spelled_lines(row.lines),
                "packedLines": hex_of(pack_lines(row.lines)),
                "usageHash": hex_of(usage_hash(row.lines)),
                "digest": hex_of(settlement.digest(row.voucher(NODE))),
                "signature": hex_of(row.signature),
            }
            for row in rows
        ],
        "packed": hex_of(pack_rows(rows)),
        "receiptDigests": [hex_of(word("r1")), hex_of(word("r2"))],
        "receiptHeads": [
            hex_of(next_head(Hash32(bytes(32)), word("r1"))),
            hex_of(next_head(next_head(Hash32(bytes(32)), word("r1")), word("r2"))),
        ],
    }


def share_vectors() -> dict[str, Any]:
    tables = (
        (Share(ContentId(1), 10_000),),
        (Share(ContentId(1), 3_333), Share(ContentId(2), 3_333), Share(ContentId(9), 3_334)),
        (Share(ContentId(2), 1), Share(ContentId(2**200), 9_999)),
    )
    splits, before = [], 0
    for amount in (1, 1, 2, 9_999, 1, 10_000, 123_456_789, 3):
        parts = split_revenue(before, amount, royalty_bps=1_501, trainer_bps=733)
        splits.append(
            {
                "before": str(before),
                "amount": str(amount),
                "toContents": str(parts.to_contents_units),
                "toTrainer": str(parts.to_trainer_units),
                "toNode": str(parts.to_node_units),
            }
        )
        before += amount
    distributions, divided = [], 0
    for accrued in (1, 2, 3, 9_994, 77_777):
        received = distribute(divided, accrued, tables[1])
        distributions.append(
            {
                "before": str(divided),
                "accrued": str(accrued),
                "received": [str(units) for _, units in received],
            }
        )
        divided += accrued
    return {
        "tables": [
            {
                "words": [str(share) for share in share_words(table)],
                "hash": hex_of(shares_hash(table)),
            }
            for table in tables
        ],
        "royaltyBps": 1_501,
        "trainerBps": 733,
        "splits": splits,
        "distributedTable": 1,
        "distributions": distributions,
    }


def work_vectors() -> dict[str, Any]:
    """Return a text and a dialogue, how they are cut, and what their creator commits to."""
    creator, salt = public_address(PAYER_KEY), word("salt of the works")
    long = ("The tide runs out past the bar. " * 60).strip()
    sources = {
        "text": (
            "\ufeffCafe\u0301 de la Mer\u00a0\r\n \t\r\n\u2003It opens\rat six.\u001f\n\n\n"
            f"{long}\n"
        ),
        "dialogue": (
            '{"messages": [{"role": "user", "content": "Ou\u0300 est le cafe\u0301?"}, '
            '{"content": "Au port.\\n", "role": "assistant"}]}\r\n'
            "\n"
            '{ "messages":[{"role":"system","content":"Be brief."},'
            '{"role":"user","content":"When?"},'
            '{"role":"assistant","content":"At \\u0073ix, \\ud83c\\udf0a"}] }'
        ),
    }
    works = []
    for kind, source in sources.items():
        work = parse_work(kind, source.encode())
        works.append(
            {
                "kind": kind,
                "bytes": hex_of(source.encode()),
                "chunks": [chunk.data.decode() for chunk in work.chunks],
                "root": hex_of(work.merkle_root),
                "commitment": hex_of(work.commitment(creator, salt)),
            }
        )
    return {"creator": creator, "salt": hex_of(salt), "works": works}


def vectors() -> dict[str, dict[str, Any]]:
    """Return every vector file's content by its name."""
    return {
        "eip712.json": eip712_vectors(),
        "claim.json": claim_vectors(),
        "market.json": market_vectors(TARGET),
        "shares.json": share_vectors(),
        "works.json": work_vectors(),
    }


def text_of(content: dict[str, Any]) -> str:
    """Return the file's text: stable, readable, one trailing newline."""
    return json.dumps(content, indent=2) + "\n"


def main() -> int:
    check, stale = "--check" in sys.argv[1:], []
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, content in vectors().items():
        path, text = TARGET / name, text_of(content)
        if check and (not path.exists() or path.read_text() != text):
            stale.append(name)
        elif not check:
            path.write_text(text)
    if stale:
        print(f"differs from what the code computes: {', '.join(stale)}")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
