"""How paying looks over HTTP: every message between a buyer and a node, as data.

Owns the paths, header names and messages of payment method ``viz``, intent ``session``, in the
framing of the HTTP "Payment" authentication scheme (draft-ryan-httpauth-payment): the challenge of
a 402, the quote, the stream's events and the receipt. Credentials are in
``viz.protocol.credential``, other bodies in ``viz.protocol.messages``. Does no I/O and judges no
money: ``viz.domain.node_channel`` does.

The life of a buyer, path by path: GET NODE_PATH -> NodeInfo; POST CHANNELS_PATH with an open
credential -> ChannelView; POST SESSION_CHALLENGE_PATH, then SESSIONS_PATH -> AccessToken; POST
CHAT_PATH with ``Authorization: Bearer`` -> 402 with a Challenge (quote and what is needed) until a
POST of VOUCHERS_PATH covered the first step, then SSE; POST CLOSE_PATH -> CloseAnswer.

Invariant: for every message, ``from_json(to_json(message)) == message``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from viz.domain.eip712 import Domain, is_signed_by
from viz.domain.pricing import Price
from viz.domain.receipt import SignedReceipt
from viz.domain.typed_data import Quote, Receipt
from viz.domain.units import AdapterId, Address, Hash32, Units, hex_of
from viz.domain.usage import Lines
from viz.errors import InvalidRequest, InvalidSignature
from viz.protocol.messages import MAX_SIGNATURE_BYTES
from viz.protocol.wire import (
    JSON_INTEGER_MAX,
    Json,
    Reader,
    canonical_json,
    from_base64url,
    lines_to_json,
    struct_from_json,
    struct_to_json,
    to_base64url,
)

METHOD: Final = "viz"
INTENT: Final = "session"

NODE_PATH: Final = "/viz/v1/node"
# GET -> the deployment file's JSON: which chain and contracts the node works on.
DEPLOYMENT_PATH: Final = "/viz/v1/deployment"
SESSION_CHALLENGE_PATH: Final = "/viz/v1/sessions/challenge"
SESSIONS_PATH: Final = "/viz/v1/sessions"
CHANNELS_PATH: Final = "/viz/v1/channels"
CHANNEL_PATH: Final = "/viz/v1/channels/{signer}"
RECEIPTS_PATH: Final = "/viz/v1/channels/{signer}/receipts"  # ?after=SEQ, the oldest first
VOUCHERS_PATH: Final = "/viz/v1/vouchers"
CLOSE_PATH: Final = "/viz/v1/channels/close"
MODELS_PATH: Final = "/v1/models"
CHAT_PATH: Final = "/v1/chat/completions"
COMPLETIONS_PATH: Final = "/v1/completions"

# A request that names a quote (its digest) is served at that quote, or refused: QuoteExpired. One
# that names none is served at the list price of NODE_PATH, and its receipt names the zero hash.
QUOTE_HEADER: Final = "Payment-Quote"
# The list price that such a request counts on; at a higher one it is refused: QuoteExpired.
PRICE_HEADER: Final = "Payment-Price"
# A client that sends this gets payment events in the stream; others get comments and headers.
ACCEPT_HEADER: Final = "Accept-Payment"
ACCEPT_VALUE: Final = f"{METHOD}/{INTENT}"
RECEIPT_HEADER: Final = "Payment-Receipt"

NEED_VOUCHER_EVENT: Final = "payment-need-voucher"
RECEIPT_EVENT: Final = "payment-receipt"

MAX_CREDENTIAL_CHARS: Final = 24 * 1024
MAX_RECEIPTS: Final = 256


# quotes, needs and receipts


@dataclass(frozen=True, slots=True)
class SignedQuote:
    """A node's signed price."""

    quote: Quote
    signature: bytes

    def to_json(self) -> Json:
        return {"quote": struct_to_json(self.quote), "signature": hex_of(self.signature)}

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(
            struct_from_json(Quote, reader.child("quote")),
            reader.blob("signature", MAX_SIGNATURE_BYTES),
        )

    def verify(self, domain: Domain, node: Address) -> Hash32:
        """Return the quote's digest, which QUOTE_HEADER and receipts name."""
        digest = domain.digest(self.quote)
        if self.quote.node != node or not is_signed_by(digest, self.signature, node):
            raise InvalidSignature("the quote is not signed by the node")
        return digest


