"""Who gets what of an adapter's revenue: the share table and the cumulative floors.

Owns the packing and hash of the table (one word a row, contentId << 16 | bps) and the split of
revenue exactly as Settlement does it. Does not know owners, balances or transfers.

Invariants: the order and number of claims and distributions change nothing but by when; each part
never exceeds its exact fraction; contents, trainer and node together lack at most two units of an
adapter's whole revenue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from viz.domain.eip712 import keccak
from viz.domain.units import BPS, ContentId, Hash32, Units
from viz.errors import InvalidRequest

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


def share_words(shares: Iterable[Share]) -> tuple[int, ...]:
    """Return the table as Solidity's uint256[]."""
    return tuple(share[0] << 16 | share[1] for share in shares)


def shares_from_words(words: Iterable[int]) -> ShareTable:
    """Return the table behind a uint256[] as an event carries it."""
    return tuple(Share(ContentId(word >> 16), word & 0xFFFF) for word in words)


def shares_hash(shares: Iterable[Share]) -> Hash32:
    """Return keccak256 of the words: what AdapterRegistry stores of the table."""
    return keccak(b"".join(word.to_bytes(32, "big") for word in share_words(shares)))


@dataclass(frozen=True, slots=True)
class Split:
    """One amount of revenue, divided; what the parts lack of it is rounding, still to come."""

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
    """Return the parts of ``amount_units``, given that the adapter earned ``before_units`` before.

    Floors over the cumulative revenue. After retirement all goes to the contents; where the node
    has no permission, its part goes to the trainer (docs/contracts.md).
    """
    if retired:
        return Split(amount_units, 0, 0)

    def part(bps: int) -> Units:
        return (before_units + amount_units) * bps // BPS - before_units * bps // BPS

    contents, trainer = part(royalty_bps), part(trainer_bps)
    node = part(BPS - royalty_bps - trainer_bps)
    return Split(contents, trainer, node) if permitted else Split(contents, trainer + node, 0)


def split_base_model(amount_units: Units) -> Split:
    """Return the parts of revenue of adapter 0, the bare base model: all to the node."""
    return Split(0, 0, amount_units)


def distribute(
    before_units: Units, accrued_units: Units, shares: Iterable[Share]
) -> tuple[tuple[ContentId, Units], ...]:
    """Return what each content gets of ``accrued_units``, ``before_units`` already divided."""
    total = before_units + accrued_units
    return tuple(
        (share.content_id, total * share.bps // BPS - before_units * share.bps // BPS)
        for share in shares
    )
