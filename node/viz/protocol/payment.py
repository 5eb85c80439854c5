"""Define the payment messages between a buyer and a node over HTTP.

Owns the paths, header names and messages of payment method ``viz``, intent ``session``, in the
framing of the HTTP "Payment" authentication scheme (draft-ryan-httpauth-payment): the challenge of
a 402, the quote, the stream's events and the receipt. Credentials are in
``viz.protocol.credential``, other bodies in ``viz.protocol.messages``. Does no I/O, and does not
check amounts: ``viz.domain.node_channel`` does.

The life of a buyer, path by path: GET NODE_PATH -> NodeInfo; POST CHANNELS_PATH with an open
credential -> ChannelView; POST SESSION_CHALLENGE_PATH, then SESSIONS_PATH -> AccessToken; POST
CHAT_PATH with ``Authorization: Bearer`` -> 402 with a Challenge (quote and what is needed) until a
POST of VOUCHERS_PATH covered the first step, then SSE; POST CLOSE_PATH -> CloseAnswer.

Invariant: for every message, ``from_json(to_json(message)) == message``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self

from viz.domain.eip712 import Domain, is_signed_by
from viz.domain.pricing import Price
from viz.domain.receipt import SignedReceipt
from viz.domain.typed_data import Quote, Receipt
from viz.domain.units import Address, Hash32
from viz.errors import InvalidRequest, InvalidSignature
from viz.protocol.messages import MAX_SIGNATURE_BYTES, SignatureHex
from viz.protocol.wire import Json, Reader, from_base64url, to_base64url
from viz.protocol.wire_model import (
    HASH32,
    LINES,
    AdapterNumber,
    AddressText,
    Codec,
    JsonInteger,
    Signed,
    UnitsText,
    UsageLines,
    WireModel,
    blob,
    record,
    signed_form,
    text,
)

METHOD: Final = "viz"
INTENT: Final = "session"

NODE_PATH: Final = "/viz/v1/node"
# GET -> the deployment file's JSON: the chain and contracts that the node uses.
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

# A request that names a quote (its digest) is served at that quote, or refused with QuoteExpired. A
# request without a quote is served at the list price of NODE_PATH; its receipt has the zero hash.
QUOTE_HEADER: Final = "Payment-Quote"
# The list price that such a request expects; at a higher price it is refused with QuoteExpired.
PRICE_HEADER: Final = "Payment-Price"
# A client that sends this value gets payment events in the stream; others get comments and headers.
ACCEPT_HEADER: Final = "Accept-Payment"
ACCEPT_VALUE: Final = f"{METHOD}/{INTENT}"
RECEIPT_HEADER: Final = "Payment-Receipt"
# The name of a request, new for each: a request whose name came before is not served again. So a
# server in front of the node that repeats a request by itself does not make it bill twice.
NAME_HEADER: Final = "Payment-Request"
MAX_NAME_CHARS: Final = 64
# The header of a voucher that pays for the request itself: the text of its credential.
VOUCHER_HEADER: Final = "Payment-Voucher"

NEED_VOUCHER_EVENT: Final = "payment-need-voucher"
RECEIPT_EVENT: Final = "payment-receipt"

MAX_CREDENTIAL_CHARS: Final = 24 * 1024
MAX_RECEIPTS: Final = 256


# quotes, needs and receipts


@dataclass(frozen=True, slots=True)
class SignedQuote(WireModel):
    """A node's signed price."""

    quote: Annotated[Quote, Signed]
    signature: SignatureHex

    def verify(self, domain: Domain, node: Address) -> Hash32:
        """Return the quote's digest, which QUOTE_HEADER and receipts name.

        Raises InvalidSignature if ``node`` did not sign the quote.
        """
        digest = domain.digest(self.quote)
        if self.quote.node != node or not is_signed_by(digest, self.signature, node):
            raise InvalidSignature("the quote is not signed by the node")
        return digest


@dataclass(frozen=True, slots=True)
class NeedVoucher(WireModel):
    """A node's request for a voucher: the adapter's ``accepted`` must reach ``required``.

    Also the data of the ``payment-need-voucher`` event. All amounts are cumulative over the
    channel's life. ``best`` is the lines of the best voucher on ``base``.
    """

    WHERE: ClassVar[str] = "the need for a voucher"
    adapter_id: AdapterNumber
    base_units: UnitsText
    accepted_units: UnitsText
    required_units: UnitsText
    best: UsageLines


_RECEIPT: Final = Codec[SignedReceipt](
    Annotated[
        SignedReceipt,
        record(
            SignedReceipt,
            {
                "receipt": ("receipt", signed_form(Receipt)),
                "lines": ("lines", LINES),
                "request_salt": ("requestSalt", HASH32),
                "response_salt": ("responseSalt", HASH32),
                "signature": ("signature", blob(MAX_SIGNATURE_BYTES)),
            },
        ),
    ]
)


