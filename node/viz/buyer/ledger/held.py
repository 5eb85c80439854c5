"""Free what the day's budget holds for an answer whose process was killed, as far as it is known.

Owns the way from a kept request to the reservation that its process made. What was signed is the
most that a node can take, so no more stays held; when the bill is known, it counts instead.

Invariant: only what a process that was killed had reserved is changed. Whoever holds a channel's
lock knows that the earlier process which asked there has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog

from viz.buyer.ledger.folders import ChannelHeld, directories_in, hold, node_of
from viz.buyer.ledger.network_record import NetworkFile, NetworkRecord, RecordChange
from viz.buyer.ledger.node_standing import NodeStanding
from viz.buyer.ledger.on_disk import channel_on_disk, standing_on_disk
from viz.buyer.ledger.open_request import OpenRequest
from viz.buyer.ledger.request_journal import ASKED, RequestJournal
from viz.domain.buyer_channel import BuyerChannel
from viz.domain.ports.chain import Deployment
from viz.domain.units import ZERO_ADDRESS, AdapterId, Units
from viz.errors import BooksMismatch, InvalidRequest, StoreError

_log = structlog.get_logger()


def shrink_held(
    home: Path, channel: BuyerChannel, standing: NodeStanding, kept: Iterable[OpenRequest]
) -> None:
    """Hold no more for the answers of killed processes than is signed for them and not billed.

    The caller has the channel's lock; ``kept`` are the requests of earlier processes. A node that
    delivers on credit may demand more, so what is held for its answers stays.
    """
    kept = list(kept)
    killed = [each for each in kept if each.unknown and each.held and each.counted_units is None]
    if not killed or standing.credits:
        return
    takeable: dict[str, Units] = {}
    rest_units: dict[AdapterId, Units] = {}
    for each in killed:
        adapter_id = each.adapter_id
        if adapter_id not in rest_units:
            counted = [one.counted_units or 0 for one in kept if one.adapter_id == adapter_id]
            rest_units[adapter_id] = max(0, channel.unused_units(adapter_id) - sum(counted))
        units = min(max(each.most_units, each.asked_units), rest_units[adapter_id])
        rest_units[adapter_id] -= units
        takeable[each.held] = takeable.get(each.held, 0) + units

    def shrunk(record: NetworkRecord) -> NetworkRecord:
        for name, units in takeable.items():
            if name in record.held:
                day, held_units = record.held[name]
                record = record.holding(name, day, min(held_units, units))
        return record

    _change(home, shrunk)


def shrink_all_held(home: Path, deployment: Deployment) -> None:
    """Do the same for every channel that no process uses. Needs no key; blocks."""
    for directory in directories_in(home, deployment):
        try:
            lock = hold(directory)
        except (ChannelHeld, OSError):
            continue
        try:
            blank = BuyerChannel(ZERO_ADDRESS, node_of(directory))
            channel = channel_on_disk(directory, blank)
            kept = RequestJournal(directory / ASKED).load(set())
            shrink_held(home, channel, standing_on_disk(directory, channel), kept)
        except (OSError, BooksMismatch, InvalidRequest) as error:
            _log.warning("what is held of the day stays held", reason=str(error))
        finally:
            lock.release()


def count_killed(home: Path, open_request: OpenRequest) -> None:
    """Count the bill of an answer whose process was killed, in place of what is held for it."""
    name, billed_units = open_request.held, open_request.billed_units

    def counted(record: NetworkRecord) -> NetworkRecord:
        if name not in record.held:
            return record
        return record.adding(billed_units).holding(name, record.held[name][0], 0)

    _change(home, counted)
    open_request.held = ""


def _change(home: Path, change: RecordChange) -> None:
    try:
        NetworkFile(home).change(change)
    except (StoreError, BooksMismatch) as error:
        _log.warning("today's spending could not be recorded", reason=error.detail)
