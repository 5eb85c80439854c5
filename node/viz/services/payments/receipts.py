"""Make and sign receipts, also for answers that were interrupted when the node was killed.

Owns the content of a receipt and its place in the channel's chain of receipts.
``viz.services.payments.metering`` decides what is billed.

If the node is killed during an answer, the ledger has what was delivered up to the last commit,
booked as spent. The receipt is made at the next start. It states the booked amount and the hash of
the text that this amount pays for, which may be only a part of the text that the buyer got. So the
receipts of a channel always add up to what it has spent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from viz.domain.eip712 import Domain, sign_compact
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import ChannelLedger, ReceiptRecord, UnbilledRecord
from viz.domain.receipt import SignedReceipt, next_head
from viz.domain.typed_data import Receipt, channel_id
from viz.domain.units import Address, Hash32, Units
from viz.domain.usage import UsageLine, usage_hash
from viz.errors import BooksMismatch
from viz.protocol.payment import receipt_to_json

_log = structlog.get_logger()


class ReceiptIssuer(Protocol):
    """Give what a receipt needs from its node: clock, domain, address and key."""

    @property
    def clock(self) -> Clock: ...

    @property
    def domain(self) -> Domain: ...

    @property
    def node(self) -> Address: ...

    @property
    def key(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ReceiptChainEnd:
    """Hold where a channel's chain of receipts ends: the last number, head and total."""

    seq: int
    head: Hash32
    total_units: Units


def issue(
    issuer: ReceiptIssuer, chain_end: ReceiptChainEnd, due: UnbilledRecord
) -> tuple[SignedReceipt, ReceiptRecord]:
    """Return the signed receipt of ``due`` that follows ``chain_end``, and the record to store."""
    lines = (UsageLine(due.adapter_id, due.amount_units),)
    receipt = Receipt(
        channel_id(due.signer, issuer.node),
        chain_end.seq + 1,
        usage_hash(lines),
        due.quote_hash,
        due.request_hash,
        due.response_hash,
        due.prompt_tokens,
        due.completion_tokens,
        due.amount_units,
        chain_end.total_units + due.amount_units,
        issuer.clock.now_s(),
    )
    digest = issuer.domain.digest(receipt)
    signature = sign_compact(issuer.key, digest)
    signed = SignedReceipt(receipt, lines, due.request_salt, due.response_salt, signature)
    body = json.dumps(receipt_to_json(signed), separators=(",", ":"), sort_keys=True).encode()
    head = next_head(chain_end.head, digest)
    stored = ReceiptRecord(due.signer, receipt.seq, head, digest, body, receipt.time_s)
    return signed, stored


async def bill_interrupted(issuer: ReceiptIssuer, ledger: ChannelLedger) -> int:
    """Make the receipts that an earlier process was killed before making; return how many.

    Call it before anything is sold. Raises StoreError, and BooksMismatch if the ledger has no
    channel for an unbilled answer.
    """
    due = await ledger.unbilled()
    for each in due:
        record = await ledger.channel(each.signer)
        if record is None:
            raise BooksMismatch(
                f"an answer to {each.signer} was booked, and no channel of that signer is in the "
                "ledger: restore the latest backup that has it, and read first what an older one "
                "costs (docs/operating.md, the ledger and its backup)"
            )
        chain_end = ReceiptChainEnd(record.seq, record.head, record.total_units)
        signed, stored = issue(issuer, chain_end, each)
        after = replace(
            record,
            seq=stored.seq,
            head=stored.head,
            total_units=signed.receipt.total_units,
        )
        await ledger.commit(
            "interrupted", after, touched=(), receipt=stored, billed=each.request_id
        )
        _log.warning(
            "an interrupted answer was billed",
            signer=each.signer,
            adapter=int(each.adapter_id),
            units=each.amount_units,
        )
    return len(due)
