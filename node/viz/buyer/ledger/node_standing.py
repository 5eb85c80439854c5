"""Keep the standing of one node: what the buyer believes of it, allows it and holds against it.

Owns how much of the node's word on the deposit is believed if no chain is read, how much the node
may still bill beyond what arrived, and why the node is distrusted. Does no I/O: the ledger writes
it to disk.

Invariants: a deposit is believed only as far as it and the settled total stay within what was
signed for; only the buyer can raise that amount; distrust outlasts the process, and only the
buyer can end it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NamedTuple, Self

from viz.domain.buyer_channel import BuyerChannel
from viz.domain.ports.chain import ChannelState
from viz.domain.units import ZERO_ADDRESS, Address, Units, parse_address
from viz.errors import NodeNotTrusted
from viz.protocol.messages import ChannelView
from viz.protocol.wire import JSON_INTEGER_MAX, Json, Reader

# An incident is a bill for what was not delivered. This many of them, among this many delivered
# answers, end the trust. Only delivered answers move an incident out of this window, so a node
# cannot hide one behind further bills.
BROKEN_ALLOWED: Final = 3
BROKEN_AMONG: Final = 64
EMPTY_ALLOWED: Final = 8
# So many answers that the network cut off, billed beyond what arrived, and none that ended well.
CUTS_ALLOWED: Final = 8
# Incidents leave the window, and what they cost adds up: this share of all bills may be lost in the
# end, which is that of the incidents allowed.
LOST_SHARE: Final = 32
# What a channel allows at least: a step at the default caps, whatever caps one command names.
LEAST_ALLOWED_UNITS: Final[Units] = 51_200
# Small bills for text that was on its way when the buyer left are summed up in few rows.
_SMALL_ROWS: Final = 4
MAX_KEPT: Final = 1_024


class Incident(NamedTuple):
    """One incident: ``lost_units`` were billed and did not arrive, after ``delivered`` answers.

    ``small``: the node broke nothing off. It only billed more than had arrived when the buyer left.
    """

    delivered: int
    lost_units: Units = 0
    small: bool = False


@dataclass(frozen=True, slots=True)
class NodeStanding:
    """What a buyer believes of a node, allows it, and holds against it.

    Without a chain, only the wallets in ``payers`` are believed to have paid, and settled total and
    deposit together only up to ``limit_units``. ``forgiven_units`` may still be billed beyond what
    arrived. ``broken`` holds the incidents in which answers were billed and not delivered.
    ``lost_units`` is what was billed and not delivered since the node is trusted. ``allowed_units``
    is what may be lost, and what may be left over, before there are bills: a step at the default
    caps, or the most that the buyer ever had signed ahead at once for answers under way, which a
    break of the network can cost. ``waived_units`` may be left over besides: it was when the buyer
    forgave. ``credits``: the node has delivered more than was signed, so its bills may exceed that.
    ``undelivered`` counts the bills of answers that were broken, left at once or empty; ``empty``
    counts the latest consecutive answers without text. ``cuts`` counts the latest incidents,
    without an answer that ended well, in which the network cut answers off after some text, and
    which were billed beyond what arrived; ``last_cut`` is the latest. ``fault`` says why
    the node is not asked any more; it is empty while the node is trusted.
    """

    payers: tuple[Address, ...] = ()
    limit_units: Units = 0
    forgiven_units: Units = 0
    broken: Mapping[str, Incident] = field(default_factory=dict)
    undelivered: int = 0
    empty: int = 0
    fault: str = ""
    lost_units: Units = 0
    credits: bool = False
    allowed_units: Units = LEAST_ALLOWED_UNITS
    waived_units: Units = 0
    cuts: int = 0
    last_cut: str = ""

    # the deposit

    def signed_deposit(self, payer: Address, limit_units: Units) -> Self:
        """Return the standing after ``payer`` signed a deposit that may raise the limit."""
        payers = self.payers if payer in self.payers else (*self.payers, payer)
        return replace(self, payers=payers, limit_units=limit_units)

    def proved(self, seen: ChannelState) -> Self:
        """Return the standing after a reading of the chain, which proves payer and deposit.

        If the node denied a deposit while no chain was read, the limit was too low until now.
        """
        limit_units = max(self.limit_units, seen.settled_units + seen.deposit_units)
        if seen.payer == ZERO_ADDRESS:
            return replace(self, limit_units=limit_units)
        return self.signed_deposit(seen.payer, limit_units)

    def believed(self, view: ChannelView) -> ChannelState:
        """Return what can be believed of the node's view of a channel if no chain is read.

        Raises NodeNotTrusted if the payer signed no deposit here.
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

    def forgiven(self, forgiven_units: Units, waived_units: Units = 0) -> Self:
        """Return the standing after trust is restored, with a new amount to forgive.

        ``waived_units`` are left over now.
        """
        return replace(
            self,
            fault="",
            broken={},
            lost_units=0,
            empty=0,
            cuts=0,
            forgiven_units=forgiven_units,
            waived_units=waived_units,
        )

    def signed_ahead(self, ahead_units: Units) -> Self:
        """Return the standing of a buyer that has so much signed ahead for answers under way."""
        if ahead_units <= self.allowed_units:
            return self
        return replace(self, allowed_units=ahead_units)

    def billed_beyond(self, units: Units) -> Self:
        """Return the standing after a bill that exceeds its request's bound by ``units``."""
        return replace(self, forgiven_units=self.forgiven_units - units)

    def signed_unbilled(self, incident: str, seq: int) -> Self:
        """Return the standing after a voucher was signed for a broken answer without a bill."""
        return self._with(incident, Incident(self._delivered(seq)))

    def billed_broken(self, incident: str, seq: int, lost_units: Units) -> Self:
        """Return the standing after the bill of an answer that the node did not finish.

        ``lost_units`` of the bill did not arrive. All such losses together are bounded, because one
        incident may be many answers. Answers that broke off together are one incident: a node that
        restarts breaks off all answers under way.
        """
        after = replace(self, undelivered=self.undelivered + 1)
        return after._with(incident, Incident(after._delivered(seq), lost_units))

    def billed_late(self, incident: str) -> Self:
        """Return the standing after fair bills for all of an incident that arrived: they came late.

        What was held against the node is only that vouchers were signed before these bills.
        """
        noted = self.broken.get(incident)
        if noted is None or noted.lost_units:
            return self
        others = {name: each for name, each in self.broken.items() if name != incident}
        return replace(self, broken=others)

    def lost(self, lost_units: Units, billed_units: Units) -> Self:
        """Return the standing after a loss, which is held against all that was billed so far.

        So a node that keeps just below what ends the trust gains no more with time than its share.
        """
        after = replace(self, lost_units=self.lost_units + lost_units)
        if after.rest_units(billed_units) >= 0:
            return after
        return after.distrusting(
            "answers ended early again and again: what it billed and did not deliver is more than "
            f"one break may cost and 1/{LOST_SHARE} of all bills"
        )

    def rest_units(self, billed_units: Units) -> Units:
        """Return what may still be lost: of the allowance and a share of all bills, the rest.

        Negative if more was lost.
        """
        return self.allowed_units + billed_units // LOST_SHARE - self.lost_units

    def before_signing(self, undelivered_units: Units, billed_units: Units) -> Self:
        """Return the standing before a voucher is signed after which the node holds so much.

        ``undelivered_units`` are signed for answers that ended without a bill, and did not arrive.
        """
        if undelivered_units <= max(0, self.rest_units(billed_units)):
            return self
        return self.distrusting(
            "answers ended early, it did not bill them, and what is signed for them and did not "
            f"arrive would be more than one break may cost and 1/{LOST_SHARE} of all bills"
        )

    def on_credit(self) -> Self:
        """Return the standing of a node that has delivered more than was signed."""
        return self if self.credits else replace(self, credits=True)

    def billed_left(self, seq: int, lost_units: Units) -> Self:
        """Return the standing after a bill for more than had arrived when the buyer left."""
        delivered = self._delivered(seq)
        row = f"left-{delivered // (BROKEN_AMONG // _SMALL_ROWS)}"
        return self._with(row, Incident(delivered, lost_units, small=True))

    def not_arrived(self) -> Self:
        """Return the standing after a fair bill for an answer that was left at once or broke."""
        return replace(self, undelivered=self.undelivered + 1)

    def cut_off(self, incident: str) -> Self:
        """Return the standing after a bill beyond what arrived of an answer that the network cut.

        It may be the node that cuts: only how often it happens tells.
        """
        after = self.not_arrived()
        if self.last_cut == incident:
            return after
        after = replace(after, cuts=self.cuts + 1, last_cut=incident)
        if after.cuts < CUTS_ALLOWED:
            return after
        return after.distrusting(
            f"{after.cuts} answers were cut off after some text and billed beyond what arrived, "
            "and no answer ended well between them (a network, or a server in front of it, that "
            "cuts every answer looks the same)"
        )

    def delivered(self, *, empty: bool) -> Self:
        """Return the standing after an answer that ended well and was billed."""
        if not empty:
            return replace(self, empty=0, cuts=0) if self.empty or self.cuts else self
        after = replace(self, empty=self.empty + 1, undelivered=self.undelivered + 1)
        if after.empty < EMPTY_ALLOWED:
            return after
        return after.distrusting(
            f"its latest {after.empty} answers had no text, and each of them was billed"
        )

    def _delivered(self, seq: int) -> int:
        return max(0, seq - self.undelivered)

    def _with(self, name: str, more: Incident) -> Self:
        if self.fault:
            return self
        broken = {
            known: each
            for known, each in self.broken.items()
            if each.delivered > more.delivered - BROKEN_AMONG
        }
        known = broken.get(name, more._replace(lost_units=0))
        broken[name] = known._replace(lost_units=known.lost_units + more.lost_units)
        after = replace(self, broken=broken)
        times = sum(not each.small for each in broken.values())
        if times >= BROKEN_ALLOWED:
            return after.distrusting(
                f"it broke off answers, or let them wait until they were given up, {times} times "
                f"among {BROKEN_AMONG} answers, and they were paid for (a server in front of it "
                "that repeats or changes what passes looks the same, and so does another copy of "
                "this buyer's folder that asks as well)"
            )
        lost_units = sum(each.lost_units for each in broken.values())
        if lost_units > self.allowed_units:
            return after.distrusting(
                "it broke off answers, or let them wait until they were given up, and billed more "
                "that did not arrive than one break may cost"
            )
        return after

    # on disk

    @classmethod
    def before_it_was_kept(cls, channel: BuyerChannel) -> Self:
        """Return the standing for a ledger that has no record of one yet."""
        known = () if channel.payer == ZERO_ADDRESS else (channel.payer,)
        return cls(known, channel.limit_units)

    def to_json(self) -> Json:
        return {
            "payers": list(self.payers),
            "limit": str(self.limit_units),
            "forgiven": str(self.forgiven_units),
            "broken": [
                {
                    "incident": name,
                    "receipts": each.delivered,
                    "lost": str(each.lost_units),
                    "small": each.small,
                }
                for name, each in self.broken.items()
            ],
            "undelivered": self.undelivered,
            "empty": self.empty,
            "fault": self.fault,
            "lost": str(self.lost_units),
            "credits": self.credits,
            "allowed": str(self.allowed_units),
            "waived": str(self.waived_units),
            "cuts": self.cuts,
            "lastCut": self.last_cut,
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        reader = Reader(value, "what is held for and against the node")
        forgiven = reader.optional("forgiven", reader.units)
        broken = [Reader(each, "an incident") for each in reader.array("broken", MAX_KEPT)]
        return cls(
            tuple(parse_address(each) for each in reader.array("payers", MAX_KEPT)),
            reader.units("limit"),
            forgiven if forgiven is not None else reader.units("allowance"),  # an older record
            {
                each.text("incident", 64): Incident(
                    each.integer("receipts", JSON_INTEGER_MAX),
                    # Older records have only the two members above.
                    each.optional("lost", each.units) or 0,
                    each.optional("small", each.boolean) or False,
                )
                for each in broken
            },
            reader.optional("undelivered", reader.integer) or 0,
            reader.optional("empty", reader.integer) or 0,
            reader.text("fault", 4_000),
            reader.optional("lost", reader.units) or 0,
            reader.optional("credits", reader.boolean) or False,
            # Older records have neither of these.
            reader.optional("allowed", reader.units) or LEAST_ALLOWED_UNITS,
            reader.optional("waived", reader.units) or 0,
            reader.optional("cuts", reader.integer) or 0,
            reader.optional("lastCut", partial(reader.text, max_chars=64)) or "",
        )
