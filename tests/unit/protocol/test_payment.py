"""Messages survive their wire form, and malformed ones are refused with one clear line."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import keccak, public_address, settlement_domain, sign
from viz.domain.node_channel import PresentedVoucher
from viz.domain.ports.ledger import OfferedWork
from viz.domain.receipt import SignedReceipt
from viz.domain.typed_data import Close, Quote, Receipt, RequestClose, Session
from viz.domain.units import AdapterId, ContentId, Hash32
from viz.domain.usage import MAX_LINES, UsageLine, usage_hash
from viz.errors import AccessTokenInvalid, InvalidRequest, InvalidSignature
from viz.protocol.credential import (
    CloseRequest,
    Credential,
    Deposit,
    bearer_of_header,
    credential_from_header,
    credential_to_header,
)
from viz.protocol.messages import (
    AccessToken,
    AdapterOffer,
    ChannelLine,
    ChannelView,
    CloseAnswer,
    NodeInfo,
    SessionProof,
    adapter_model,
    adapter_of_model,
)
from viz.protocol.payment import (
    Challenge,
    NeedVoucher,
    SignedQuote,
    receipt_from_header,
    receipt_from_json,
    receipt_to_header,
    receipt_to_json,
)
from viz.protocol.wire import from_base64url, parse_json, to_base64url

NODE_KEY, SIGNER_KEY = bytes(31) + b"\x01", bytes(31) + b"\x02"
NODE, SIGNER = public_address(NODE_KEY), public_address(SIGNER_KEY)
DOMAIN = settlement_domain(31337, NODE)
HASH = keccak(b"some hash")
LINES = (UsageLine(AdapterId(0), 5), UsageLine(AdapterId(7), 2**96 - 6))
QUOTE = Quote(NODE, SIGNER, AdapterId(7), HASH, HASH, 2**64 - 1, 5, 512, 1_700_000_000)
SIGNED_QUOTE = SignedQuote(QUOTE, sign(NODE_KEY, DOMAIN.digest(QUOTE)))
NEED = NeedVoucher(AdapterId(7), 3, 4, 2**96 - 1, LINES)
RECEIPT = Receipt(HASH, 1, usage_hash(LINES), HASH, HASH, HASH, 3, 4, 2**96 - 1, 2**96 - 1, 9)
SIGNED_RECEIPT = SignedReceipt(RECEIPT, LINES, HASH, HASH, sign(NODE_KEY, DOMAIN.digest(RECEIPT)))
PRESENTED = PresentedVoucher(31337, NODE, SIGNER, NODE, SignedVoucher(12, HASH, LINES, bytes(64)))
DEPOSIT = Deposit("open", 31337, NODE, SIGNER, SIGNER, NODE, 10**7, HASH, 0, 99, b"\x01", b"\x02")
CLOSE = CloseRequest(31337, NODE, RequestClose(SIGNER, NODE, 2**63), b"\x05" * 65)
FINAL = replace(CLOSE, final=SignedVoucher(12, HASH, LINES, bytes(64)))
NOTHING_OWED = replace(CLOSE, final=SignedVoucher(12, HASH, (), b""))
INFO = NodeInfo(
    node=NODE,
    chain_id=31337,
    settlement=NODE,
    content_registry=NODE,
    adapter_registry=NODE,
    token=NODE,
    token_name="Viz Test USD",
    token_version="1",
    token_decimals=6,
    chain_time_s=1_700_000_000,
    base_model="SmolLM2-135M-Instruct",
    base_digest=HASH,
    tokenizer_digest=HASH,
    context_tokens=2048,
    suggested_deposit_units=10**6,
    minimum_deposit_units=10**4,
    minimum_step_units=10,
    adapters=(
        AdapterOffer(
            AdapterId(7),
            "viz-adapter-7",
            HASH,
            2**64 - 1,
            0,
            "tides",
            "Knows tides.",
            (OfferedWork(ContentId(3), "The keeper"), OfferedWork(ContentId(2**53 - 1))),
        ),
    ),
)
VIEW = ChannelView(
    SIGNER, NODE, SIGNER, 9, 8, 0, 8, LINES, (ChannelLine(AdapterId(7), 2, 1),), 3, HASH, 77
)
SESSION = Session(NODE, "http://127.0.0.1:8080", HASH, 1_700_000_000)


def _through_text(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize(
    "message",
    [
        INFO,
        VIEW,
        AccessToken("t" * 43, 9),
        SessionProof(SIGNER, SESSION, bytes(65)),
        CloseAnswer(Close(SIGNER, NODE, 2**96 - 1, 5), bytes(65), HASH),
        NEED,
    ],
    ids=lambda message: type(message).__name__,
)
def test_bodies_survive_json(message: Any) -> None:
    """What one side writes is what the other reads, amounts over 2^53 included."""
    assert type(message).from_json(_through_text(message.to_json())) == message


def test_receipts_survive_json_and_header() -> None:
    """A receipt is the same in an event, in a header and in a list."""
    assert receipt_from_json(_through_text(receipt_to_json(SIGNED_RECEIPT))) == SIGNED_RECEIPT
    assert receipt_from_header(receipt_to_header(SIGNED_RECEIPT)) == SIGNED_RECEIPT


@pytest.mark.parametrize("quote", [None, SIGNED_QUOTE])
@pytest.mark.parametrize("need", [None, NEED])
def test_the_challenge_survives_its_header(
    quote: SignedQuote | None, need: NeedVoucher | None
) -> None:
    """A 402 carries quote and need, or says that there is none yet."""
    challenge = Challenge("abc", "127.0.0.1:80", 31337, NODE, NODE, 10, 1, quote, need)
    assert Challenge.from_header(challenge.to_header()) == challenge


ALL_LINES = tuple(UsageLine(AdapterId(each), 2**88) for each in range(MAX_LINES))
LONGEST = PresentedVoucher(31337, NODE, SIGNER, NODE, replace(PRESENTED.row, lines=ALL_LINES))
LONGEST_CLOSE = replace(CLOSE, final=SignedVoucher(2**96 - 1, HASH, ALL_LINES, bytes(64)))


@pytest.mark.parametrize(
    "credential", [DEPOSIT, PRESENTED, CLOSE, FINAL, NOTHING_OWED, LONGEST, LONGEST_CLOSE]
)
def test_credentials_survive_their_header(credential: Credential) -> None:
    """Each action reads back as what was sent."""
    assert credential_from_header(credential_to_header(credential, "abc")) == credential


def _payload(**changes: Any) -> str:
    header = credential_to_header(PRESENTED)
    whole = from_base64url(header.split(" ")[1])
    whole["payload"].update(changes)
    return "Payment " + to_base64url(whole)


@pytest.mark.parametrize("filler", ["[" * 900, "[" + "[],[],[]," * 300 + "1]", "[1" + ",1" * 900])
def test_a_credential_of_many_values_is_not_parsed(
    filler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that no voucher has cost the node less than their parsing."""
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    header = "Payment " + base64.urlsafe_b64encode(f'{{"a":{filler}'.encode()).decode()
    with pytest.raises(InvalidRequest, match="more than 865 values"):
        credential_from_header(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Payment",
        "Payment ",
        "Basic eA==",
        "Payment !!!!",
        "Payment eA",
        "Payment " + "A" * 30_000,
        "Payment " + to_base64url({}),
        "Payment " + to_base64url({"challenge": {"method": "x", "intent": "session"}}),
        _payload(action="steal"),
        _payload(settled="-1"),
        _payload(settled="01"),
        _payload(settled="1e3"),
        _payload(settled=str(2**96)),
        _payload(settled="\u0661"),
        _payload(settled=5),
        _payload(signer="0x12"),
        _payload(signer="0x" + NODE[2:].swapcase()),
        _payload(lines=[[7, 5]]),
        _payload(lines=[["7", "5"]]),
        _payload(lines=[[True, "5"]]),
        _payload(lines=[[2**32, "5"]]),
        _payload(lines=[[-1, "5"]]),
        _payload(lines=[[7]]),
        _payload(lines=[[i, "1"] for i in range(256)]),
        _payload(lines="x"),
        _payload(signature="0x" + "00" * 65),
        _payload(signature="zz"),
        _payload(receiptsHead="0x00"),
        _payload(chainId=1.5),
        _payload(chainId=True),
    ],
)
def test_a_malformed_credential_is_refused(header: str) -> None:
    """No malformed payment reaches the rules, whatever is wrong with it."""
    with pytest.raises(InvalidRequest):
        credential_from_header(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer x",
        'Payment id="a"',
        'Payment id="a", id="b", method="viz", intent="session"',
        'Payment method="viz", intent="charge", request="e30"',
        'Payment method="viz", intent="session", request="e30"',
        'Payment id="unterminated',
        "Payment " + 'a="b",' * 9000,
    ],
)
def test_a_malformed_challenge_is_refused(header: str) -> None:
    """A client never pays on a challenge that it cannot read whole."""
    with pytest.raises(InvalidRequest):
        Challenge.from_header(header)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b"\xff", b'{"a":NaN}', b"[" * 100_000, b"{}" + b" " * 70_000]
)
def test_json_is_read_within_bounds(raw: bytes) -> None:
    """Deep, huge or broken JSON is an answer, not a crash."""
    with pytest.raises(InvalidRequest):
        parse_json(raw)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Payment x", "Bearer " + "x" * 600])
