"""Publish, period by period, the digests and amounts of all receipts that this node made.

Owns which receipts are in a period, and the files of the periods. A period ends at midnight UTC and
is published some time later. A receipt that is stored after that (the node's clock was set back) is
in the next period.

Invariants: each receipt is in exactly one period, also after a kill: the last receipt of a period
is recorded before the period is published, and the same receipts give the same blob. A period
without receipts is left out.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from viz.domain.eip712 import Domain, sign_compact
from viz.domain.ports.blobs import BlobStore
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import ChannelLedger, ReceiptRecord
from viz.domain.receipt_periods import PublishedReceipt, amounts_of, in_order, root_of
from viz.domain.strict_json import load_json
from viz.domain.typed_data import ReceiptPeriod
from viz.domain.units import ZERO_HASH, Address
from viz.errors import InvalidRequest, StorageUnavailable
from viz.private import make_private_folder, write_private
from viz.protocol.payment import receipt_from_json
from viz.protocol.receipt_periods import (
    MAX_PERIOD_RECEIPTS,
    PERIODS_PAGE,
    PeriodsPage,
    SignedPeriod,
    period_blob,
)
from viz.services.upkeep.supervision import periodically

PERIOD_S: Final = 86_400
# This long after a period's end, its last receipts are certainly stored.
MARGIN_S: Final = 900
_LOOK_S: Final = 600.0
_PAGE: Final = 256
_NAME: Final = re.compile(r"([1-9][0-9]{0,8})\.json", re.ASCII)
_MAX_FILE_BYTES: Final = 64 * 1024 * 1024
_log = structlog.get_logger()

# The number of the last published receipt of each channel, by signer.
Places = Mapping[Address, int]


@dataclass(frozen=True, slots=True)
class _Gathered:
    receipts: Sequence[PublishedReceipt]
    places: Places
    first_s: int


class ReceiptPeriods:
    """The published periods of one node; ``folder`` has a file for each."""

    def __init__(
        self,
        ledger: ChannelLedger,
        blobs: BlobStore,
        clock: Clock,
        folder: Path,
        *,
        key: bytes,
        domain: Domain,
        node: Address,
    ) -> None:
        self._ledger, self._blobs, self._clock, self._folder = ledger, blobs, clock, folder
        self._key, self._domain, self._node = key, domain, node
        self._kept: list[SignedPeriod] | None = None
        self._busy = asyncio.Lock()

    async def run(self) -> None:
        """Publish each period that has ended, until cancelled."""
        await periodically(
            self._publish_all, _LOOK_S, _log.warning, "receipts are not published yet"
        )

    async def _publish_all(self) -> None:
        while await self.publish():
            pass

    async def page(self, before: int | None = None) -> PeriodsPage:
        """Return the newest periods, or those with lower numbers than ``before``."""
        kept = await self._periods()
        end = len(kept) if before is None else max(0, min(before - 1, len(kept)))
        begin = max(0, end - PERIODS_PAGE)
        return PeriodsPage(tuple(reversed(kept[begin:end])), begin + 1 if begin else None)

    async def publish(self) -> SignedPeriod | None:
        """Publish the next period and return it; None if there are no receipts to publish yet.

        Raises StoreError, StorageError.
        """
        async with self._busy:
            kept = await self._periods()
            last = kept[-1].period if kept else None
            since_s = last.until_s if last else 0
            until_s = (self._clock.now_s() - MARGIN_S) // PERIOD_S * PERIOD_S
            if until_s <= since_s:
                return None
            places = await self._places(len(kept), since_s)
            gathered = await self._gather(places, until_s)
            if not gathered.receipts:
                return None
            since_s = since_s or gathered.first_s // PERIOD_S * PERIOD_S
            empty_s = since_s
            while len(gathered.receipts) > MAX_PERIOD_RECEIPTS and until_s - empty_s > 1:
                # Too many receipts for one blob: choose a shorter period that has some.
                middle_s = (empty_s + until_s) // 2
                shorter = await self._gather(places, middle_s)
                if shorter.receipts:
                    gathered, until_s = shorter, middle_s
                else:
                    empty_s = middle_s
            made = await self._sign(gathered, last, since_s, until_s)
            # Write the places first: they define the period's receipts if the node is killed next.
            number = made.period.number
            await self._write(self._places_of(number), gathered.places)
            await self._write(self._folder / f"{number}.json", made.to_json())
            self._kept = [*kept, made]
            await asyncio.to_thread(self._places_of(number - 1).unlink, missing_ok=True)
            _log.info("receipts published", period=number, receipts=made.period.count)
            return made

    async def _sign(
        self, gathered: _Gathered, last: ReceiptPeriod | None, since_s: int, until_s: int
    ) -> SignedPeriod:
        receipts = in_order(gathered.receipts)
        root, blob = await asyncio.to_thread(lambda: (root_of(receipts), period_blob(receipts)))
        cid = await self._blobs.add(blob)
        period = ReceiptPeriod(
            self._node,
            last.number + 1 if last else 1,
            since_s,
            until_s,
            last.root if last else ZERO_HASH,
            root,
            len(receipts),
            sum(amounts_of(receipts).values()),
        )
        signature = sign_compact(self._key, self._domain.digest(period))
        return SignedPeriod(period, signature, cid, len(blob))

    async def _gather(self, places: Places, until_s: int) -> _Gathered:
        """Return the receipts after ``places`` that were made before ``until_s``.

        A channel's receipts are taken in order, so that one number is enough to record how far. So
        a receipt with a later time is included if one after it was made before ``until_s``.
        """
        found: list[PublishedReceipt] = []
        reached, first_s = dict(places), until_s
        for channel in await self._ledger.channels():
            seq, later = reached.get(channel.signer, 0), list[ReceiptRecord]()
            while seq < channel.seq and len(found) <= MAX_PERIOD_RECEIPTS:
                page = await self._ledger.receipts(channel.signer, after=seq, limit=_PAGE)
                if not page:
                    break
                seq, read = page[-1].seq, [*later, *page]
                due = [at for at, each in enumerate(read, start=1) if each.created_at < until_s]
                taken, later = read[: due[-1] if due else 0], read[due[-1] if due else 0 :]
                found += await asyncio.to_thread(_all_published, taken)
                if taken:
                    reached[channel.signer] = taken[-1].seq
                    first_s = min(first_s, *(each.created_at for each in taken))
        return _Gathered(found, reached, first_s)

    async def _places(self, number: int, since_s: int) -> Places:
        """Return the last receipt of the newest period in each channel."""
        if not number:
            return {}
        path = self._places_of(number)
        try:
            value: Any = await asyncio.to_thread(_read, path)
            return {Address(signer): int(seq) for signer, seq in value.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            _log.warning("receipts are counted again by their times", reason=str(error))
        # The file was lost: what was made before the newest period's end is published.
        return (await self._gather({}, since_s)).places

    async def _periods(self) -> list[SignedPeriod]:
        if self._kept is None:
            self._kept = await asyncio.to_thread(self._load)
        return self._kept

    def _load(self) -> list[SignedPeriod]:
        """Return the periods on the disk; raise StorageUnavailable if one is lost or damaged."""
        names = self._folder.iterdir() if self._folder.is_dir() else ()
        numbers = sorted(int(name[1]) for path in names if (name := _NAME.fullmatch(path.name)))
        found = []
        for number in numbers:
            path = self._folder / f"{number}.json"
            try:
                found.append(SignedPeriod.from_json(_read(path)))
            except (OSError, ValueError, InvalidRequest) as error:
                raise StorageUnavailable(
                    f"{path}, a published period of receipts, cannot be read ({error}): restore it "
                    "from a backup"
                ) from error
        if [each.period.number for each in found] != list(range(1, len(found) + 1)):
            raise StorageUnavailable(
                f"{self._folder} lacks a published period of receipts: restore it from a backup"
            )
        return found

    def _places_of(self, number: int) -> Path:
        return self._folder / f"{number}.places.json"

    async def _write(self, path: Path, value: object) -> None:
        def write() -> None:
            make_private_folder(path.parent)
            write_private(path, json.dumps(value).encode() + b"\n")

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            raise StorageUnavailable(f"{path} cannot be written: {error.strerror}") from error


def _all_published(records: Sequence[ReceiptRecord]) -> list[PublishedReceipt]:
    return [
        PublishedReceipt(each.digest, receipt_from_json(load_json(each.body)).lines)
        for each in records
    ]


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        raw = file.read(_MAX_FILE_BYTES + 1)
    return load_json(raw, max_values=None)
