"""Convert a channel between the ledger's record and the pure model.

Owns both conversions, and how to apply a reading of the chain that is older than the ledger. Pure:
reads no ledger and no chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from viz.domain.claim_rows import SignedVoucher
from viz.domain.node_channel import HEADS_KEPT, NodeChannel, observe
from viz.domain.ports.chain import ChannelState
from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord
from viz.domain.ports.settlement_ledger import ClaimRecord
from viz.domain.units import AdapterId, Address, Hash32, Units
from viz.domain.usage import UsageLine, lines_of


def channel_of(
    record: ChannelRecord, node: Address, rows: Sequence[ClaimRecord], heads: Sequence[Hash32]
) -> NodeChannel:
    """Return the channel that a record describes.

    ``rows`` are its unfinished claims, in order. ``heads`` are the receipt heads after the one that
    the last voucher names.
    """
    first = rows[0].base_units if rows else record.base_units
    return NodeChannel(
        record.signer,
        node,
        settled_units=first,
        base_units=record.base_units,
        base_vector={a: x.base_units for a, x in record.lines.items() if x.base_units},
        best=_best(record),
        frozen=tuple(_row(row) for row in rows),
        spent={a: x.spent_units for a, x in record.lines.items() if x.spent_units},
        seq=record.seq,
        heads=(record.voucher_head, *heads[-HEADS_KEPT + 1 :]),
        no_sale_until_s=record.closed_until,
    )


def record_of(
    after: NodeChannel, before: ChannelRecord, total_units: Units | None, now_s: int
) -> ChannelRecord:
    """Return the record of the channel ``after``, made from the record ``before``.

    ``total_units`` is the total of a new receipt; None if there is none.
    """
    keys = before.lines.keys() | after.base_vector.keys() | after.spent.keys()
    keys |= {line.adapter_id for line in after.best_lines}
    lines = {
        key: ChannelLineRecord(
            after.base_vector.get(key, 0), after.accepted_units(key), after.spent.get(key, 0)
        )
        for key in keys
    }
    voucher_head = after.heads[0]
    voucher_seq = before.voucher_seq
    if voucher_head != before.voucher_head:
        voucher_seq = after.seq - (len(after.heads) - 1)
    signature = after.best.signature if after.best else b""
    return replace(
        before,
        base_units=after.base_units,
        lines=lines,
        signature=signature,
        voucher_head=voucher_head,
        voucher_seq=voucher_seq,
        head=after.head,
        seq=after.seq,
        total_units=before.total_units if total_units is None else total_units,
        closed_until=after.no_sale_until_s,
        voucher_at=before.voucher_at if signature == before.signature else now_s,
    )


def touched(before: ChannelRecord, after: ChannelRecord) -> list[AdapterId]:
    """Return the adapters whose lines changed."""
    return [key for key, line in after.lines.items() if before.lines.get(key) != line]


def observed(channel: NodeChannel, seen: ChannelState) -> NodeChannel:
    """Return the channel after a reading of the chain, which may be older than the ledger.

    Raises BooksMismatch as ``observe`` does.
    """
    if seen.settled_units < channel.settled_units:
        # The reading is from before a claim that the ledger knows. A claim moves money from the
        # deposit to settled and does not change their sum.
        left = seen.settled_units + seen.deposit_units - channel.settled_units
        seen = replace(seen, settled_units=channel.settled_units, deposit_units=max(0, left))
    return observe(channel, seen)


def _best(record: ChannelRecord) -> SignedVoucher | None:
    if not record.signature:
        return None
    lines = lines_of(record.unclaimed())
    return SignedVoucher(record.base_units, record.voucher_head, lines, record.signature)


def _row(claim: ClaimRecord) -> SignedVoucher:
    lines = tuple(UsageLine(adapter_id, units) for adapter_id, units in claim.lines)
    return SignedVoucher(claim.base_units, claim.receipts_head, lines, claim.signature)