@dataclass(frozen=True, slots=True)
class NeedVoucher:
    """What a node asks for before it goes on: ``accepted`` of the adapter must reach ``required``.

    Also the data of the ``payment-need-voucher`` event. All amounts are cumulative over the
    channel's life; ``best`` are the lines of the best voucher on ``base``.
    """

    adapter_id: AdapterId
    base_units: Units
    accepted_units: Units
    required_units: Units
    best: Lines = ()

    def to_json(self) -> Json:
        return {
            "adapterId": int(self.adapter_id),
            "base": str(self.base_units),
            "accepted": str(self.accepted_units),
            "required": str(self.required_units),
            "best": lines_to_json(self.best),
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        return cls.read(Reader(value, "the need for a voucher"))

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(
            AdapterId(reader.integer("adapterId")),
            reader.units("base"),
            reader.units("accepted"),
            reader.units("required"),
            reader.lines("best"),
        )


def receipt_to_json(signed: SignedReceipt) -> Json:
    """Return the data of the ``payment-receipt`` event; RECEIPT_HEADER carries it as base64url."""
    return {
        "receipt": struct_to_json(signed.receipt),
        "lines": lines_to_json(signed.lines),
        "requestSalt": hex_of(signed.request_salt),
        "responseSalt": hex_of(signed.response_salt),
        "signature": hex_of(signed.signature),
    }


def receipt_to_header(signed: SignedReceipt) -> str:
    """Return the value of RECEIPT_HEADER, for answers that do not stream."""
    return to_base64url(receipt_to_json(signed))


def receipt_from_header(header: str) -> SignedReceipt:
    return receipt_from_json(from_base64url(header, max_chars=MAX_CREDENTIAL_CHARS))


def event_frame(name: str, data: Json) -> bytes:
    """Return a server-sent event of that name (the stream's own chunks have none)."""
    return b"event: " + name.encode() + b"\ndata: " + canonical_json(data) + b"\n\n"


def receipt_from_json(value: object) -> SignedReceipt:
    reader = Reader(value, "the receipt")
    return SignedReceipt(
        receipt=struct_from_json(Receipt, reader.child("receipt")),
        lines=reader.lines("lines"),
        request_salt=reader.hash32("requestSalt"),
        response_salt=reader.hash32("responseSalt"),
        signature=reader.blob("signature", MAX_SIGNATURE_BYTES),
    )


def receipts_from_json(value: object) -> tuple[SignedReceipt, ...]:
    """Return the answer of RECEIPTS_PATH: {"receipts": [...]}, the oldest first."""
    items = Reader(value, "the receipts").array("receipts", MAX_RECEIPTS)
    return tuple(receipt_from_json(item) for item in items)


def price_to_header(price: Price) -> str:
    """Return the value of PRICE_HEADER: units per million prompt and completion tokens."""
    return f"{price.prompt_price_units} {price.completion_price_units}"


def price_from_header(header: str) -> Price:
    match = _PRICE.fullmatch(header)
    if match is None:
        raise InvalidRequest(f"{PRICE_HEADER} holds two whole numbers, of units per million tokens")
    return Price(int(match[1]), int(match[2]))


# the challenge of a 402


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a 402 says: where to pay, the quote if the asker is known, and what is needed now.

    ``quote`` is None for an asker without access token (a quote binds a signer); ``need`` is None
    while the signer has no channel.
    """

    challenge_id: str
    realm: str
    chain_id: int
    contract: Address
    node: Address
    suggested_deposit_units: Units
    minimum_step_units: Units
    quote: SignedQuote | None = None
    need: NeedVoucher | None = None

    def to_header(self) -> str:
        """Return the value of WWW-Authenticate."""
        request: Json = {
            "chainId": self.chain_id,
            "contract": self.contract,
            "node": self.node,
            "suggestedDeposit": str(self.suggested_deposit_units),
            "minimumStep": str(self.minimum_step_units),
        }
        if self.quote:
            request["quote"] = self.quote.to_json()
        if self.need:
            request["need"] = self.need.to_json()
        parameters = {
            "id": self.challenge_id,
            "realm": self.realm,
            "method": METHOD,
            "intent": INTENT,
            "request": to_base64url(request),
        }
        return "Payment " + ", ".join(f'{key}="{value}"' for key, value in parameters.items())

    @classmethod
    def from_header(cls, header: str) -> Self:
        """Return the challenge; raise InvalidRequest when it is not one of method viz."""
        parameters = _auth_parameters(header)
        if (parameters.get("method"), parameters.get("intent")) != (METHOD, INTENT):
            raise InvalidRequest("the payment challenge is not of method viz, intent session")
        reader = Reader(from_base64url(parameters.get("request", "")), "the payment challenge")
        return cls(
            challenge_id=parameters.get("id", ""),
            realm=parameters.get("realm", ""),
            chain_id=reader.integer("chainId", JSON_INTEGER_MAX),
            contract=reader.address("contract"),
            node=reader.address("node"),
            suggested_deposit_units=reader.units("suggestedDeposit"),
            minimum_step_units=reader.units("minimumStep"),
            quote=SignedQuote.read(reader.child("quote")) if reader.has("quote") else None,
            need=NeedVoucher.read(reader.child("need")) if reader.has("need") else None,
        )


_PRICE: Final = re.compile(r"([0-9]{1,20}) ([0-9]{1,20})")
_PARAMETER: Final = re.compile(r'\s*([A-Za-z][A-Za-z0-9_-]*)="([^"\\]*)"\s*(?:,|$)')


def _auth_parameters(header: str) -> dict[str, str]:
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "payment" or len(rest) > MAX_CREDENTIAL_CHARS:
        raise InvalidRequest("the header is not a Payment challenge")
    found: dict[str, str] = {}
    at = 0
    while at < len(rest):
        match = _PARAMETER.match(rest, at)
        if match is None or match[1].lower() in found:
            raise InvalidRequest("the Payment challenge's parameters cannot be read")
        found[match[1].lower()] = match[2]
        at = match.end()
    return found
