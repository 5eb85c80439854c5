"""What a buyer refuses: quotes that are not for it, receipts that do not say what arrived."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.protocol.test_payment import INFO, NODE_KEY

from viz.buyer.terms.checks import ExpectedReceipt, agreed_quote, check_quote, check_receipt, is_for
from viz.buyer.terms.counting import Counter
from viz.domain.eip712 import public_address, settlement_domain, sign
from viz.domain.ports.chain import Deployment
from viz.domain.pricing import Price
from viz.domain.receipt import SignedReceipt, salted_hash
from viz.domain.typed_data import Quote, Receipt
from viz.domain.units import BASE_MODEL, ZERO_HASH, AdapterId, Hash32
from viz.domain.usage import UsageLine, usage_hash
from viz.errors import InvalidRequest, InvalidSignature, NodeNotTrusted
from viz.protocol.payment import SignedQuote, price_from_header, price_to_header
from viz.services.market.node_claims import check_node

NODE, SIGNER = INFO.node, public_address(b"\x09" * 32)
DOMAIN = settlement_domain(31337, NODE)
OFFER = INFO.adapters[0]
NOW = 1_700_000_000
SALT = Hash32(b"\x07" * 32)
QUOTE = Quote(
    NODE,
    SIGNER,
    OFFER.adapter_id,
    OFFER.weights_digest,
    INFO.tokenizer_digest,
    2_000_000,
    6_000_000,
    64,
    NOW + 60,
)


def check(quote: Quote, key: bytes = NODE_KEY) -> Hash32:
    return check_quote(
        SignedQuote(quote, sign(key, DOMAIN.digest(quote))),
        domain=DOMAIN,
        info=INFO,
        offer=OFFER,
        signer=SIGNER,
        now_s=NOW,
    )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"node": SIGNER}, InvalidSignature),
        ({"signer": NODE}, NodeNotTrusted),
        ({"adapter_id": AdapterId(8)}, NodeNotTrusted),
        ({"weights_digest": ZERO_HASH}, NodeNotTrusted),
        ({"tokenizer_digest": ZERO_HASH}, NodeNotTrusted),
        ({"max_tokens": 0}, NodeNotTrusted),
        ({"valid_until_s": NOW - 61}, NodeNotTrusted),
        ({"valid_until_s": NOW + 3_600}, NodeNotTrusted),
    ],
)
def test_a_quote_binds_exactly_what_was_asked(changes: Any, error: type[Exception]) -> None:
    """A price for somebody else, for other weights or for ever is none."""
    assert check(QUOTE) == DOMAIN.digest(QUOTE)
    with pytest.raises(error):
        check(replace(QUOTE, **changes))
    with pytest.raises(InvalidSignature):
        check(QUOTE, b"\x05" * 32)


AGREED = agreed_quote(DOMAIN.digest(QUOTE), SignedQuote(QUOTE, b""))
SERVED = ExpectedReceipt(OFFER.adapter_id, AGREED, b'{"a":1}', 300, ("high ", "tide"), 10**6)
RECEIPT = Receipt(
    ZERO_HASH,
    1,
    ZERO_HASH,
    AGREED.quote_hash,
    salted_hash(SALT, SERVED.request),
    salted_hash(SALT, b"high tide"),
    20,
    9,
    AGREED.price.amount_units(20, 9),
    0,
    NOW,
)


def judge(receipt: Receipt, adapter_id: AdapterId = OFFER.adapter_id, *, exact: bool) -> None:
    lines = (UsageLine(adapter_id, receipt.amount_units),) if receipt.amount_units else ()
    receipt = replace(receipt, usage_hash=usage_hash(lines))
    signed = SignedReceipt(receipt, lines, SALT, SALT, b"")
    check_receipt(signed, SERVED, Counter(count_tokens=len if exact else None))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"quote_hash": Hash32(b"\x11" * 32)},
        {"amount_units": RECEIPT.amount_units + 1},
        {"prompt_tokens": 301, "amount_units": AGREED.price.amount_units(301, 9)},
        {"completion_tokens": 10, "amount_units": AGREED.price.amount_units(20, 10)},
    ],
)
def test_a_receipt_says_what_arrived(changes: Any, exact: bool) -> None:
    """A node that bills other words, other tokens or another price is caught."""
    judge(RECEIPT, exact=exact)
    with pytest.raises(NodeNotTrusted):
        judge(replace(RECEIPT, **changes), exact=exact)
    with pytest.raises(NodeNotTrusted, match="another adapter"):
        judge(RECEIPT, AdapterId(0), exact=exact)


@pytest.mark.parametrize(
    "changes",
    [{"request_hash": ZERO_HASH}, {"response_hash": salted_hash(SALT, b"high tides")}],
)
def test_a_receipt_is_for_one_request_and_one_text(changes: Any) -> None:
    """A bill for something else is not taken for the bill of this answer."""
    signed = SignedReceipt(RECEIPT, (), SALT, SALT, b"")
    assert is_for(signed, SERVED)
    assert not is_for(replace(signed, receipt=replace(RECEIPT, **changes)), SERVED)


def test_a_name_means_one_adapter() -> None:
    """Who asks for a name pays its adapter's owners: a node may not sell its own under it."""
    here = Deployment(INFO.chain_id, ZERO_HASH, NODE, 6, NODE, NODE, NODE, NODE, 0)
    check_node(INFO, here)
    for renamed in (
        replace(OFFER, adapter_id=AdapterId(8)),
        replace(OFFER, adapter_id=BASE_MODEL),
        replace(OFFER, model="tides"),
    ):
        with pytest.raises(NodeNotTrusted, match="under the name"):
            check_node(replace(INFO, adapters=(renamed,)), here)


