"""What a buyer holds for and against one node, kept beside the ledger of their channel.

Owns how much of the node's word on the deposit is believed where no chain is at hand, what is left
of the allowance for bills beyond what arrived, and why the node is distrusted. Does no I/O: the
ledger keeps it.

Invariants: a settled total and a deposit that reach further than what was signed for are not
believed; the allowance only falls, but by the buyer's own word; distrust outlives the process, and
ends only by the buyer's own word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self

from viz.domain.buyer_channel import BuyerChannel
from viz.domain.ports.chain import ChannelState
from viz.domain.units import ZERO_ADDRESS, Address, Units, parse_address
from viz.errors import NodeNotTrusted
from viz.protocol.messages import ChannelView
from viz.protocol.wire import JSON_INTEGER_MAX, Json, Reader

# Answers that broke off and were billed all the same: so many of the latest receipts may be such.
BROKEN_ALLOWED: Final = 3
BROKEN_AMONG: Final = 64
MAX_KEPT: Final = 1_024


@dataclass(frozen=True, slots=True)
class NodeStanding:
    """``limit_units``: no settled total with a deposit above it is believed without a chain.

    ``broken`` has the incidents in which answers broke off and were billed, each with the number of
    receipts there were. ``fault`` says why nothing more is asked; empty while the node is trusted.
    """

    payers: tuple[Address, ...] = ()
    limit_units: Units = 0
    allowance_units: Units = 0
    broken: Mapping[str, int] = field(default_factory=dict)
    fault: str = ""

    # the deposit

    def signed_deposit(self, payer: Address, limit_units: Units) -> Self:
        """Return the standing after a deposit that may raise the limit so far."""
        payers = self.payers if payer in self.payers else (*self.payers, payer)
        return replace(self, payers=payers, limit_units=limit_units)

    def believed(self, view: ChannelView) -> ChannelState:
        """Return of a node's word on a channel what can be believed without reading the chain.

        Raises NodeNotTrusted for a payer that signed no deposit here.
        """
        if view.payer not in (ZERO_ADDRESS, *self.payers):
            raise NodeNotTrusted(
                f"the node says that {view.payer} deposited into this channel, and that wallet "
                "signed no deposit here: name a chain of your own with --rpc, where it is read"
            )
        return ChannelState(
            signer=view.signer,
            node=view.node,
            payer=view.payer,
            deposit_units=max(0, min(view.deposit_units, self.limit_units - view.settled_units)),
            settled_units=view.settled_units,
            close_at=view.close_at_s,
        )

    # trust

    def distrusting(self, fault: str) -> Self:
        """Return the standing of a node that was caught; the first fault is kept."""
        return self if self.fault else replace(self, fault=fault)

    def forgiven(self, allowance_units: Units) -> Self:
        """Return the standing of a node that may be asked again, with so much allowed beyond."""
        return replace(self, fault="", broken={}, allowance_units=allowance_units)

    def billed_beyond(self, units: Units) -> Self:
        """Return the standing after a bill that exceeds by ``units`` what its request allows."""
        return replace(self, allowance_units=self.allowance_units - units)

    def billed_broken(self, incident: str, seq: int) -> Self:
        """Return the standing after the bill of an answer that the node broke off.

        Answers that broke off together are one incident: a node that was restarted breaks off all
        that were under way.
        """
        broken = {known: at for known, at in self.broken.items() if at > seq - BROKEN_AMONG}
        broken.setdefault(incident, seq)
        after = replace(self, broken=broken)
        if len(broken) < BROKEN_ALLOWED:
            return after
        return after.distrusting(
            f"it broke off answers {len(broken)} times within {BROKEN_AMONG} receipts, and they "
            "were paid for"
        )

    # on disk

    @classmethod
    def before_it_was_kept(cls, channel: BuyerChannel) -> Self:
        """Return the standing of a ledger that has none yet."""
        known = () if channel.payer == ZERO_ADDRESS else (channel.payer,)
        return cls(known, channel.limit_units)

    def to_json(self) -> Json:
        return {
            "payers": list(self.payers),
            "limit": str(self.limit_units),
            "allowance": str(self.allowance_units),
            "broken": [{"incident": name, "receipts": seq} for name, seq in self.broken.items()],
            "fault": self.fault,
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        reader = Reader(value, "what is held for and against the node")
        broken = [Reader(each, "an incident") for each in reader.array("broken", MAX_KEPT)]
        return cls(
            tuple(parse_address(each) for each in reader.array("payers", MAX_KEPT)),
            reader.units("limit"),
            reader.units("allowance"),
            {
                each.text("incident", 64): each.integer("receipts", JSON_INTEGER_MAX)
                for each in broken
            },
            reader.text("fault", 4_000),
        )
