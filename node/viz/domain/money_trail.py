"""Follow what a channel paid through a node's claims to the works' owners, by the logs alone.

Pure. A finding is a sentence about a contradiction between what the receipts bill and what the
contracts' events say that was claimed and earned. What has not happened yet is missing. Whether
each event follows the contracts' rules is ``viz.domain.settlement_audit``'s to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from viz.domain.ports.transactions import Event
from viz.domain.shares import Share, distribute, shares_from_words
from viz.domain.units import BASE_MODEL, AdapterId, Address, ContentId, Hash32, Units, hex_of


@dataclass(frozen=True, slots=True)
class WorkPart:
    """A work's part of one claim. ``paid``: it was distributed; if not, it waits in Settlement."""

    content_id: ContentId
    owner: Address | None
    units: Units
    paid: bool


@dataclass(frozen=True, slots=True)
class EarnedTrail:
    """What one claim gave to an adapter, of all channels that were claimed together."""

    transaction: Hash32
    block: int
    adapter_id: AdapterId
    node: Address
    earned_units: Units
    to_works_units: Units
    to_trainer_units: Units
    to_node_units: Units
    works: tuple[WorkPart, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the trail as JSON values; amounts are base units."""
        return {
            "transaction": hex_of(self.transaction),
            "block": self.block,
            "adapterId": int(self.adapter_id),
            "node": self.node,
            "earned": str(self.earned_units),
            "toWorks": str(self.to_works_units),
            "toTrainer": str(self.to_trainer_units),
            "toNode": str(self.to_node_units),
            "works": [
                {
                    "contentId": int(part.content_id),
                    "owner": part.owner,
                    "units": str(part.units),
                    "paid": part.paid,
                }
                for part in self.works
            ],
        }


@dataclass(slots=True)
class MoneyTrail:
    """A channel's money: what was billed and claimed, and where it went."""

    billed_units: Units
    claimed_units: Units = 0
    earned: list[EarnedTrail] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; amounts are base units."""
        return {
            "billed": str(self.billed_units),
            "claimed": str(self.claimed_units),
            "earned": [each.to_json() for each in self.earned],
        }


def follow(
    events: Iterable[Event],
    channel_id: Hash32,
    billed: Mapping[AdapterId, Units],
    node: Address,
    *,
    ended: bool = False,
) -> MoneyTrail:
    """Follow what a channel's receipts bill, adapter by adapter, through the contracts' events.

    ``billed`` is the sum of the receipts' lines. With nothing billed nothing is followed. A voucher
    pays a step ahead, so that more may be claimed than is billed until the channel has ``ended``.
    """
    found = MoneyTrail(sum(billed.values()))
    ordered = sorted(events, key=lambda each: (each.block_number, each.log_index))
    settled = 0
    claims: set[Hash32] = set()
    for event in ordered:
        if event.name == "Claimed" and Hash32(event.args["channelId"]) == channel_id:
            claims.add(event.transaction_hash)
            settled = int(event.args["settled"])
    found.claimed_units = settled
    found.earned = _earned(ordered, claims, billed.keys())
    if ended and settled > found.billed_units:
        found.findings.append(
            f"the channel ended with {settled} units claimed, and its receipts bill "
            f"{found.billed_units}"
        )
    if settled < found.billed_units:
        found.missing.append(
            f"the claim of {found.billed_units - settled} of {found.billed_units} units"
        )
        return found
    for adapter_id, units in sorted(billed.items()):
        ours = [each for each in found.earned if each.adapter_id == adapter_id]
        total = sum(each.earned_units for each in ours)
        if total < units:
            found.findings.append(
                f"{units} units were paid for adapter {adapter_id}, and it earned {total} in the "
                "claims of them"
            )
        for each in ours:
            if each.node != node:
                found.findings.append(
                    f"transaction {hex_of(each.transaction)} credits {each.node}, and {node} "
                    "answered"
                )
    return found


def _earned(
    ordered: Iterable[Event], claims: set[Hash32], adapters: Iterable[AdapterId]
) -> list[EarnedTrail]:
    """Return what these claims gave to these adapters, with each work's part of it."""
    wanted = set(adapters)
    shares: dict[AdapterId, tuple[Share, ...]] = {}
    owners: dict[ContentId, Address] = {}
    works_units: dict[AdapterId, Units] = defaultdict(int)
    given: dict[AdapterId, Units] = defaultdict(int)
    parts: list[tuple[Event, Units]] = []
    for event in ordered:
        args = event.args
        if event.contract == "ContentRegistry" and event.name == "Transfer":
            owners[ContentId(args["tokenId"])] = Address(args["to"])
        elif event.name == "AdapterRegistered":
            shares[AdapterId(args["adapterId"])] = tuple(shares_from_words(args["shares"]))
        elif event.name == "Distributed":
            given[AdapterId(args["adapterId"])] += int(args["accrued"])
        elif event.name == "Earned":
            adapter_id = AdapterId(args["adapterId"])
            if event.transaction_hash in claims and adapter_id in wanted:
                parts.append((event, works_units[adapter_id]))
            works_units[adapter_id] += int(args["toContents"])
    return [_trail(event, before, shares, owners, given) for event, before in parts]


def _trail(
    event: Event,
    before: Units,
    shares: Mapping[AdapterId, tuple[Share, ...]],
    owners: Mapping[ContentId, Address],
    given: Mapping[AdapterId, Units],
) -> EarnedTrail:
    args, adapter_id = event.args, AdapterId(event.args["adapterId"])
    to_works = int(args["toContents"])
    works: tuple[WorkPart, ...] = ()
    if adapter_id != BASE_MODEL:
        paid = given.get(adapter_id, 0) >= before + to_works
        works = tuple(
            WorkPart(content_id, owners.get(content_id), units, paid)
            for content_id, units in distribute(before, to_works, shares.get(adapter_id, ()))
        )
    return EarnedTrail(
        event.transaction_hash,
        event.block_number,
        adapter_id,
        Address(args["node"]),
        int(args["amount"]),
        to_works,
        int(args["toTrainer"]),
        int(args["toNode"]),
        works,
    )
