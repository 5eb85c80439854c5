"""Write and replay the lines of a buyer's ledger, one JSON object per change.

Owns the text form of changes, the snapshot that replaces many of them, and how a channel is rebuilt
from them. Does no I/O.

Invariant: replaying the changes of a channel in order gives that channel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from viz.domain.buyer_channel import BuyerChannel, ReceiptLink, hear, observe, take_receipt
from viz.domain.node_channel import Vector
from viz.domain.ports.chain import ChannelState
from viz.domain.units import UINT32_MAX, UINT64_MAX, AdapterId, Units, hex_of
from viz.domain.usage import spelled_lines
from viz.errors import InvalidRequest
from viz.protocol.wire import Json, Reader


def signing_line(raised: Vector) -> Json:
    """Return the line of a signature: the raised amounts, whose new sum is an end point."""
    return {"event": "sign", "vector": _vector_to_json(raised)}


def final_line(at_end: Vector, vector: Vector) -> Json:
    """Return the line of a final voucher, which ends at ``at_end``."""
    return {"event": "final", "end": _vector_to_json(at_end), "vector": _vector_to_json(vector)}


def observation_line(seen: ChannelState) -> Json:
    """Return the line of a confirmed reading of the chain."""
    return {"event": "proven", **_state_to_json(seen)}


def said_line(said: ChannelState) -> Json:
    """Return the line of what the node says of the chain."""
    return {"event": "said", **_state_to_json(said)}


def _state_to_json(state: ChannelState) -> Json:
    return {
        "payer": state.payer,
        "deposit": str(state.deposit_units),
        "settled": str(state.settled_units),
        "closeAt": state.close_at,
    }


def receipt_line(link: ReceiptLink, billed: str = "") -> Json:
    """Return the line of a verified receipt; ``billed`` names the kept request that it billed."""
    return {"event": "receipt", **_link_to_json(link), **({"billed": billed} if billed else {})}


def billed_by(line: bytes) -> set[str]:
    """Return the name of the kept request that this line billed; empty if it billed none."""
    members = json.loads(line)
    return {str(members["billed"])} if "billed" in members else set()


def snapshot_line(channel: BuyerChannel) -> Json:
    """Return the line that holds a whole channel."""
    return {
        "event": "snapshot",
        "payer": channel.payer,
        "deposit": str(channel.deposit_units),
        "settled": str(channel.settled_units),
        "closeAt": channel.close_at_s,
        "proven": str(channel.proven_units),
        "vector": _vector_to_json(channel.vector),
        "points": {str(end): _vector_to_json(at) for end, at in channel.points.items()},
        "spent": _vector_to_json(channel.billed),
        "seq": channel.seq,
        "head": hex_of(channel.head),
        "linked": str(channel.linked_units),
        "unlinked": [_link_to_json(link) for link in channel.unlinked.values()],
    }


def replay(channel: BuyerChannel, line: bytes) -> BuyerChannel:
    """Return the channel after one line; raise InvalidRequest or ValueError for a bad line."""
    members = json.loads(line)
    reader = Reader(members, "the ledger's line")
    event = reader.text("event", 16)
    if event == "sign":
        vector = {**channel.vector, **_vector(members["vector"])}
        after = replace(channel, vector=vector)
        return replace(after, points={**channel.points, after.total_units: vector})
    if event == "final":
        at_end, vector = _vector(members["end"]), _vector(members["vector"])
        points = {**channel.points, sum(at_end.values()): at_end}
        return replace(channel, vector=vector, points=points)
    if event == "proven":
        return observe(channel, _seen(channel, reader))
    # Older ledgers wrote "chain" both for a reading and for the node's word: it proves nothing.
    if event in ("said", "chain"):
        return hear(channel, _seen(channel, reader))
    if event == "receipt":
        return take_receipt(channel, _link(reader))
    if event == "snapshot":
        return _snapshot(channel, reader, members)
    raise InvalidRequest(f"{event!r} is not a change of a ledger")


def _snapshot(channel: BuyerChannel, reader: Reader, members: Json) -> BuyerChannel:
    links = [_link(Reader(item, "a receipt")) for item in members["unlinked"]]
    return BuyerChannel(
        signer=channel.signer,
        node=channel.node,
        payer=reader.address("payer"),
        deposit_units=reader.units("deposit"),
        settled_units=reader.units("settled"),
        close_at_s=reader.integer("closeAt", UINT64_MAX),
        proven_units=reader.optional("proven", reader.units) or 0,
        vector=_vector(members["vector"]),
        points={int(end): _vector(at) for end, at in members["points"].items()},
        billed=_vector(members["spent"]),
        seq=reader.integer("seq", UINT64_MAX),
        head=reader.hash32("head"),
        linked_units=reader.units("linked"),
        unlinked={link.seq: link for link in links},
    )


def _seen(channel: BuyerChannel, reader: Reader) -> ChannelState:
    return ChannelState(
        signer=channel.signer,
        node=channel.node,
        payer=reader.address("payer"),
        deposit_units=reader.units("deposit"),
        settled_units=reader.units("settled"),
        close_at=reader.integer("closeAt", UINT64_MAX),
    )


def _link_to_json(link: ReceiptLink) -> Json:
    return {
        "seq": link.seq,
        "digest": hex_of(link.digest),
        "total": str(link.total_units),
        "lines": spelled_lines(link.lines),
    }


def _link(reader: Reader) -> ReceiptLink:
    return ReceiptLink(
        seq=reader.integer("seq", UINT64_MAX),
        digest=reader.hash32("digest"),
        total_units=reader.units("total"),
        lines=reader.lines("lines"),
    )


def _vector_to_json(vector: Vector) -> Json:
    return {str(key): str(units) for key, units in vector.items()}


def _vector(value: object) -> dict[AdapterId, Units]:
    if not isinstance(value, Mapping):
        raise InvalidRequest("a vector of amounts is not a JSON object")
    reader = Reader(value, "a vector of amounts")
    found = {AdapterId(int(key)): reader.units(key) for key in value}
    if any(not 0 <= key <= UINT32_MAX for key in found):
        raise InvalidRequest("a vector of amounts names an adapter beyond 32 bits")
    return found
