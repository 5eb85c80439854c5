"""Track which vouchers the node holds, as far as its answers have shown."""

from __future__ import annotations

from collections.abc import Mapping

from viz.domain.units import AdapterId, Units


class HeldByNode:
    """The amount that the node's best voucher pays each adapter, over the channel's life.

    ``asks``: the node has asked for money before an answer. A node that gives credit never does, so
    it gets no voucher before it asks.
    """

    def __init__(self) -> None:
        self._units: dict[AdapterId, Units] = {}
        self.asks = False

    def units(self, adapter_id: AdapterId) -> Units:
        return self._units.get(adapter_id, 0)

    def took(self, vector: Mapping[AdapterId, Units]) -> None:
        """Note that the node accepted a voucher with this vector."""
        self._units = dict(vector)

    def served(self, adapter_id: AdapterId, units: Units) -> None:
        """Note that the node served a request whose voucher paid ``units`` in total.

        An older node may have ignored the voucher; ``asked`` corrects the amount then.
        """
        self._units[adapter_id] = max(self.units(adapter_id), units)

    def asked(self, adapter_id: AdapterId, accepted_units: Units) -> None:
        """Note that the node asked for money, and the amount that it says it holds."""
        self.asks = True
        self._units[adapter_id] = min(self.units(adapter_id), accepted_units)

    def clear(self) -> None:
        """Forget all amounts: the node may hold less now."""
        self._units.clear()
