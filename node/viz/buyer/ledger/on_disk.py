"""Read a channel, and its node's standing, from the channel's files, without its key.

Owns the reading beside the process that holds the channel; ``viz.buyer.ledger.ledger`` writes.
"""

from __future__ import annotations

from pathlib import Path

from viz.buyer.ledger.folders import LEDGER_FILE, STANDING_FILE
from viz.buyer.ledger.format import replay
from viz.buyer.ledger.node_standing import NodeStanding
from viz.domain.buyer_channel import BuyerChannel
from viz.errors import BooksMismatch, InvalidRequest
from viz.protocol.wire import parse_json


def channel_on_disk(directory: Path, blank: BuyerChannel) -> BuyerChannel:
    """Return a channel as its files have it, without its key and its lock.

    ``blank`` is the channel before its first change. Raises BooksMismatch, OSError.
    """
    channel = blank
    try:
        raw = (directory / LEDGER_FILE).read_bytes()
    except FileNotFoundError:
        raw = b""
    # An incomplete last line is being written now, or a crash cut it short: it is not counted.
    for line in raw.rpartition(b"\n")[0].split(b"\n"):
        if line:
            try:
                channel = replay(channel, line)
            except (ValueError, KeyError, TypeError, InvalidRequest) as error:
                raise BooksMismatch(f"{directory / LEDGER_FILE} cannot be read") from error
    return channel


def standing_on_disk(directory: Path, channel: BuyerChannel) -> NodeStanding:
    """Return what is held for and against a channel's node; raise BooksMismatch."""
    path = directory / STANDING_FILE
    try:
        return NodeStanding.from_json(parse_json(path.read_bytes()))
    except FileNotFoundError:
        return NodeStanding.before_it_was_kept(channel)
    except (OSError, InvalidRequest) as error:
        raise BooksMismatch(f"{path} cannot be read: restore it") from error
