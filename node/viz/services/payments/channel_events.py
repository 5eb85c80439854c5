"""Tell the services that must act on it what another service learned about a channel.

``ChannelStore``, ``ClaimService`` and ``Reconciliation`` each learn facts that another one needs at
once, but none of them has a reference to another. Instead, each gets the same ``ChannelEvents``
when it is made.
"""

from __future__ import annotations

from collections.abc import Callable

from viz.domain.units import Address

Listener = Callable[[Address], None]


class ChannelEvent:
    """Hold the listeners of one event, and call them with the channel's signer."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` at every later event, in the task of the service that tells it.

        A listener only notes the event. It waits for nothing and raises nothing.
        """
        self._listeners.append(listener)

    def tell(self, signer: Address) -> None:
        """Call all listeners, in the order in which they were added."""
        for listener in self._listeners:
            listener(signer)


class ChannelEvents:
    """Hold the events of one node's channels.

    ``close_seen``: a reading of the chain shows a close request for the channel. Told at each such
    reading.
    ``row_frozen``: a voucher became a claim row, so the stored channel has a new base. Told after
    the commit.
    ``mismatch_found``, ``mismatch_gone``: the ledger and the chain disagree on the channel, or
    agree on it again.
    """

    def __init__(self) -> None:
        self.close_seen = ChannelEvent()
        self.row_frozen = ChannelEvent()
        self.mismatch_found = ChannelEvent()
        self.mismatch_gone = ChannelEvent()
