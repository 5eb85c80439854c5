"""Know one request: what it may cost, how far its answer arrived, how it ended and what billed it.

``viz.buyer.ledger.open_requests`` holds the requests of one channel together, and finds the one
that a receipt bills. Does no I/O: ``viz.buyer.ledger.request_journal`` keeps a request on disk.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from viz.domain.display import amount
from viz.domain.ports.chain import Deployment
from viz.domain.pricing import Price
from viz.domain.receipt import SignedReceipt, salt_of_name, salted_hash
from viz.domain.typed_data import Receipt
from viz.domain.units import AdapterId, Units
from viz.errors import NodeNotTrusted

# When a request of an earlier process ended: before all of this one's.
EARLIER_S: Final = -1.0
STALLED_S: Final = 5.0
# So much of the text that arrived is kept with a request that ended without its bill.
TEXT_KEPT_BYTES: Final = 64 * 1024


@dataclass(slots=True, eq=False)
class OpenRequest:
    """What one request may cost, how far its answer has arrived, and how it ended.

    The cost: ``arrived_units`` is the cost of the text that has arrived, ``units`` is that and one
    step, and ``most_units`` is the most that the request may cost in the end. ``asked_units`` is
    the cost of all that was asked for, also above the buyer's cap; ``prompt_units`` is that of the
    prompt alone, and ``price`` the agreed price, None for a request that an older version kept.
    ``first_units`` pays for the beginning, until the node ``began``. If the buyer
    leaves, ``leaving_units`` is the most that may be billed, and an honest node may bill up to
    ``excused_units``: what arrived and what was on the line. If the answer breaks off after some
    text, that amount is ``on_line_units``. ``reach_units`` is the most that its bill may be: what
    was signed for the adapter when it ended let an honest node run so far ahead of what arrived.
    ``text`` is what arrived, as far as it is kept, and ``tokens`` the exact counts of prompt and
    text; None if the tokenizer is not known here, the text is too long, or its process was killed.

    The bill: ``seq`` is the number of the receipt that billed it, 0 for none, and ``billed_units``
    is that receipt's amount, ``billed_tokens`` its tokens of prompt and answer, if it came late.
    ``delivered``: its own answer brought the receipt. ``weighed``: the bill was held against what
    arrived (``viz.buyer.vouchers.undelivered``). ``early``: a receipt that was read while the
    answer still arrived, and is counted again when that ends.

    The end: ``name`` is the name of its record in the ledger. ``incident`` is the incident in which
    the node did not finish the answer. ``unknown``: its process ended before the answer did, so
    nobody knows what arrived. ``refused``: an answer refused it. ``pardoned``: the buyer has
    forgiven the node since it ended, so what did not arrive of it is held against nobody.
    ``capped``: the buyer's own cap ended it, and a node that delivers on credit may be beyond it.
    ``counted_units``: what the buyer's day has counted for it, None before it ended without a bill
    (``viz.buyer.ledger.counted``). ``held``: the name under which the day's budget holds it.

    While the buyer waits for text, ``waits_since_s`` is when this wait began; else it is 0.
    ``provoked``: the buyer ended it over what the node demanded or refused, so nothing is excused.
    ``cut``: the connection broke, which an honest node may see late.
    ``goes_on``: it began while not too much was left over, so it goes on if more is left over.
    """

    adapter_id: AdapterId
    request: bytes
    units: Units = 0
    most_units: Units = 0
    arrived_units: Units = 0
    name: str = ""
    incident: str = ""
    unknown: bool = False
    refused: bool = False
    pardoned: bool = False
    capped: bool = False
    began_s: float = field(default_factory=time.monotonic)
    ended_at_s: float = 0.0
    seq: int = 0
    billed_units: Units = 0
    billed_tokens: tuple[int, int] | None = None
    leaving_units: Units | None = None
    excused_units: Units = 0
    reach_units: Units = 0
    text: bytes = b""
    asked_units: Units = 0
    prompt_units: Units = 0
    first_units: Units = 0
    began: bool = False
    delivered: bool = False
    weighed: bool = False
    waits_since_s: float = 0.0
    on_line_units: Units = 0
    goes_on: bool = False
    provoked: bool = False
    cut: bool = False
    price: Price | None = None
    counted_units: Units | None = None
    held: str = ""
    tokens: tuple[int, int] | None = None
    early: SignedReceipt | None = None

    @property
    def broke(self) -> bool:
        """Whether the node did not finish the answer, or let the buyer wait until it left."""
        return bool(self.incident) and not self.excused_units

    @property
    def stalled(self) -> bool:
        """Whether the node has sent no text for ``STALLED_S``: a good reason to leave."""
        return bool(self.waits_since_s) and time.monotonic() - self.waits_since_s >= STALLED_S

    def cost_so_far(self, deployment: Deployment, refused_units: Units | None = None) -> str:
        """Say what a broken-off answer costs, for a person to read.

        ``refused_units``: no bill of the node is accepted any more, and so much can be taken.
        """
        if self.seq:
            return f"it cost {amount(self.billed_units, deployment)}"
        if refused_units is not None:
            return (
                "no bill of this node is accepted any more; what is signed for the answer, "
                f"{amount(refused_units, deployment)}, is the most that the node can take for it"
            )
        return (
            f"what arrived costs {amount(self.arrived_units, deployment)}; it is not billed yet, "
            f"and the bill is at most {amount(self.units, deployment)}"
        )

    def cost_if_begun(self, deployment: Deployment) -> str:
        """Say what an answer costs if it had begun, for a person to read."""
        return f"if the node began the answer, it costs {amount(self.units, deployment)} at most"

    def equals(self, other: OpenRequest) -> bool:
        """Say whether both requests are the same, so that the receipt of one fits the other."""
        return (self.adapter_id, self.request) == (other.adapter_id, other.request)

    @property
    def fair_units(self) -> Units:
        """What an honest bill is about, if the answer ended here: an admitted prompt is billed."""
        return max(self.arrived_units, self.prompt_units)

    def is_named_by(self, signed: SignedReceipt) -> bool:
        """Say whether a receipt was made for this request, and for no other that is equal."""
        return bool(self.name) and signed.request_salt == salt_of_name(self.name)

    def is_overbilled_by(self, receipt: Receipt) -> bool:
        """Say whether a receipt bills more than its own token counts cost at the agreed price."""
        counts = receipt.prompt_tokens, receipt.completion_tokens
        return self.price is not None and receipt.amount_units > self.price.amount_units(*counts)

    def miscount_of(self, signed: SignedReceipt) -> str:
        """Say what a receipt counts falsely; empty if nothing, or if that cannot be told here.

        A receipt for another request or text is no lie by itself: a server on the way may have
        changed them, and a node that did not see a break computed further than what arrived.
        """
        receipt = signed.receipt
        asked = salted_hash(signed.request_salt, self.request)
        if self.tokens is None or receipt.request_hash != asked:
            return ""
        prompt_tokens, text_tokens = self.tokens
        if receipt.prompt_tokens > prompt_tokens:
            return "counts too many prompt tokens"
        said = receipt.response_hash == salted_hash(signed.response_salt, self.text)
        return "counts other tokens" if said and receipt.completion_tokens != text_tokens else ""

    def bound_units(
        self, unused_units: Units, credit_units: Units | None = None, *, named: bool = False
    ) -> Units:
        """Return the most that a receipt may bill if the request's answer did not bring it.

        ``named``: the receipt is for this request and no equal one, so the node has ended its
        answer, even if that still arrives here.
        ``unused_units`` were signed for the adapter and are not billed yet. A node that does not
        see a dead connection spends on this answer what is signed for the next one. If the process
        that sent the request has ended, nobody knows what arrived. Signatures follow what arrives,
        so they bound that request. ``credit_units``: how far a node that delivers on
        credit may be ahead of what is signed, or of the buyer's cap. What a bill takes beyond
        ``units`` is weighed as a loss.
        """
        if self.unknown:
            return max(self.units, min(self.most_units, unused_units))
        if self.refused or not (self.ended_at_s or named):
            return max(self.units, self.reach_units)
        # What is signed is the node's to bill, also above the cap of this one request.
        whole_units = max(self.most_units, self.asked_units)
        most_units = whole_units if self.capped else self.most_units
        return max(
            self.units,
            self.reach_units,
            min(whole_units, self.units + unused_units),
            min(most_units, self.units + (credit_units or 0)),
        )

    def fit(self, signed: SignedReceipt) -> tuple[bool, Units, bool]:
        """Return how badly a receipt that names this request fits what arrived of its answer.

        An equal request may have been lost on the way: the bill of its repetition is for the text
        that arrived, or costs about as much.
        """
        receipt = signed.receipt
        said = bool(self.text) and receipt.response_hash == salted_hash(
            signed.response_salt, self.text
        )
        return not said, abs(receipt.amount_units - self.fair_units), self.refused


class Match(NamedTuple):
    """The request behind a late receipt, and what the receipt bills beyond that request's bound."""

    open_request: OpenRequest
    beyond_units: Units
    miscount: str = ""

    def counted(self, signed: SignedReceipt) -> Match:
        """Return the match after the receipt's counts were compared with those of this buyer.

        What a false count bills beyond what arrived is beyond the bound, one unit at least.
        """
        if not (miscount := self.open_request.miscount_of(signed)):
            return self
        more_units = signed.receipt.amount_units - self.open_request.fair_units
        return Match(self.open_request, max(self.beyond_units, more_units, 1), miscount)

    def refusal(self, signed: SignedReceipt, deployment: Deployment) -> NodeNotTrusted:
        """Return why the receipt is not taken, and what takes it all the same."""
        billed_units = signed.receipt.amount_units
        accounted = amount(billed_units - self.beyond_units, deployment)
        allow = (
            f"To pay the other {amount(self.beyond_units, deployment)} all the same: `viz channel "
            "forgive --allow AMOUNT`"
        )
        if self.miscount:
            fair = amount(self.open_request.fair_units, deployment)
            return NodeNotTrusted(
                f"receipt {signed.receipt.seq} {self.miscount}: it bills "
                f"{amount(billed_units, deployment)}, and what arrived costs {fair}. {allow}"
            )
        return NodeNotTrusted(
            f"receipt {signed.receipt.seq} bills {amount(billed_units, deployment)} for an answer "
            f"of which {accounted} are accounted for by what arrived and one step. {allow}"
        )


def unasked(adapter_id: AdapterId, seq: int, units: Units) -> OpenRequest:
    """Return what stands for the request behind a bill that no request accounts for."""
    return OpenRequest(adapter_id, b"", units=units, incident=f"unasked-{seq}", refused=True)