def receipt_to_json(signed: SignedReceipt) -> Json:
    """Return the data of the ``payment-receipt`` event; RECEIPT_HEADER carries it as base64url."""
    return _RECEIPT.json(signed)


def receipt_to_header(signed: SignedReceipt) -> str:
    """Return the value of RECEIPT_HEADER, for answers that do not stream."""
    return to_base64url(receipt_to_json(signed))


def receipt_from_header(header: str) -> SignedReceipt:
    """Return the receipt in RECEIPT_HEADER, without verifying it; raise InvalidRequest."""
    return receipt_from_json(from_base64url(header, max_chars=MAX_CREDENTIAL_CHARS))


def receipt_from_json(value: object) -> SignedReceipt:
    """Return the receipt in JSON values, without verifying it; raise InvalidRequest."""
    return _RECEIPT.read(value, "the receipt")


def unsigned_members(value: Mapping[str, Any], read: SignedReceipt) -> set[str]:
    """Return the members of a receipt's JSON that no receipt has, so that no signature covers."""
    known = receipt_to_json(read)
    return {*(value.keys() - known.keys()), *(value["receipt"].keys() - known["receipt"].keys())}


def receipts_from_json(value: object, most: int = MAX_RECEIPTS) -> tuple[SignedReceipt, ...]:
    """Return the answer of RECEIPTS_PATH: {"receipts": [...]}, the oldest first.

    ``most``: a file of them may have more than an answer.
    """
    items = Reader(value, "the list of receipts").array("receipts", most)
    return tuple(receipt_from_json(item) for item in items)


def price_to_header(price: Price) -> str:
    """Return the value of PRICE_HEADER: units per million prompt and completion tokens."""
    return f"{price.prompt_price_units} {price.completion_price_units}"


def price_from_header(header: str) -> Price:
    """Return the price in PRICE_HEADER; raise InvalidRequest."""
    match = _PRICE.fullmatch(header)
    if match is None:
        raise InvalidRequest(f"{PRICE_HEADER} holds two whole numbers, of units per million tokens")
    return Price(int(match[1]), int(match[2]))


# the challenge of a 402


@dataclass(frozen=True, slots=True)
class Challenge(WireModel):
    """The content of a 402: where to pay, the quote, and the amount that is needed now.

    ``quote`` is None for a client without access token, because a quote names a signer. ``need`` is
    None if the signer has no channel.
    """

    WHERE: ClassVar[str] = "the payment challenge"
    challenge_id: Annotated[str, text(MAX_CREDENTIAL_CHARS)]
    realm: Annotated[str, text(MAX_CREDENTIAL_CHARS)]
    chain_id: JsonInteger
    contract: AddressText
    node: AddressText
    suggested_deposit_units: UnitsText
    minimum_step_units: UnitsText
    quote: SignedQuote | None = None
    need: NeedVoucher | None = None

    def to_header(self) -> str:
        """Return the value of WWW-Authenticate."""
        request = self.to_json()
        parameters = {
            # These parameters are defined by the draft of the scheme; the others by method viz.
            "id": request.pop("challengeId"),
            "realm": request.pop("realm"),
            "method": METHOD,
            "intent": INTENT,
            "request": to_base64url(request),
        }
        return "Payment " + ", ".join(f'{key}="{value}"' for key, value in parameters.items())

    @classmethod
    def from_header(cls, header: str) -> Self:
        """Return the challenge; raise InvalidRequest if it is not one of method viz."""
        parameters = _auth_parameters(header)
        if (parameters.get("method"), parameters.get("intent")) != (METHOD, INTENT):
            raise InvalidRequest("the payment challenge is not of method viz, intent session")
        request = from_base64url(parameters.get("request", ""))
        named = {"challengeId": parameters.get("id", ""), "realm": parameters.get("realm", "")}
        return cls.from_json(request | named)


def payment_scheme_in(header: str) -> str:
    """Return the Payment challenge in a WWW-Authenticate header, "" if there is none.

    A server in front of a node may put a scheme of its own before or after it (RFC 9110, 11.6.1).
    """
    schemes = (each.strip() for each in _SCHEME.findall(header))
    return next((each for each in schemes if each.lower().startswith("payment ")), "")


# A scheme ends at a comma, outside quotes, after which a token follows that has no "=".
_SCHEME: Final = re.compile(
    r'(?:[^",]|"[^"]*"|,(?!\s*[A-Za-z][A-Za-z0-9_-]*(?:\s+[A-Za-z0-9]|\s*(?:,|$))))+'
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
