"""Define what a node publishes of its receipts: signed periods, and the blob of each.

Does no I/O. Invariant: the blob is canonical JSON (RFC 8785), so the same receipts give the same
CID.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from viz.domain.receipt_periods import PublishedReceipt
from viz.domain.strict_json import load_json
from viz.domain.typed_data import ReceiptPeriod
from viz.domain.units import Cid, hex_of
from viz.domain.usage import check_lines
from viz.errors import InvalidRequest
from viz.protocol.messages import SignatureHex
from viz.protocol.wire import Json, Reader, canonical_json, read_lines
from viz.protocol.wire_model import AtMost, Signed, WireModel, text, whole

# GET ?before=NUMBER -> ReceiptPeriods, the newest first.
PERIODS_PATH: Final = "/viz/v1/receipts/periods"
FORMAT: Final = "viz-receipts/1"
PERIODS_PAGE: Final = 64
MAX_PERIOD_RECEIPTS: Final = 1 << 18
# A receipt has one line. It takes at most 118 bytes of the blob, with six marks of JSON.
MAX_PERIOD_BYTES: Final = 32 * 1024 * 1024
_MAX_MARKS: Final = 6 * MAX_PERIOD_RECEIPTS + 8
_CID_CHARS: Final = 59


@dataclass(frozen=True, slots=True)
class SignedPeriod(WireModel):
    """A period, signed by its node (compact), and the blob of its receipts."""

    WHERE: ClassVar[str] = "the period"
    period: Annotated[ReceiptPeriod, Signed]
    signature: SignatureHex
    cid: Annotated[Cid, text(_CID_CHARS)]
    size_bytes: Annotated[int, whole(MAX_PERIOD_BYTES)]


@dataclass(frozen=True, slots=True)
class PeriodsPage(WireModel):
    """A page of periods, the newest first; ``next`` is the ``before`` of the next page."""

    WHERE: ClassVar[str] = "the periods"
    periods: Annotated[tuple[SignedPeriod, ...], AtMost(PERIODS_PAGE)]
    next: Annotated[int, whole(2**53 - 1)] | None = None


def period_blob(receipts: Sequence[PublishedReceipt]) -> bytes:
    """Return the blob of a period's receipts, which are in the order of their digests."""
    rows = [
        [hex_of(each.digest), [[int(key), str(units)] for key, units in each.lines]]
        for each in receipts
    ]
    return canonical_json({"format": FORMAT, "receipts": rows})


def receipts_of_blob(raw: bytes) -> tuple[PublishedReceipt, ...]:
    """Return the receipts of a blob, in its order; raise InvalidRequest if it is none."""
    if len(raw) > MAX_PERIOD_BYTES:
        raise InvalidRequest(f"a period's blob has at most {MAX_PERIOD_BYTES} bytes")
    try:
        value: Json = load_json(raw, max_values=_MAX_MARKS)
    except ValueError as error:
        raise InvalidRequest(f"the period's blob cannot be read as JSON: {error}") from error
    reader = Reader(value, "the period's blob")
    if reader.text("format") != FORMAT:
        raise InvalidRequest("the period's blob has a format that this version does not know")
    return tuple(_receipt(row) for row in reader.array("receipts", MAX_PERIOD_RECEIPTS))


def _receipt(row: object) -> PublishedReceipt:
    if not isinstance(row, list) or len(row) != 2:
        raise InvalidRequest("a receipt of a period's blob is [digest, lines]")
    reader = Reader({"digest": row[0]}, "a receipt of the period's blob")
    lines = read_lines(row[1])
    check_lines(lines)
    return PublishedReceipt(reader.hash32("digest"), lines)
