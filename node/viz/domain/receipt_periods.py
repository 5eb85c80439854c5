"""Compute and check what a node publishes about the receipts of a period.

Pure. A receipt is published as its digest and its amounts. The digest is a hash over random salts,
so it reveals nothing to people without the receipt: no channel, signer, request or answer.

The tree is that of ``viz.domain.work``, whose leaves and inner nodes have different prefixes
(as in RFC 6962). A leaf is the digest, then for each line the adapter's id (4 bytes) and the amount
(12 bytes). Leaves are ordered by digest, which does not reveal the order in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from viz.domain.display import counted
from viz.domain.eip712 import Domain, is_signed_by
from viz.domain.ports.transactions import Event
from viz.domain.receipt_audit import PublicReceipt
from viz.domain.typed_data import ReceiptPeriod
from viz.domain.units import ZERO_HASH, AdapterId, Address, Hash32, Units, hex_of
from viz.domain.usage import Lines, pack_lines, sum_of
from viz.domain.verdict import Verdict, verdict_of
from viz.domain.work import merkle_root


@dataclass(frozen=True, slots=True)
class PublishedReceipt:
    """A receipt as it is published: the digest that the node signed, and its amounts."""

    digest: Hash32
    lines: Lines

    @property
    def leaf(self) -> bytes:
        """The bytes that the tree hashes."""
        return self.digest + pack_lines(self.lines)


def in_order(receipts: Iterable[PublishedReceipt]) -> tuple[PublishedReceipt, ...]:
    """Return receipts in the order of their digests."""
    return tuple(sorted(receipts, key=lambda each: each.digest))


def root_of(receipts: Sequence[PublishedReceipt]) -> Hash32:
    """Return the root over receipts that are in order; there must be at least one."""
    return merkle_root([each.leaf for each in receipts])


def amounts_of(receipts: Iterable[PublishedReceipt]) -> dict[AdapterId, Units]:
    """Return the sum of each adapter's lines."""
    found: dict[AdapterId, Units] = {}
    for each in receipts:
        for line in each.lines:
            found[line.adapter_id] = found.get(line.adapter_id, 0) + line.amount_units
    return found


@dataclass(frozen=True, slots=True)
class ReadPeriod:
    """A period as read from a node: the signed structure, and the receipts in its blob."""

    period: ReceiptPeriod
    signature: bytes
    receipts: Sequence[PublishedReceipt]


@dataclass(slots=True)
class PeriodAudit:
    """The result: contradictions (``findings``), and what cannot be checked yet (``missing``)."""

    published: dict[AdapterId, Units] = field(default_factory=dict)
    claimed: dict[AdapterId, Units] = field(default_factory=dict)
    periods: list[ReceiptPeriod] = field(default_factory=list)
    included: int = 0
    findings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.findings, self.missing, checked=bool(self.periods))

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; amounts are base units."""
        return {
            "periods": [
                {
                    "number": each.number,
                    "since": each.since_s,
                    "until": each.until_s,
                    "root": hex_of(each.root),
                    "count": each.count,
                    "amount": str(each.amount_units),
                }
                for each in self.periods
            ],
            "included": self.included,
            "adapters": [
                {
                    "adapterId": int(adapter_id),
                    "published": str(self.published.get(adapter_id, 0)),
                    "claimed": str(self.claimed.get(adapter_id, 0)),
                }
                for adapter_id in sorted(self.published.keys() | self.claimed.keys())
            ],
        }


def audit_periods(
    periods: Sequence[ReadPeriod],
    own: Sequence[PublicReceipt],
    earnings: Iterable[Event],
    *,
    node: Address,
    domain: Domain,
) -> PeriodAudit:
    """Check all of a node's periods, that ``own`` receipts are in them, and what was claimed.

    ``periods`` are from the first on, in order. ``earnings`` are Earned events of any node.
    """
    found = PeriodAudit()
    published: dict[Hash32, Lines] = {}
    previous, until_s = ZERO_HASH, 0
    for number, each in enumerate(periods, start=1):
        period, where = each.period, f"period {each.period.number}"
        if not is_signed_by(domain.digest(period), each.signature, node) or period.node != node:
            found.findings.append(f"{where} is not signed by {node}")
        if period.number != number or period.previous != previous:
            found.findings.append(f"{where} does not follow the period before it")
        if not until_s <= period.since_s < period.until_s:
            found.findings.append(f"{where} begins before the one before it ends")
        _contents(found, each, published)
        previous, until_s = period.root, period.until_s
        found.periods.append(period)
    _inclusion(found, own, published, until_s, domain)
    _claims(found, earnings, node)
    return found


def _contents(found: PeriodAudit, each: ReadPeriod, published: dict[Hash32, Lines]) -> None:
    """Compare the receipts of a period with what was signed, and add them to the result."""
    period, where = each.period, f"period {each.period.number}"
    if not each.receipts or root_of(each.receipts) != period.root:
        found.findings.append(f"the receipts of {where} do not have the root that was signed")
    amount = sum(sum_of(one.lines) for one in each.receipts)
    if (len(each.receipts), amount) != (period.count, period.amount_units):
        found.findings.append(
            f"{where} has {len(each.receipts)} receipts over {amount} units, and {period.count} "
            f"over {period.amount_units} were signed"
        )
    twice = sum(1 for one in each.receipts if one.digest in published)
    published |= {one.digest: one.lines for one in each.receipts}
    if twice or len({one.digest for one in each.receipts}) != len(each.receipts):
        found.findings.append(f"{where} has a receipt that was published before")
    for adapter_id, units in amounts_of(each.receipts).items():
        found.published[adapter_id] = found.published.get(adapter_id, 0) + units


def _inclusion(
    found: PeriodAudit,
    own: Sequence[PublicReceipt],
    published: Mapping[Hash32, Lines],
    until_s: int,
    domain: Domain,
) -> None:
    waiting = 0
    for each in own:
        where = f"receipt {each.receipt.seq} of channel {hex_of(each.receipt.channel_id)}"
        lines = published.get(domain.digest(each.receipt))
        if lines is not None and lines == each.lines:
            found.included += 1
        elif lines is not None:
            found.findings.append(f"{where} was published with other amounts")
        elif each.receipt.time_s < until_s:
            found.findings.append(f"{where} is in none of the periods, which cover its time")
        else:
            waiting += 1
    if waiting:
        newer = counted(waiting, "newer receipt")
        found.missing.append(f"the periods of {newer}, which have not ended")


def _claims(found: PeriodAudit, earnings: Iterable[Event], node: Address) -> None:
    """Compare what was published with what the node's adapters earned on the chain."""
    for event in earnings:
        if event.args["node"] == node:
            adapter_id = AdapterId(event.args["adapterId"])
            before = found.claimed.get(adapter_id, 0)
            found.claimed[adapter_id] = before + int(event.args["amount"])
    for adapter_id in sorted(found.published.keys() | found.claimed.keys()):
        published = found.published.get(adapter_id, 0)
        claimed = found.claimed.get(adapter_id, 0)
        if claimed < published:
            found.missing.append(
                f"the claim of {published - claimed} units of adapter {adapter_id}, which are "
                "published"
            )
        elif claimed > published:
            found.missing.append(
                f"the receipts of {claimed - published} units of adapter {adapter_id}, which were "
                "claimed: newer than the last period, or paid ahead"
            )
