"""Keep the day's sum up with answers that ended without a bill.

Owns what is added for such an answer after it was counted. It is counted with what is signed and
not billed (``Undelivered.takeable_units``): without another signature the node can take no more. If
the node demands another for it, or its bill is higher, the rest is added.

Invariant: what a voucher pays for such an answer is in the day's sum before it is signed.
"""

from __future__ import annotations

import structlog

from viz.buyer.ledger.held import count_killed
from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.network_record import NetworkFile
from viz.buyer.ledger.open_request import OpenRequest
from viz.domain.units import Units
from viz.errors import BooksMismatch, StoreError

_log = structlog.get_logger()


def note_counted(ledger: BuyerLedger, open_request: OpenRequest, units: Units) -> None:
    """Note that the day has counted ``units`` for an answer without a bill.

    If this cannot be written, a later process adds nothing for it.
    """
    open_request.counted_units = units
    try:
        ledger.keep_request(open_request)
    except StoreError as error:
        _log.warning("what the day counts for an answer is not recorded", reason=error.detail)


def count_up(ledger: BuyerLedger, open_request: OpenRequest, units: Units) -> None:
    """Have the day count at least ``units`` for an answer that it has counted; raise StoreError."""
    counted_units = open_request.counted_units
    if counted_units is None or units <= counted_units:
        return
    more_units = units - counted_units
    try:
        NetworkFile(ledger.home).change(lambda record: record.adding(more_units))
    except BooksMismatch as error:
        _log.warning("today's spending could not be recorded", reason=error.detail)
        return
    open_request.counted_units = units
    if not open_request.seq:
        ledger.keep_request(open_request)


def count_bill(ledger: BuyerLedger, open_request: OpenRequest) -> None:
    """Add what the bill of an answer is above what the day has counted or holds for it."""
    if open_request.unknown and open_request.held:
        count_killed(ledger.home, open_request)
    try:
        count_up(ledger, open_request, open_request.billed_units)
    except StoreError as error:
        _log.warning("today's spending could not be recorded", reason=error.detail)
