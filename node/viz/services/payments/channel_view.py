"""Make the view of a channel that the node sends: a public one, or the whole one to its signer."""

from __future__ import annotations

from viz.domain.node_channel import NodeChannel
from viz.protocol.messages import ChannelLine, ChannelView


def view_of(channel: NodeChannel, *, private: bool) -> ChannelView:
    """Return the view of a channel; promised and delivered amounts only if ``private``."""
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
        closed_until_s=channel.no_sale_until_s,
    )
