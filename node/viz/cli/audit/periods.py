"""Read the receipts that a node published, for `viz audit receipts --periods`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from viz.cli.http import get_as, get_bytes
from viz.errors import InvalidRequest

if TYPE_CHECKING:
    from viz.domain.receipt_periods import ReadPeriod

# Eleven years of days.
_MOST_PERIODS: Final = 4_096
_REMEDY: Final = "check --periods, or leave it out and check the receipts alone"


async def read_periods(node: str) -> list[ReadPeriod]:
    """Return all periods that a node published, the first one first.

    Their roots and signatures are the caller's to check. Raises NodeUnreachable, InvalidRequest for
    what is no period or no blob of one.
    """
    from viz.domain.receipt_periods import ReadPeriod
    from viz.protocol.receipt_periods import PERIODS_PATH, PeriodsPage, receipts_of_blob

    found: list[ReadPeriod] = []
    path = PERIODS_PATH
    while True:
        page = await get_as(PeriodsPage.from_json, node, path, remedy=_REMEDY)
        for each in page.periods:
            receipts = receipts_of_blob(await get_bytes(node, f"/ipfs/{each.cid}", remedy=_REMEDY))
            found.append(ReadPeriod(each.period, each.signature, receipts))
        if page.next is None:
            break
        if len(found) >= _MOST_PERIODS:
            raise InvalidRequest(f"{node} names more than {_MOST_PERIODS} periods: none is checked")
        path = f"{PERIODS_PATH}?before={page.next}"
    return sorted(found, key=lambda each: each.period.number)
