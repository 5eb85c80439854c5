"""The money of one request: what is set aside, what was delivered, and the receipt at its end.

Owns the meter: reservations ahead of generation, booking at every commit of the channel, billing
and the signed receipt. Does not generate, and knows no HTTP.

Invariants: tokens are allowed only against a reservation; what is booked never exceeds what was
delivered, and what is billed never exceeds what was reserved; a request is billed once, be it at
the node's next start (``viz.services.payments.receipts``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from viz.domain.eip712 import Domain
from viz.domain.node_channel import NodeChannel, require_selling
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import AnswerRecord, ChannelRecord, UnbilledRecord
from viz.domain.pricing import Price
from viz.domain.receipt import SignedReceipt, salted_hash
from viz.domain.reservations import append_receipt, reserve
from viz.domain.reservations import settle_reservation as settle
from viz.domain.units import AdapterId, Address, Hash32, Units
from viz.errors import StoreConflict
from viz.services.payments.channels import ChannelStore
from viz.services.payments.open_channel import ChannelUpdate, OpenChannel
from viz.services.payments.receipts import Place, issue

Count = Callable[[str], int]
MakeAnswer = Callable[[SignedReceipt | None], AnswerRecord | None]


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for: ``request`` is the HTTP body as sent, whose salted hash is receipted."""

    adapter_id: AdapterId
    price: Price
    quote_hash: Hash32
    request: bytes
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class MeterTools:
    """What every meter of a node shares."""

    channels: ChannelStore
    clock: Clock
    domain: Domain
    node: Address
    key: bytes
    count: Count
    credit_window_units: Units


class Meter:
    """One request's account on a channel."""

    def __init__(self, tools: MeterTools, open_channel: OpenChannel, order: Order) -> None:
        self._tools = tools
        self._open_channel = open_channel
        self._order = order
        self.adapter_id = order.adapter_id
        self._reserved_units: Units = 0
        self._booked_units: Units = 0
        self._texts: dict[int, str] = {}
        self._ended = False
        self._request_id = secrets.token_bytes(16)
        self._salts = Hash32(secrets.token_bytes(32)), Hash32(secrets.token_bytes(32))
        self._whole: tuple[int, str] = 0, ""

    # paying ahead

    async def reserve(self, completion_tokens: int, now_s: int) -> None:
        """Set aside the price of the prompt and of that many completion tokens in all.

        Raises PaymentRequired, ChannelClosing.
        """
        goal = self._order.price.amount_units(self._order.prompt_tokens, completion_tokens)
        more = goal - self._reserved_units

        def change(channel: NodeChannel) -> NodeChannel:
            require_selling(channel, now_s)
            return reserve(
                channel,
                self.adapter_id,
                more,
                credit_window_units=self._tools.credit_window_units,
            )

        await self._tools.channels.change(self._open_channel, change)
        self._reserved_units = goal

    # delivering

    def admit(self) -> None:
        """From here on the prompt is owed, whatever the buyer does next."""
        self._open_channel.deliveries.add(self)

    def delivered(self, choice: int, text: str) -> None:
        """Note text that was sent to the buyer."""
        if text:
            self._texts[choice] = self._texts.get(choice, "") + text

    def unbooked_units(self) -> Units:
        """Return what was delivered for good and is not booked yet.

        The last word of every choice is left out: more text may still merge into its tokens, so
        that its count could fall. Before the first text nothing is: should the node fail, nothing
        is owed.
        """
        if not self._texts:
            return 0
        whole = [whole_words(self._texts[key]) for key in sorted(self._texts)]
        self._whole = sum(map(self._tools.count, whole)), "".join(whole)
        return max(0, self._cost(self._whole[0]) - self._booked_units)

    def unbilled(self) -> UnbilledRecord:
        """Return what a receipt of all that ``unbooked_units`` told of needs."""
        tokens, text = self._whole
        return self._record(self._cost(tokens), tokens, text.encode())

    def _record(self, amount_units: Units, completion_tokens: int, text: bytes) -> UnbilledRecord:
        order, (request_salt, response_salt) = self._order, self._salts
        return UnbilledRecord(
            self._request_id,
            self._open_channel.channel.signer,
            self.adapter_id,
            amount_units,
            order.prompt_tokens,
            completion_tokens,
            order.quote_hash,
            request_salt,
            salted_hash(request_salt, order.request),
            response_salt,
            salted_hash(response_salt, text),
        )

    def booked(self, units: Units) -> None:
        """Take note that the channel has booked these units as spent."""
        self._booked_units += units

    def completion_tokens(self) -> int:
        """Return the canonical token count of everything delivered."""
        return sum(self._tools.count(text) for text in self._texts.values())

    @property
    def prompt_tokens(self) -> int:
        return self._order.prompt_tokens

    @property
    def text(self) -> str:
        """Everything delivered, choice after choice: what the response hash covers."""
        return "".join(self._texts[key] for key in sorted(self._texts))

    def _cost(self, completion_tokens: int) -> Units:
        whole = self._order.price.amount_units(self._order.prompt_tokens, completion_tokens)
        return min(whole, self._reserved_units)

    # ending

    async def release(self) -> None:
        """Give everything back: nothing was delivered and nothing is owed."""
        if self._ended:
            return
        self._ended = True
        self._open_channel.deliveries.discard(self)
        await self._tools.channels.change(
            self._open_channel,
            lambda channel: settle(
                channel, self.adapter_id, reserved_units=self._reserved_units, spent_units=0
            ),
        )
        self._open_channel.notify()

    async def bill(self, answer: MakeAnswer | None = None) -> SignedReceipt | None:
        """Book what was delivered, chain and sign its receipt, all in one commit; return it.

        ``answer`` makes what is stored under the request's idempotency key. None where the request
        cost nothing.
        """
        if self._ended:
            return None
        self._ended = True
        self._open_channel.deliveries.discard(self)
        delivered = self.text.encode()
        completion_tokens = self.completion_tokens()
        made: list[SignedReceipt] = []

        def change(channel: NodeChannel, record: ChannelRecord) -> ChannelUpdate:
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
            await self._tools.channels.commit(self._open_channel, "receipt", change, retry=True)
        except StoreConflict:
            # Nothing was written: what was delivered is still owed, and may be billed again.
            self._ended = False
            self._open_channel.deliveries.add(self)
            raise
        return made[0] if made else None


def whole_words(text: str) -> str:
    """Return the text up to its last space or line break: what later text cannot merge into.

    Tokenizers of ours split text before they merge, so the count of this part never exceeds the
    count of any text that begins with ``text``; a property test holds it to the base model's.
    """
    return text[: max(text.rfind(" "), text.rfind("\n"), 0)]
