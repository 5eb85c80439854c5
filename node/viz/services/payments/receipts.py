"""Receipts: made and signed of what was delivered, also of what a killed node had booked.

Owns what a receipt says and where it stands in its channel's chain. Does not decide what is billed
(``viz.services.payments.metering``).

An answer that a kill breaks off has booked what was delivered with every voucher until then. Its
receipt is made at the next start: it names the booked amount, and hashes the text that this pays
for, which is a part of what arrived. So a channel's receipts always reach what it has spent.
"""

from __future__ import annotations

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
from viz.protocol.wire import canonical_json

_log = structlog.get_logger()


class Issuer(Protocol):
    """Who signs receipts, and when."""

    @property
    def clock(self) -> Clock: ...

    @property
    def domain(self) -> Domain: ...

    @property
    def node(self) -> Address: ...

    @property
    def key(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a channel's chain of receipts ends."""

    seq: int
    head: Hash32
    total_units: Units


def issue(issuer: Issuer, place: Place, due: UnbilledRecord) -> tuple[SignedReceipt, ReceiptRecord]:
    """Return the receipt of ``due`` that follows on ``place``, signed and as it is stored."""
    lines = (UsageLine(due.adapter_id, due.amount_units),)
    receipt = Receipt(
        channel_id(due.signer, issuer.node),
        place.seq + 1,
        usage_hash(lines),
        due.quote_hash,
        due.request_hash,
        due.response_hash,
        due.prompt_tokens,
        due.completion_tokens,
        due.amount_units,
        place.total_units + due.amount_units,
        issuer.clock.now_s(),
    )
    digest = issuer.domain.digest(receipt)
    signature = sign_compact(issuer.key, digest)
    signed = SignedReceipt(receipt, lines, due.request_salt, due.response_salt, signature)
    body = canonical_json(receipt_to_json(signed))
    head = next_head(place.head, digest)
    stored = ReceiptRecord(due.signer, receipt.seq, head, digest, body, receipt.time_s)
    return signed, stored


async def bill_interrupted(issuer: Issuer, ledger: ChannelLedger) -> int:
    """Make the receipts that a process before this one could not; return how many.

    Call it before anything is sold. Raises StoreError.
    """
    due = await ledger.unbilled()
    for each in due:
        record = await ledger.channel(each.signer)
        if record is None:
            raise BooksMismatch(
                f"an answer to {each.signer} was booked, and no channel of that signer is in the "
                "ledger: restore the latest backup that has it"
            )
        place = Place(record.seq, record.head, record.total_units)
        signed, stored = issue(issuer, place, each)
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
