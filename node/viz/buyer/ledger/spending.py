"""Record what a buyer spent by day and model, from verified receipts.

Owns the record beside the channel's ledger and the report that is made from it. The ledger has the
true sum. What its receipts bill beyond this record (answers that broke off, and what older versions
paid) is reported as one sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import structlog

from viz.buyer.ledger.folders import (
    KEY_FILE,
    LEDGER_FILE,
    NO_KEY,
    KeptChannel,
    kept_channels,
)
from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.on_disk import channel_on_disk
from viz.domain.buyer_channel import BuyerChannel
from viz.domain.ports.chain import Deployment
from viz.domain.ports.clock import Clock
from viz.domain.receipt import SignedReceipt
from viz.domain.units import ZERO_ADDRESS, Units
from viz.errors import BooksMismatch, InvalidRequest, StoreError
from viz.protocol.wire import JSON_INTEGER_MAX, Json, Reader, parse_json

DAYS_KEPT: Final = 400
MAX_RECORD_BYTES: Final = 8 * 1024 * 1024
RECORD: Final = "spending.json"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Spent:
    """A number of requests, with their tokens and their cost."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    units: Units = 0

    def plus(self, other: Spent) -> Spent:
        return Spent(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.units + other.units,
        )

    def to_json(self) -> Json:
        return {
            "requests": self.requests,
            "promptTokens": self.prompt_tokens,
            "completionTokens": self.completion_tokens,
            "units": str(self.units),
        }

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(
            reader.integer("requests", JSON_INTEGER_MAX),
            reader.integer("promptTokens", JSON_INTEGER_MAX),
            reader.integer("completionTokens", JSON_INTEGER_MAX),
            reader.units("units"),
        )


Days = dict[str, dict[str, Spent]]  # by day (UTC), then by model


class Spending:
    """The record of one channel, and the sum of this process."""

    def __init__(self, ledger: BuyerLedger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._days = read_days(ledger.directory)
        self._before_units = sum(ledger.channel.billed.values())
        self.run = Spent()

    def note(self, model: str, signed: SignedReceipt) -> None:
        """Add a verified receipt; if the record cannot be written, log it and go on."""
        receipt = signed.receipt
        spent = Spent(1, receipt.prompt_tokens, receipt.completion_tokens, receipt.amount_units)
        self.run = self.run.plus(spent)
        day = datetime.fromtimestamp(self._clock.now_s(), UTC).strftime("%Y-%m-%d")
        models = self._days.setdefault(day, {})
        models[model] = models.get(model, Spent()).plus(spent)
        for old in sorted(self._days)[:-DAYS_KEPT]:
            del self._days[old]
        try:
            self._ledger.keep_record(RECORD, _to_json(self._days))
        except StoreError as error:
            _log.warning("what was spent is not recorded", reason=error.detail)

    def report(self) -> Json:
        """Return what was spent on the channel, and in this process.

        The process's units are all that was billed in it, also late and for answers without an end.
        """
        billed_units = sum(self._ledger.channel.billed.values()) - self._before_units
        run = replace(self.run, units=max(self.run.units, billed_units))
        return {**report(self._ledger.channel, self._days), "run": run.to_json()}


def report(channel: BuyerChannel, days: Days, *, former: bool = False) -> Json:
    """Return what was spent on a channel: in all, by day and model, and what no day lists.

    Nothing is left in a ``former`` channel: it was empty when it was set aside.
    """
    total_units = sum(channel.billed.values())
    listed_units = sum(spent.units for models in days.values() for spent in models.values())
    return {
        "node": channel.node,
        "signer": channel.signer,
        "former": former,
        "spent": str(total_units),
        "left": str(0 if former else max(0, channel.limit_units - total_units)),
        "unlisted": str(max(0, total_units - listed_units)),
        "days": [
            {"day": day, "model": model, **spent.to_json()}
            for day, models in sorted(days.items())
            for model, spent in sorted(models.items())
        ],
    }


def reports_on_disk(home: Path, deployment: Deployment) -> tuple[list[Json], list[Path]]:
    """Return the report of every channel in ``home``, the former ones last, from its files.

    Needs neither a channel's key nor its lock. Of several copies of one channel the one with the
    most receipts counts. The second result is the folders that cannot be read; the log names them
    too.
    """
    found: dict[object, tuple[int, Json]] = {}
    unread: list[Path] = []
    for kept, channel in channels_on_disk(home, deployment):
        if channel is None:
            unread.append(kept.directory)
            continue
        name = (kept.node, kept.signer) if kept.signer else kept.directory
        told = report(channel, read_days(kept.directory), former=kept.former)
        told["signer"] = kept.signer
        seq, before = found.get(name, (-1, told))
        if channel.seq > seq:
            found[name] = channel.seq, {**told, "former": before["former"], "left": before["left"]}
    return [told for _, told in found.values()], unread


def channels_on_disk(
    home: Path, deployment: Deployment
) -> Iterator[tuple[KeptChannel, BuyerChannel | None]]:
    """Yield every channel in ``home`` as its files have it, the former ones last.

    The channel is None if its ledger cannot be read. The log names each ledger and each session key
    that cannot be read, so that what is damaged in one channel's folder does not hinder others.
    """
    for kept in kept_channels(home, deployment):
        if kept.signer is None:
            if not any((kept.directory / name).exists() for name in (KEY_FILE, LEDGER_FILE)):
                continue  # nothing was signed here yet
            _log.warning(
                "a session key cannot be read, and its channel cannot be paid from",
                path=str(kept.directory / KEY_FILE),
                remedy=NO_KEY,
            )
        blank = BuyerChannel(kept.signer or ZERO_ADDRESS, kept.node)
        channel: BuyerChannel | None = None
        try:
            channel = channel_on_disk(kept.directory, blank)
        except (BooksMismatch, OSError) as error:
            _log.warning("a channel's ledger is left out", reason=str(error))
        yield kept, channel


def read_days(directory: Path) -> Days:
    """Return the record in a channel's folder; warn and begin a new one if it is unreadable."""
    path = directory / RECORD
    try:
        raw = parse_json(path.read_bytes(), max_bytes=MAX_RECORD_BYTES)
        return {
            day: {model: Spent.read(Reader(spent, "a record")) for model, spent in models.items()}
            for day, models in raw.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, InvalidRequest, AttributeError) as error:
        _log.warning("the record of what was spent cannot be read", path=str(path), why=str(error))
        return {}


def _to_json(days: Days) -> Json:
    return {
        day: {model: spent.to_json() for model, spent in models.items()}
        for day, models in days.items()
    }