def test_a_malformed_access_token_is_refused(header: str) -> None:
    """Service needs a bearer token; a payment credential is none."""
    with pytest.raises(AccessTokenInvalid):
        bearer_of_header(header)


def test_model_names_name_adapters() -> None:
    """OpenAI clients choose an adapter by model name, and only by an exact one."""
    assert adapter_of_model(adapter_model(AdapterId(12))) == 12
    for model in ("viz-adapter-", "viz-adapter-x", "viz-adapter-\u0661", "smollm2", "7"):
        assert adapter_of_model(model) is None


def _other_lines() -> SignedReceipt:
    return SignedReceipt(RECEIPT, LINES[:1], HASH, HASH, SIGNED_RECEIPT.signature)


def _other_signer() -> SignedReceipt:
    signature = sign(SIGNER_KEY, DOMAIN.digest(RECEIPT))
    return SignedReceipt(RECEIPT, LINES, HASH, HASH, signature)


@pytest.mark.parametrize("forge", [_other_lines, _other_signer])
def test_a_forged_receipt_is_refused(forge: Callable[[], SignedReceipt]) -> None:
    """Only the node's own signature over these very lines makes a receipt."""
    assert SIGNED_RECEIPT.verify(DOMAIN, NODE) == DOMAIN.digest(RECEIPT)
    with pytest.raises(InvalidSignature):
        forge().verify(DOMAIN, NODE)


def test_a_forged_quote_is_refused() -> None:
    """A price counts only with the signature of the node that is paid."""
    assert SIGNED_QUOTE.verify(DOMAIN, NODE) == DOMAIN.digest(QUOTE)
    with pytest.raises(InvalidSignature):
        SIGNED_QUOTE.verify(DOMAIN, SIGNER)
    with pytest.raises(InvalidSignature):
        SignedQuote(QUOTE, bytes(65)).verify(DOMAIN, NODE)
    assert Hash32(bytes(32)) != DOMAIN.digest(QUOTE)