@pytest.mark.parametrize(
    "name",
    [
        "Viz-Adapter-8",
        "viz-adapter-8 ",
        "viz-adapter-0",
        "viz-adapter-00000000008",
        "viz-adapter-l",
        "viz-adapter-8\u200b",
        "viz\u2011adapter\u20118",
        "llam\u0430",
        "SmolLM2-135M-Instruct@a6f21e3ab5c4",
        " llama",
        "lla\tma",
        "l" * 201,
        "",
    ],
)
def test_a_base_model_has_a_plain_name(name: str) -> None:
    """On a screen it could pass for an adapter, for another base model, or for its id."""
    here = Deployment(INFO.chain_id, ZERO_HASH, NODE, 6, NODE, NODE, NODE, NODE, 0)
    base = replace(OFFER, adapter_id=BASE_MODEL, model="meta-llama/Llama-3.1 8B (NF4)", name="")
    check_node(replace(INFO, adapters=(base,)), here)
    changes: list[dict[str, Any]] = [{"model": name}, *([{"name": name}] if name else [])]
    for change in changes:
        with pytest.raises(NodeNotTrusted, match="sells a base model under the name") as refused:
            check_node(replace(INFO, adapters=(replace(base, **change),)), here)
        assert refused.value.detail.isascii()


def test_an_adapter_is_sold_under_its_id_alone() -> None:
    """Another spelling of the id would be another model to whoever compares the letters."""
    here = Deployment(INFO.chain_id, ZERO_HASH, NODE, 6, NODE, NODE, NODE, NODE, 0)
    for model in (OFFER.model.title(), f" {OFFER.model}", OFFER.model.replace("-7", "-07")):
        with pytest.raises(NodeNotTrusted, match="under the name"):
            check_node(replace(INFO, adapters=(replace(OFFER, model=model),)), here)


def test_a_price_travels_in_one_header() -> None:
    """The node reads the price that the buyer counts on, and nothing that only looks like one."""
    price = Price(2**64 - 1, 0)
    assert price_from_header(price_to_header(price)) == price
    for junk in ("", "1", "1 2 3", "-1 2", "1  2", "1 2\n", "\u0661 2", "9" * 21 + " 1"):
        with pytest.raises(InvalidRequest):
            price_from_header(junk)
