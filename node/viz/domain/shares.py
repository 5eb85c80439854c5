"""Split an adapter's revenue between contents, trainer and node, exactly as Settlement does.

Owns the share table, its packing and hash (one word a row, contentId << 16 | bps), and the split by
floors of cumulative amounts. Invariants: the order and number of claims and distributions affect
only when an amount is paid, not how much; no part exceeds its exact fraction; contents, trainer and
node together get an adapter's whole revenue except for at most two units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from viz.domain.display import percent
from viz.domain.eip712 import keccak
from viz.domain.units import BPS, ContentId, Hash32, Units
from viz.errors import InvalidRequest, LicenseError

MAX_SHARES: Final = 128


class Share(NamedTuple):
    """A content's part of an adapter's royalties."""

    content_id: ContentId
    bps: int


ShareTable = tuple[Share, ...]


def check_shares(shares: Iterable[Share]) -> ShareTable:
    """Return the table; raise InvalidRequest for one that AdapterRegistry would refuse."""
    table = tuple(Share(*share) for share in shares)
    if not 0 < len(table) <= MAX_SHARES:
        raise InvalidRequest(f"a share table has 1 to {MAX_SHARES} rows")
    ids = [share.content_id for share in table]
    if any(later <= earlier for earlier, later in pairwise(ids)):
        raise InvalidRequest("a share table must strictly ascend by content id")
    if any(not 0 < share.bps <= BPS for share in table):
        raise InvalidRequest("every share is 1 to 10,000 bps")
    if sum(share.bps for share in table) != BPS:
        raise InvalidRequest("the shares must sum to 10,000 bps")
    return table


def check_rates(royalty_bps: int, trainer_bps: int) -> None:
    """Raise InvalidRequest if contents and trainer would get more than the whole revenue."""
    if royalty_bps + trainer_bps > BPS:
        raise InvalidRequest(
            "royalty and trainer's share sum to more than 10,000 bps: lower one of them"
        )


def require_royalties(
    royalty_bps: int,
    trainer_bps: int,
    shares: Iterable[tuple[ContentId, int]],
    minimums: Mapping[ContentId, int],
) -> None:
    """Raise LicenseError if a content would get less than its grant asks, as AdapterRegistry does.

    ``minimums`` are the least parts of an adapter's gross revenue, in basis points, of all contents
    that it is trained on. Raises InvalidRequest if the table is not of these contents.
    """
    table = check_shares(sorted(Share(*row) for row in shares))
    if missing := sorted(minimums.keys() - {share.content_id for share in table}):
        raise InvalidRequest(f"work {missing[0]} has no row in the shares: add one")
    for share in table:
        if share.content_id not in minimums:
            raise InvalidRequest(
                f"the shares name work {share.content_id}, which is not trained on: leave it out"
            )
        minimum_bps = minimums[share.content_id]
        if royalty_bps * share.bps >= minimum_bps * BPS:
            continue
        least_bps = max(-(-minimums[each.content_id] * BPS // each.bps) for each in table)
        raise LicenseError(
            f"work {share.content_id} must get at least {percent(minimum_bps)} of the adapter's "
            f"gross revenue, and would get {percent(royalty_bps * share.bps // BPS)}, its part of "
            f"a royalty of {percent(royalty_bps)}: {_enough(least_bps, trainer_bps)}",
            contentId=int(share.content_id),
            leastRoyaltyBps=least_bps,
        )


def _enough(royalty_bps: int, trainer_bps: int) -> str:
    """Say which rates give every content its minimum."""
    if royalty_bps > BPS:
        return "no royalty is enough for works of these sizes, so train on fewer of them"
    said = f"set --royalty-bps (royaltyBps) to at least {royalty_bps}"
    if royalty_bps + trainer_bps <= BPS:
        return said
    return f"{said}, and --trainer-bps (trainerBps) to at most {BPS - royalty_bps}"


def share_words(shares: Iterable[Share]) -> tuple[int, ...]:
    """Return the table as Solidity's uint256[]."""
    return tuple(share[0] << 16 | share[1] for share in shares)


def shares_from_words(words: Iterable[int]) -> ShareTable:
    """Return the table of a uint256[] from an event."""
    return tuple(Share(ContentId(word >> 16), word & 0xFFFF) for word in words)


def shares_hash(shares: Iterable[Share]) -> Hash32:
    """Return keccak256 of the words, which AdapterRegistry stores."""
    return keccak(b"".join(word.to_bytes(32, "big") for word in share_words(shares)))


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of one amount of revenue; a unit lost by rounding is part of a later amount."""

    to_contents_units: Units
    to_trainer_units: Units
    to_node_units: Units


def split_revenue(
    before_units: Units,
    amount_units: Units,
    *,
    royalty_bps: int,
    trainer_bps: int,
    retired: bool = False,
    permitted: bool = True,
) -> Split:
    """Return the parts of ``amount_units`` of an adapter that earned ``before_units`` before.

    Each part is a difference of floors of the cumulative revenue, so that many small amounts are
    split like one large amount. After retirement everything goes to the contents. If the node has
    no permission, its part goes to the trainer (docs/contracts.md).
    """
    if retired:
        return Split(amount_units, 0, 0)

    def part(bps: int) -> Units:
        return (before_units + amount_units) * bps // BPS - before_units * bps // BPS

    contents, trainer = part(royalty_bps), part(trainer_bps)
    node = part(BPS - royalty_bps - trainer_bps)
    return Split(contents, trainer, node) if permitted else Split(contents, trainer + node, 0)


def split_base_model(amount_units: Units) -> Split:
    """Return the parts of revenue of adapter 0, the base model: everything to the node."""
    return Split(0, 0, amount_units)


def distribute(
    before_units: Units, accrued_units: Units, shares: Iterable[Share]
) -> tuple[tuple[ContentId, Units], ...]:
    """Return each content's part of ``accrued_units``, after ``before_units`` were distributed."""
    total = before_units + accrued_units
    return tuple(
        (share.content_id, total * share.bps // BPS - before_units * share.bps // BPS)
        for share in shares
    )
