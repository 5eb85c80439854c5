"""The money of one request: what is reserved, what was delivered, and the receipt at its end.

Owns the meter: reservations ahead of generation, booking at every commit of the channel, billing
and the signed receipt.

Invariants: tokens are allowed only against a reservation; what is booked never exceeds what was
delivered, and what is billed never exceeds what was reserved; a request is billed once, if the node
was killed at its next start (``viz.services.payments.receipts``).
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
from viz.domain.receipt import SignedReceipt, salted_hash
from viz.domain.reservations import append_receipt, reserve
from viz.domain.reservations import settle_reservation as settle
from viz.domain.units import Address, Hash32, Units
from viz.errors import StoreConflict
from viz.services.payments.active_channel import ActiveChannel, ChannelUpdate
from viz.services.payments.channels import ChannelStore
from viz.services.payments.paid_request import PaidRequest
from viz.services.payments.receipts import Place, issue

Count = Callable[[str], int]
MakeAnswer = Callable[[SignedReceipt | None], AnswerRecord | None]


@dataclass(frozen=True, slots=True)
class MeterTools:
    """What all meters of a node share."""

    channels: ChannelStore
    clock: Clock
    domain: Domain
    node: Address
    key: bytes
    count: Count
    credit_window_units: Units


class Meter:
    """One request's account on a channel.

    Three amounts only grow, each within the one before: reserved (``reserve``), delivered
    (``delivered``), and booked as spent in the channel (``booked``). The end gives back what is
    reserved and not spent.
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
        # Billed or released. The channel's reservation is given back once: a second time would
        # give away what other requests reserved.
        self._ended = False
        # The ids and salts are made once, so that every record of this request, and the receipt
        # that a later start makes of the last one, names the same request.
        self._request_id = secrets.token_bytes(16)
        self._salts = Hash32(secrets.token_bytes(32)), Hash32(secrets.token_bytes(32))
        # Tokens and text that the last ``unbooked_units`` judged; ``unbilled`` describes the same.
        # The text is a beginning of each choice's, one after the other.
        self._lasting: tuple[int, str] = 0, ""

    # paying ahead

    async def reserve(self, completion_tokens: int, now_s: int) -> None:
        """Reserve the price of the prompt and of that many completion tokens in all.

        Raises PaymentRequired, ChannelClosing.
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
        """Book what is delivered with every commit; from here on the prompt is to be paid."""
        self._active_channel.deliveries.add(self)

    def delivered(self, choice: int, text: str) -> None:
        """Note text that was sent to the buyer."""
        if text:
            self._texts[choice] = self._texts.get(choice, "") + text

    def unbooked_units(self) -> Units:
        """Return the price of what was delivered for good and is not booked yet.

        The end of every choice's last word is left out: more text may still merge into its tokens,
        so that its count could fall, and a booked amount cannot. Before the first text it is 0: if
        the node fails then, the buyer pays nothing.
        """
        if not self._texts:
            return 0
        lasting = [lasting_part(self._texts[key]) for key in sorted(self._texts)]
        self._lasting = sum(map(self._tools.count, lasting)), "".join(lasting)
        return max(0, self._cost(self._lasting[0]) - self._booked_units)

    def unbilled(self) -> UnbilledRecord:
        """Return what a receipt needs to bill exactly what ``unbooked_units`` judged last."""
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
        return sum(self._tools.count(text) for text in self._texts.values())

    @property
    def prompt_tokens(self) -> int:
        """The tokens of the prompt that are billed."""
        return self._request.prompt_tokens

    @property
    def text(self) -> str:
        """Everything delivered, choice after choice: what the response hash covers."""
        return "".join(self._texts[key] for key in sorted(self._texts))

    def _cost(self, completion_tokens: int) -> Units:
        # Retokenised text can count more than was generated: the buyer pays what it reserved.
        whole = self._request.price.amount_units(self._request.prompt_tokens, completion_tokens)
        return min(whole, self._reserved_units)

    # ending

    async def release(self) -> None:
        """Give the whole reservation back: nothing was delivered, so nothing is billed."""
        if self._ended:
            return
        self._ended = True
        self._active_channel.deliveries.discard(self)
        await self._tools.channels.change(
            self._active_channel,
            lambda channel: settle(
                channel, self.adapter_id, reserved_units=self._reserved_units, spent_units=0
            ),
        )
        self._active_channel.notify()

    async def bill(self, answer: MakeAnswer | None = None) -> SignedReceipt | None:
        """Book what was delivered, chain and sign its receipt, all in one commit; return it.

        ``answer`` makes what is stored under the request's idempotency key. None if the request
        cost nothing. Raises StoreConflict, after which it may be called again, and StoreError.
        """
        if self._ended:
            return None
        self._ended = True
        # The commit below books the rest itself; as a delivery it would be booked twice.
        self._active_channel.deliveries.discard(self)
        delivered = self.text.encode()
        completion_tokens = self.completion_tokens()
        made: list[SignedReceipt] = []

        def change(channel: NodeChannel, record: ChannelRecord) -> ChannelUpdate:
            # Called again on a newer channel if another writer was first: the receipt's place in
            # the chain, and so its signature, is that of the last call.
            made.clear()
            amount = max(self._cost(completion_tokens), self._booked_units)
            held = self._reserved_units - self._booked_units
            after = settle(
                channel,
                self.adapter_id,
                reserved_units=held,
                spent_units=amount - self._booked_units,
            )
            if not amount:
                return ChannelUpdate(after, answer=answer(None) if answer else None)
            place = Place(channel.seq, channel.head, record.total_units)
            due = self._record(amount, completion_tokens, delivered)
            signed, stored = issue(self._tools, place, due)
            made.append(signed)
            return ChannelUpdate(
                append_receipt(after, stored.digest),
                signed.receipt.total_units,
                stored,
                answer(signed) if answer else None,
                self._request_id,
            )

        try:
            # ``retry``: a full disk delays this bill and does not cancel it.
            await self._tools.channels.commit(self._active_channel, "receipt", change, retry=True)
        except StoreConflict:
            # Nothing was written and no retry is kept: the delivery is open again, to be billed
            # when the stream closes.
            self._ended = False
            self._active_channel.deliveries.add(self)
            raise
        return made[0] if made else None


def lasting_part(text: str) -> str:
    """Return the beginning of the text whose tokens later text cannot change.

    It ends before the first space of a gap, or where a run of letters or of digits ended. The
    tokenizers used here split text there before they merge, so the count of this part never
    exceeds that of any text that begins with ``text``; property tests hold it to their patterns.
    It never ends inside a gap: two blanks may count more than three. Scripts without spaces end a
    run at punctuation, and base64 wherever letters and digits meet.
    """
    for end in range(len(text) - 1, 0, -1):
        if _parts(text[end - 1], text[end]):
            return text[:end]
    return ""


def _parts(before: str, after: str) -> bool:
    """Say whether a tokenizer's pattern parts these two letters, whatever stands around them."""
    if after == " ":
        return not before.isspace()
    # The first letter of a category: letter, number, punctuation, symbol, separator. Marks join the
    # letter before them, and of what is not assigned to any a newer table may say otherwise.
    ended, begins = unicodedata.category(before)[0], unicodedata.category(after)[0]
    begins_run = begins != ended and (begins in "LNPSZ" or after == "\n")
    return ended in "LN" and before <= "\uffff" and begins_run
