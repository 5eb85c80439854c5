"""Check chains of receipts against each other and against what was settled on the chain.

Pure. The buyer's next voucher signs the head of the receipts, so a receipt that was changed after a
claim has another head than the one on the chain. A finding is a sentence about a contradiction.
Missing receipts are listed separately, since they do not prove a lie.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from viz.domain.display import counted
from viz.domain.eip712 import Domain, is_signed_by
from viz.domain.ports.transactions import Event
from viz.domain.receipt import next_head
from viz.domain.typed_data import Receipt
from viz.domain.units import ZERO_HASH, AdapterId, Address, Hash32, Units, hex_of
from viz.domain.usage import Lines, sum_of, usage_hash
from viz.domain.verdict import Verdict, verdict_of


@dataclass(frozen=True, slots=True)
class PublicReceipt:
    """A receipt as a node publishes it: signed, with its usage lines and without any salt."""

    receipt: Receipt
    lines: Lines
    signature: bytes


@dataclass(slots=True)
class ChannelAudit:
    """The result for one channel.

    ``settled_units`` is the last total on the chain, ``covered_units`` the receipts' total at the
    head that was settled with it. A voucher may pay ahead, so the first may be larger.
    ``paid_ahead_units`` is how much more was settled than billed, where the buyer's own ledger has
    the same ``head`` of the receipts, so that none is missing.
    """

    receipts: int = 0
    billed_units: Units = 0
    settled_units: Units = 0
    covered_units: Units = 0
    paid_ahead_units: Units = 0
    head: Hash32 = ZERO_HASH
    by_adapter: dict[AdapterId, Units] = field(default_factory=dict)


@dataclass(slots=True)
class ReceiptAudit:
    """The result for all channels: contradictions, and what was missing to check the rest."""

    channels: dict[Hash32, ChannelAudit] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.findings, self.missing, checked=bool(self.channels))

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; amounts are base units."""
        return {
            "verdict": self.verdict,
            "channels": [
                {
                    "channelId": hex_of(channel_id),
                    "receipts": each.receipts,
                    "billed": str(each.billed_units),
                    "settled": str(each.settled_units),
                    "covered": str(each.covered_units),
                    "paidAhead": str(each.paid_ahead_units),
                    "adapters": [
                        [int(adapter_id), str(units)]
                        for adapter_id, units in sorted(each.by_adapter.items())
                    ],
                }
                for channel_id, each in sorted(self.channels.items())
            ],
            "findings": list(self.findings),
            "missing": list(self.missing),
        }


def audit_receipts(
    receipts: Iterable[PublicReceipt],
    claims: Sequence[Event],
    *,
    node: Address,
    domain: Domain,
    own_heads: Mapping[Hash32, Hash32] | None = None,
    money_followed: bool = False,
) -> ReceiptAudit:
    """Check one node's receipts, and the heads that ``claims`` (Claimed events) settled.

    ``own_heads``: by channel, the head of all receipts that the auditor itself got as its buyer.

    ``money_followed``: the caller follows the channels' money (``viz.domain.money_trail``), and
    says itself what was not claimed, or claimed ahead. Otherwise that is missing.
    """
    found = ReceiptAudit()
    by_channel: dict[Hash32, list[PublicReceipt]] = {}
    for each in receipts:
        by_channel.setdefault(each.receipt.channel_id, []).append(each)
    settled: dict[Hash32, list[Event]] = {}
    for event in sorted(claims, key=lambda each: (each.block_number, each.log_index)):
        settled.setdefault(Hash32(event.args["channelId"]), []).append(event)
    for channel_id, chain in by_channel.items():
        heads = _chain(found, channel_id, chain, node, domain)
        _heads(found, channel_id, heads, settled.get(channel_id, ()))
    if not money_followed:
        _uncompared(found, settled.keys(), own_heads or {})
    if not by_channel:
        found.missing.append("receipts: none were given, so nothing was checked")
    return found


