"""Check what a node says: before the buyer pays, and after it was served.

Owns the buyer's limits, the rules that a quote must meet, and the comparison of a receipt with what
arrived. Does no I/O. A rule that fails raises NodeNotTrusted and names the fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from viz.buyer.terms.counting import Counter
from viz.domain.buyer_channel import BuyerChannel, ReceiptLink, take_receipt, verified_link
from viz.domain.display import moment
from viz.domain.eip712 import Domain
from viz.domain.pricing import Price
from viz.domain.receipt import SignedReceipt, salted_hash
from viz.domain.units import ZERO_HASH, Address, Hash32, Units
from viz.errors import InvalidSignature, NodeNotTrusted
from viz.protocol.answers import no_answer
from viz.protocol.messages import AdapterOffer, NodeInfo
from viz.protocol.payment import SignedQuote
from viz.protocol.wire import JSON_INTEGER_MAX

QUOTE_LIFE_S: Final = 60
CLOCK_SKEW_S: Final = 60


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a buyer lets a node have. Prices are units per million tokens.

    ``*_stated`` says that the buyer named this cap. It then agrees to any price within the cap,
    even after a large rise (``viz.buyer.terms.prices``).
    ``ahead_tokens`` is how far signatures run ahead of what arrived. ``step_tokens`` is the most
    that a node may ask for ahead of what it delivered.
    """

    prompt_price_units: Units = 50_000_000
    completion_price_units: Units = 100_000_000
    request_units: Units = 1_000_000
    ahead_tokens: int = 64
    step_tokens: int = 512
    prompt_price_stated: bool = False
    completion_price_stated: bool = False

    @property
    def step_units(self) -> Units:
        """The most that one step may cost, whatever one request may."""
        price = Price(self.prompt_price_units, self.completion_price_units)
        return price.amount_units(0, self.step_tokens)


@dataclass(frozen=True, slots=True)
class Agreed:
    """The price of one request: a quote's, or the list price.

    A receipt at the list price names the zero hash as its quote.
    """

    price: Price
    quote_hash: Hash32 = ZERO_HASH
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ExpectedReceipt:
    """What arrived for one request, and so what its receipt must state. One text for each choice.

    ``prompt_tokens`` is the count of the prompt: exact, or an upper bound. ``most_units`` is the
    most that the request may cost, by what was asked for and by the cap.
    """

    adapter_id: int
    agreed: Agreed
    request: bytes
    prompt_tokens: int
    texts: tuple[str, ...]
    most_units: Units


def agreed_quote(digest: Hash32, signed: SignedQuote) -> Agreed:
    """Return the price of a checked quote."""
    quote = signed.quote
    price = Price(quote.prompt_price_units, quote.completion_price_units)
    return Agreed(price, digest, quote.max_tokens)


def agreed_list_price(offer: AdapterOffer) -> Agreed:
    """Return the list price of an adapter."""
    return Agreed(Price(offer.prompt_price_units, offer.completion_price_units))


def check_quote(
    signed: SignedQuote,
    *,
    domain: Domain,
    info: NodeInfo,
    offer: AdapterOffer,
    signer: Address,
    now_s: int,
) -> Hash32:
    """Check a quote and return its digest; raise NodeNotTrusted, InvalidSignature."""
    digest, quote = signed.verify(domain, info.node), signed.quote
    rules = (
        (quote.signer == signer, "is for another signer"),
        (quote.adapter_id == offer.adapter_id, "is for another adapter"),
        (quote.weights_digest == offer.weights_digest, "names other weights"),
        (
            quote.tokenizer_digest == info.base_of(offer).tokenizer_digest,
            "names another tokenizer",
        ),
        (quote.max_tokens > 0, "allows no tokens"),
        (
            # A new quote ends within its life. The node's clock may be ahead or behind.
            now_s - CLOCK_SKEW_S <= quote.valid_until_s <= now_s + QUOTE_LIFE_S + CLOCK_SKEW_S,
            f"ends at {moment(quote.valid_until_s)}, and this machine's clock shows "
            f"{moment(now_s)}: a quote holds {QUOTE_LIFE_S} s. Set this machine's clock; if it is "
            "right, the node's is wrong",
        ),
    )
    for holds, fault in rules:
        if not holds:
            raise NodeNotTrusted(f"the node's quote {fault}")
    return digest


def own_link(channel: BuyerChannel, domain: Domain, signed: SignedReceipt) -> ReceiptLink:
    """Return a receipt's place in the chain of receipts.

    Raises NodeRefused if the node did not sign it for this channel: then it is no word of the node.
    """
    try:
        return verified_link(channel, domain, signed)
    except InvalidSignature as error:
        raise no_answer(error.detail) from error


def with_receipt(
    channel: BuyerChannel, domain: Domain, signed: SignedReceipt
) -> tuple[BuyerChannel, ReceiptLink]:
    """Return the channel with a receipt, and the receipt's place in the chain of receipts.

    Raises as ``own_link``, InvalidSignature if it contradicts the receipts before it, and
    NodeNotTrusted if it has a number that the node's own view of the channel could not name.
    """
    link = own_link(channel, domain, signed)
    if link.seq > JSON_INTEGER_MAX:
        raise NodeNotTrusted(f"receipt {link.seq} has a number that no channel comes to")
    return take_receipt(channel, link), link


def is_for(signed: SignedReceipt, expected: ExpectedReceipt) -> bool:
    """Say whether a receipt is for this request and for the text that arrived.

    If not, the node need not be at fault: neither request nor text is signed by it, and a server in
    front of it may have changed the text, or answered with the answer to another request.
    """
    receipt, said = signed.receipt, "".join(expected.texts).encode()
    return receipt.request_hash == salted_hash(
        signed.request_salt, expected.request
    ) and receipt.response_hash == salted_hash(signed.response_salt, said)


def check_receipt(signed: SignedReceipt, expected: ExpectedReceipt, counter: Counter) -> None:
    """Raise NodeNotTrusted if the receipt does not state what arrived, billed at the agreed price.

    The receipt is for this answer (``is_for``). ``viz.domain.buyer_channel`` checks the signature
    and the chain of receipts.
    """
    receipt, agreed = signed.receipt, expected.agreed
    cost = agreed.price.amount_units(receipt.prompt_tokens, receipt.completion_tokens)
    lines = ((expected.adapter_id, receipt.amount_units),) if receipt.amount_units else ()
    bound = sum(map(counter.text_tokens, expected.texts))
    counted = receipt.completion_tokens
    rules = (
        # Without a quote if a server on the way took the header out; the price holds all the same.
        (receipt.quote_hash in (agreed.quote_hash, ZERO_HASH), "names another quote"),
        (receipt.amount_units <= cost, "bills more than its tokens cost"),
        (receipt.amount_units <= expected.most_units, "bills more than was asked for"),
        (signed.lines == lines, "bills another adapter"),
        (receipt.prompt_tokens <= expected.prompt_tokens, "counts too many prompt tokens"),
        (counted == bound or (counted < bound and not counter.exact), "counts other tokens"),
    )
    for holds, fault in rules:
        if not holds:
            raise NodeNotTrusted(f"receipt {receipt.seq} {fault}")
