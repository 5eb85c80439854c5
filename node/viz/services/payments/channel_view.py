"""What a node tells of a channel: to anybody, or also to its signer.

Owns the ChannelView that answers are made of. Does not read the ledger or the chain.
"""

from __future__ import annotations

from viz.domain.node_channel import NodeChannel
from viz.protocol.messages import ChannelLine, ChannelView


def view_of(channel: NodeChannel, *, private: bool) -> ChannelView:
    """Return the channel; what was promised and delivered only when ``private``."""
    keys = channel.base_vector.keys() | channel.spent.keys()
    keys |= {line.adapter_id for line in channel.best_lines}
    lines = tuple(
        ChannelLine(key, channel.accepted_units(key), channel.spent.get(key, 0))
        for key in sorted(keys)
    )
    return ChannelView(
        signer=channel.signer,
        node=channel.node,
        payer=channel.payer,
        deposit_units=channel.deposit_units,
        settled_units=channel.settled_units,
        close_at_s=channel.close_at_s,
        base_units=channel.base_units,
        best=channel.best_lines if private else (),
        lines=lines if private else (),
        seq=channel.seq,
        head=channel.head,
    )