def _chain(
    found: ReceiptAudit,
    channel_id: Hash32,
    chain: Iterable[PublicReceipt],
    node: Address,
    domain: Domain,
) -> Mapping[Hash32, Units]:
    """Check a channel's receipts in order; return the total at each head of the chain."""
    seen: dict[int, Hash32] = {}
    heads: dict[Hash32, Units] = {ZERO_HASH: 0}
    audit = found.channels[channel_id] = ChannelAudit()
    head, total, expected = ZERO_HASH, 0, 1
    for each in sorted(chain, key=lambda one: one.receipt.seq):
        receipt = each.receipt
        where = f"receipt {receipt.seq} of channel {hex_of(channel_id)}"
        digest = domain.digest(receipt)
        if receipt.seq in seen:
            if seen[receipt.seq] != digest:
                found.findings.append(f"there are two of {where}")
            continue
        seen[receipt.seq] = digest
        if not is_signed_by(digest, each.signature, node):
            found.findings.append(f"{where} is not signed by {node}")
        lines_fit = usage_hash(each.lines) == receipt.usage_hash
        if not lines_fit or sum_of(each.lines) != receipt.amount_units:
            found.findings.append(f"the usage lines of {where} are not the ones that were signed")
        if receipt.seq != expected:
            found.missing.append(f"receipts {expected} to {receipt.seq - 1} before {where}")
            return heads
        if receipt.total_units != total + receipt.amount_units:
            found.findings.append(
                f"{where} says that the total is {receipt.total_units}, but it is "
                f"{total + receipt.amount_units}"
            )
        head, total, expected = next_head(head, digest), receipt.total_units, expected + 1
        audit.head = head
        heads[head] = total
        audit.receipts, audit.billed_units = receipt.seq, total
        for line in each.lines:
            before = audit.by_adapter.get(line.adapter_id, 0)
            audit.by_adapter[line.adapter_id] = before + line.amount_units
    return heads


def _uncompared(
    found: ReceiptAudit, claimed: Collection[Hash32], own_heads: Mapping[Hash32, Hash32]
) -> None:
    """Add what the chain says nothing about, or more than the receipts, to what is missing.

    A voucher may pay a step ahead, which is no lie; but newer receipts may have been left out too,
    and from the receipts alone only the buyer of the channel can tell.
    """
    for channel_id, each in found.channels.items():
        where, rest = f"channel {hex_of(channel_id)}", each.settled_units - each.billed_units
        if channel_id not in claimed:
            found.missing.append(
                f"a claim of {where}: the chain has none, so its "
                f"{counted(each.receipts, 'receipt')} could be compared with nothing that was "
                "settled; only signatures and sums were checked. Check --node and the receipts, "
                "or run this again after the node has claimed"
            )
        elif rest > 0 and own_heads.get(channel_id) == each.head:
            each.paid_ahead_units = rest
        elif rest > 0:
            found.missing.append(
                f"receipts of {rest} of the {each.settled_units} units that were settled for "
                f"{where}: they are paid ahead and not billed yet, or newer receipts were left "
                "out. `viz channel receipts FILE` gets all that there are, and the data folder of "
                "the channel's buyer (--data-dir) tells the two apart"
            )


def _heads(
    found: ReceiptAudit,
    channel_id: Hash32,
    heads: Mapping[Hash32, Units],
    claims: Sequence[Event],
) -> None:
    """Compare the heads that were settled with those of the receipts."""
    audit, covered = found.channels[channel_id], 0
    for event in claims:
        settled, head = int(event.args["settled"]), Hash32(event.args["receiptsHead"])
        audit.settled_units = settled
        where = f"the head that was settled for channel {hex_of(channel_id)} at {settled} units"
        if head not in heads:
            # The receipts go beyond what was settled, but none of them has that head.
            if audit.billed_units >= settled:
                found.findings.append(f"{where}, {hex_of(head)}, is that of no receipt here")
            else:
                found.missing.append(f"the receipts up to {where}")
            continue
        if heads[head] < covered:
            found.findings.append(f"{where} is of an earlier receipt than the one before it")
        covered = audit.covered_units = heads[head]
