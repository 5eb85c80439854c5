"""Remember which vouchers the node has, as far as it has shown."""

from __future__ import annotations

from collections.abc import Mapping

from viz.domain.units import AdapterId, Units


class HeldByNode:
    """What the node holds for each adapter, over the channel's life.

    ``asks``: the node has asked for money before it answered. One that gives credit never does, and
    is not paid ahead of its asking.
    """

    def __init__(self) -> None:
        self._units: dict[AdapterId, Units] = {}
        self.asks = False

    def units(self, adapter_id: AdapterId) -> Units:
        return self._units.get(adapter_id, 0)

    def took(self, vector: Mapping[AdapterId, Units]) -> None:
        """Note that the node took a voucher with this vector."""
        self._units = dict(vector)

    def served(self, adapter_id: AdapterId, units: Units) -> None:
        """Note that the node served a request that carried so much.

        A node that does not know vouchers on requests may have ignored it; ``asked`` corrects that.
        """
        self._units[adapter_id] = max(self.units(adapter_id), units)

    def asked(self, adapter_id: AdapterId, accepted_units: Units) -> None:
        """Note a need of the node, and what the node says there that it holds."""
        self.asks = True
        self._units[adapter_id] = min(self.units(adapter_id), accepted_units)

    def clear(self) -> None:
        """Forget everything: the node may hold less by now."""
        self._units.clear()
