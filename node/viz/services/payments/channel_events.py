"""Pass what one service learns of a channel on to the services that must act on it.

``ChannelStore``, ``ClaimService`` and ``Reconciliation`` each learn something that another one has
to know at once, and none of them holds another. They share one ``ChannelEvents`` instead, given to
each when it is made.
"""

from __future__ import annotations

from collections.abc import Callable

from viz.domain.units import Address

Listener = Callable[[Address], None]


class ChannelEvent:
    """Call every listener with the channel's signer when the event is told."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` at every later event, in the task of the service that tells it.

        A listener only notes the event: it does not wait for anything, and it raises nothing.
        """
        self._listeners.append(listener)

    def tell(self, signer: Address) -> None:
        """Call the listeners, in the order in which they began to listen."""
        for listener in self._listeners:
            listener(signer)


class ChannelEvents:
    """Hold the events of one node's channels.

    ``close_seen``: the chain has a close request of the channel; told at every reading of it.
    ``row_frozen``: a voucher became a claim row, so the stored channel has a new base; told after
    the commit. ``mismatch_found`` and ``mismatch_gone``: the ledger and the chain disagree on the
    channel, or agree again.
    """

    def __init__(self) -> None:
        self.close_seen = ChannelEvent()
        self.row_frozen = ChannelEvent()
        self.mismatch_found = ChannelEvent()
        self.mismatch_gone = ChannelEvent()
