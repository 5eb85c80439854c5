"""Meter one paid request: reserve ahead, book what is delivered, bill it, and sign the receipt.

A meter reserves before tokens are generated. Each commit of the channel books what was delivered
so far. Invariants:

- Tokens are allowed only against a reservation.
- The booked amount never exceeds the delivered amount. The billed amount never exceeds the reserved
  amount.
- A request is billed once. If the node is killed before that, it bills at its next start
  (``viz.services.payments.receipts``).
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from viz.domain.eip712 import Domain
from viz.domain.node_channel import NodeChannel, require_selling
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import AnswerRecord, ChannelRecord, UnbilledRecord
from viz.domain.receipt import SignedReceipt, salt_of_name, salted_hash
from viz.domain.reservations import append_receipt, end_reservation, reserve
from viz.domain.units import Address, Hash32, Units
from viz.errors import StoreConflict
from viz.services.payments.active_channel import ActiveChannel, ChannelUpdate
from viz.services.payments.channels import ChannelStore
from viz.services.payments.paid_request import PaidRequest
from viz.services.payments.receipts import ReceiptChainEnd, issue

MakeAnswer = Callable[[SignedReceipt | None], AnswerRecord | None]


@dataclass(frozen=True, slots=True)
class MeterTools:
    """Hold what all meters of a node share."""

    channels: ChannelStore
    clock: Clock
    domain: Domain
    node: Address
    key: bytes
    credit_window_units: Units


class Meter:
    """Account for one request on a channel.

    Three amounts only grow, and none exceeds the one before it: the reserved amount (``reserve``),
    the delivered amount (``delivered``), and the amount booked as spent in the channel
    (``booked``). At the end, the part that is reserved and not spent is given back.
    """

    def __init__(
        self, tools: MeterTools, active_channel: ActiveChannel, request: PaidRequest
    ) -> None:
        self._tools = tools
        self._active_channel = active_channel
        self._request = request
        self.adapter_id = request.adapter_id
        self._reserved_units: Units = 0
        self._booked_units: Units = 0
        self._texts: dict[int, str] = {}
        # What ``completion_tokens`` returned for these texts; None after more text.
        self._counted: int | None = None
        # Billed or released. The reservation is given back only once: a second time would give
        # away what other requests on the channel reserved.
        self._ended = False
        # Whether a commit may have stored an unbilled record of this request.
        self._is_recorded = False
        # The id and the salts are made once. So all records of this request name the same request,
        # and so does the receipt that a killed node makes from the last record at its next start.
        # One read of random bytes: each read releases the GIL and waits to get it back.
        drawn = secrets.token_bytes(80)
        self._request_id = drawn[:16]
        salt = Hash32(drawn[16:48]) if request.name is None else salt_of_name(request.name)
        self._salts = salt, Hash32(drawn[48:])
        # The tokens and the text that the last ``unbooked_units`` counted; ``unbilled`` describes
        # the same. The text has the lasting part of each choice, one after the other.
        self._lasting: tuple[int, str] = 0, ""

    # paying ahead

    async def reserve(self, completion_tokens: int, now_s: int) -> None:
        """Raise the reservation to the price of the prompt and of ``completion_tokens`` in all.

        ``now_s`` is the chain's time. Raises PaymentRequired, ChannelClosing.
        """
        goal = self._request.price.amount_units(self._request.prompt_tokens, completion_tokens)
        more = goal - self._reserved_units

        def change(channel: NodeChannel) -> NodeChannel:
            require_selling(channel, now_s)
            return reserve(
                channel,
                self.adapter_id,
                more,
                credit_window_units=self._tools.credit_window_units,
            )

        await self._tools.channels.change(self._active_channel, change)
        self._reserved_units = goal

    # delivering

    def admit(self) -> None:
        """Begin to book deliveries with each commit; from here on the prompt is billed."""
        self._active_channel.deliveries.add(self)

    def delivered(self, choice: int, text: str) -> None:
        """Note text that was sent to the buyer."""
        if text:
            self._texts[choice] = self._texts.get(choice, "") + text
            self._counted = None

    def unbooked_units(self) -> Units:
        """Return the price of what was finally delivered and is not booked yet.

        The last word of each choice is not counted yet. Text that follows may merge into its
        tokens, which can lower the count, but a booked amount cannot fall. Before the first text
        the result is 0: if the node fails then, the buyer pays nothing.
        """
        if not self._texts:
            return 0
        at_spaces = self._request.engine.model.parts_at_spaces
        lasting = [
            lasting_part(self._texts[key], at_spaces=at_spaces) for key in sorted(self._texts)
        ]
        self._lasting = sum(map(self._request.engine.count_tokens, lasting)), "".join(lasting)
        return max(0, self._cost(self._lasting[0]) - self._booked_units)

    def unbilled(self) -> UnbilledRecord:
        """Return the record for a receipt of exactly what ``unbooked_units`` counted last."""
        self._is_recorded = True
        tokens, text = self._lasting
        return self._record(self._cost(tokens), tokens, text.encode())

    def _record(self, amount_units: Units, completion_tokens: int, text: bytes) -> UnbilledRecord:
        request, (request_salt, response_salt) = self._request, self._salts
        return UnbilledRecord(
            self._request_id,
            self._active_channel.channel.signer,
            self.adapter_id,
            amount_units,
            request.prompt_tokens,
            completion_tokens,
            request.quote_hash,
            request_salt,
            salted_hash(request_salt, request.body),
            response_salt,
            salted_hash(response_salt, text),
        )

    def booked(self, units: Units) -> None:
        """Note that the channel has booked these units as spent."""
        self._booked_units += units

    def completion_tokens(self) -> int:
        """Return the canonical token count of everything delivered."""
        if self._counted is None:
            self._counted = sum(map(self._request.engine.count_tokens, self._texts.values()))
        return self._counted

    @property
    def prompt_tokens(self) -> int:
        """The tokens of the prompt that are billed."""
        return self._request.prompt_tokens

    @property
    def text(self) -> str:
        """Everything delivered, choice after choice. The response hash covers it."""
        return "".join(self._texts[key] for key in sorted(self._texts))

    def _cost(self, completion_tokens: int) -> Units:
        # The delivered text is tokenised again, and that can give more tokens than were generated.
        # The buyer pays at most what it reserved.
        whole = self._request.price.amount_units(self._request.prompt_tokens, completion_tokens)
        return min(whole, self._reserved_units)

    # ending

    async def release(self) -> None:
        """Give the whole reservation back and bill nothing, because nothing was delivered."""
        if self._ended:
            return
        self._ended = True
        self._active_channel.deliveries.discard(self)
        await self._tools.channels.change(
            self._active_channel,
            lambda channel: end_reservation(
                channel, self.adapter_id, reserved_units=self._reserved_units, spent_units=0
            ),
        )
        self._active_channel.notify()

    async def bill(self, answer: MakeAnswer | None = None) -> SignedReceipt | None:
        """Book what was delivered and sign its receipt, in one commit; return the receipt.

        Returns None if the request cost nothing. ``answer`` makes the record that is stored under
        the request's idempotency key. Raises StoreError, and StoreConflict, after which it may be
        called again.
        """
        if self._ended:
            return None
        self._ended = True
        # The commit below books the rest itself. A commit also books every delivery of the channel,
        # so the rest would be booked twice if this meter were still one of them.
        self._active_channel.deliveries.discard(self)
        delivered = self.text.encode()
        completion_tokens = self.completion_tokens()
        made: list[SignedReceipt] = []

        def change(channel: NodeChannel, record: ChannelRecord) -> ChannelUpdate:
            # Called again on a newer channel if another writer was first. That moves the receipt's
            # place in the chain of receipts, so only the receipt of the last call is valid.
            made.clear()
            amount = max(self._cost(completion_tokens), self._booked_units)
            held = self._reserved_units - self._booked_units
            after = end_reservation(
                channel,
                self.adapter_id,
                reserved_units=held,
                spent_units=amount - self._booked_units,
            )
            if not amount:
                return ChannelUpdate(after, answer=answer(None) if answer else None)
            chain_end = ReceiptChainEnd(channel.seq, channel.head, record.total_units)
            due = self._record(amount, completion_tokens, delivered)
            signed, stored = issue(self._tools, chain_end, due)
            made.append(signed)
            return ChannelUpdate(
                append_receipt(after, stored.digest),
                signed.receipt.total_units,
                stored,
                answer(signed) if answer else None,
                self._request_id if self._is_recorded else None,
            )

        try:
            # ``retry``: a full disk only delays this bill.
            await self._tools.channels.commit(self._active_channel, "receipt", change, retry=True)
        except StoreConflict:
            # Nothing was written, and no retry is kept. So the request is open again, and is billed
            # when the stream closes.
            self._ended = False
            self._active_channel.deliveries.add(self)
            raise
        return made[0] if made else None


def lasting_part(text: str, *, at_spaces: bool = False) -> str:
    """Return the beginning of ``text`` whose token count cannot fall when more text follows.

    It ends before the first space of a gap, or at the end of a run of letters or digits. The
    tokenizers used here split text at these places before they merge tokens. So this part never
    has more tokens than any text that begins with ``text``. Property tests check this against the
    tokenizers' patterns. It never ends inside a gap, because two spaces may have more tokens than
    three. Scripts without spaces end a run at punctuation; base64 ends one wherever a letter and a
    digit meet. With ``at_spaces`` it ends only before the first space of a gap: SentencePiece's
    vocabularies and added tokens ("</think>") may join a word and the sign after it.
    """
    for end in range(len(text) - 1, 0, -1):
        if (text[end] == " " or not at_spaces) and _parts(text[end - 1], text[end]):
            return text[:end]
    return ""


def _parts(before: str, after: str) -> bool:
    """Return whether the tokenizers' patterns split between two characters in every context."""
    if after == " ":
        return not before.isspace()
    # The first letter of a Unicode category: L letter, N number, P punctuation, S symbol, Z
    # separator. Marks (M) join the letter before them. Unassigned characters (C) are left out: a
    # newer version of Unicode may give them another category.
    ended, begins = unicodedata.category(before)[0], unicodedata.category(after)[0]
    begins_run = begins != ended and (begins in "LNPSZ" or after == "\n")
    return ended in "LN" and before <= "\uffff" and begins_run
