"""The exchange of docs/protocol.md, judged by eth_account and the page's own words alone.

Nothing of ours is imported: what verifies here is what a client in another language can make.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, Final

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_keys.datatypes import Signature
from eth_utils.crypto import keccak

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
MARKET: Final = json.loads((ROOT / "tests" / "vectors" / "market.json").read_text("utf-8"))
EXCHANGE: Final = PAGE.split("## 17. An exchange")[1]
TYPES: Final = re.findall(r"```text\n(\w+\([^`]*?)\ntype hash (0x[0-9a-f]{64})\n```", PAGE)
NODE, PAYER, SIGNER, CREATOR = (
    Account.from_key(bytes([byte]) * 32).address for byte in (0x11, 0x22, 0x33, 0x66)
)
# Named by step 1 and 2 of the exchange.
DEPLOYMENT: Final = json.loads(re.findall(r'^({"chain_id".*)$', EXCHANGE, re.MULTILINE)[0])
INFO: Final = json.loads(re.findall(r'^({"node".*"tokenName".*)$', EXCHANGE, re.MULTILINE)[0])


def types_of(name: str) -> dict[str, list[dict[str, str]]]:
    """Return a structure's types as the page spells them."""
    (spelled,) = (text for text, _ in TYPES if text.startswith(f"{name}("))
    found: dict[str, list[dict[str, str]]] = {}
    for kind, fields in re.findall(r"(\w+)\(([^)]*)\)", spelled):
        pairs = [field.split(" ") for field in fields.split(",")]
        found[kind] = [{"type": each, "name": label} for each, label in pairs]
    return found


def digest_of(
    name: str, message: Any, domain: str = "Settlement", deployment: Any = DEPLOYMENT
) -> bytes:
    """Return the digest of a structure, in a domain of section 14."""
    types = types_of(name)
    at = {
        "Settlement": ("Viz Settlement", "1", deployment["settlement"]),
        "ContentRegistry": ("Viz ContentRegistry", "1", deployment["content_registry"]),
        "token": (INFO["tokenName"], INFO["tokenVersion"], DEPLOYMENT["token"]),
    }[domain]
    signable = encode_typed_data(
        domain_data={
            "name": at[0],
            "version": at[1],
            "chainId": deployment["chain_id"],
            "verifyingContract": at[2],
        },
        message_types=types,
        message_data=typed(types, name, message),
    )
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def typed(types: dict[str, list[dict[str, str]]], kind: str, value: Any) -> Any:
    """Return a message with the values that its types have."""
    if kind in types:
        return {
            each["name"]: typed(types, each["type"], value[each["name"]]) for each in types[kind]
        }
    if kind.startswith("uint"):
        return int(value)
    return bytes.fromhex(value[2:]) if kind.startswith("bytes") else value


def signer_of(digest: bytes, signature: str) -> str:
    """Return who signed, compact or plain."""
    raw = bytes.fromhex(signature[2:])
    r, s, v = raw[:32], raw[32:64], raw[64] - 27 if len(raw) == 65 else raw[32] >> 7
    if len(raw) == 64:
        s = bytes([s[0] & 0x7F]) + s[1:]
    whole = Signature(r + s + bytes([v]))
    return str(whole.recover_public_key_from_msg_hash(digest).to_checksum_address())


def word(value: str) -> bytes:
    """Return hexadecimal as a 32-byte word, padded on the left."""
    return bytes.fromhex(value[2:]).rjust(32, b"\0")


def usage_hash(lines: list[Any]) -> str:
    """Return the hash of packed lines."""
    packed = b"".join(a.to_bytes(4, "big") + int(u).to_bytes(12, "big") for a, u in lines)
    return "0x" + keccak(packed).hex()


def bodies(pattern: str) -> list[Any]:
    """Return the JSON of the exchange's lines that begin so."""
    return [json.loads(text) for text in re.findall(rf"^({pattern}.*)$", EXCHANGE, re.MULTILINE)]


def decoded() -> list[Any]:
    """Return the messages that the exchange shows decoded."""
    found = re.findall(r"^```json\n(.*?)\n```$", EXCHANGE, re.DOTALL | re.MULTILINE)
    return [json.loads(text) for text in found]


def payloads(action: str) -> list[Any]:
    """Return the credentials' payloads of an action."""
    found = [each["payload"] for each in decoded() if "payload" in each]
    return [each for each in found if each["action"] == action]


def receipts() -> list[Any]:
    """Return the stream's receipt and the header's, in order."""
    stream = re.findall(r"^event: payment-receipt\ndata: (.*)$", EXCHANGE, re.MULTILINE)
    return [json.loads(stream[0]), *(each for each in decoded() if "requestSalt" in each)]


def voucher_signer(row: Any) -> str:
    """Return who signed a voucher to the exchange's node."""
    message = {**row, "node": NODE, "usageHash": usage_hash(row["lines"])}
    return signer_of(digest_of("Voucher", message), row["signature"])


def test_the_type_hashes_are_of_the_types() -> None:
    """Every structure of the page hashes to the type hash beside it."""
    assert len(TYPES) == 19
    for text, type_hash in TYPES:
        assert "0x" + keccak(text.replace("\n", "").encode()).hex() == type_hash


def test_deposits_are_signed_as_section_5_says() -> None:
    """Nonce, authorisation and consent of both deposits can be made from the page."""
    kinds = re.findall(r'keccak256\("(Viz\.\w+)"\)` \| `(0x[0-9a-f]{64})`', PAGE)
    assert all("0x" + keccak(text.encode()).hex() == value for text, value in kinds)
    named = dict(kinds)
    for action, kind in (("open", "Viz.OpenChannel"), ("topUp", "Viz.TopUp")):
        (deposit,) = payloads(action)
        parts = (named[kind], deposit["signer"], deposit["node"], deposit["salt"])
        said = {
            "from": deposit["payer"],
            "to": deposit["contract"],
            "value": deposit["amount"],
            "validAfter": deposit["validAfter"],
            "validBefore": deposit["validBefore"],
            "nonce": "0x" + keccak(b"".join(map(word, parts))).hex(),
        }
        digest = digest_of("ReceiveWithAuthorization", said, "token")
        assert signer_of(digest, deposit["authorization"]) == PAYER == deposit["payer"]
    (opening,) = payloads("open")
    consent = digest_of("OpenChannel", {"payer": PAYER, "node": NODE})
    assert signer_of(consent, opening["signerSignature"]) == SIGNER == opening["signer"]


def test_session_quote_vouchers_and_close_are_signed_as_section_14_says() -> None:
    """Each signature of the exchange names its signer."""
    (proof,) = bodies('{"signer": .*"session": ')
    assert signer_of(digest_of("Session", proof["session"]), proof["signature"]) == SIGNER
    (quote,) = (each["quote"] for each in decoded() if "quote" in each)
    digest = digest_of("Quote", quote["quote"])
    assert signer_of(digest, quote["signature"]) == NODE
    assert f"Payment-Quote: 0x{digest.hex()}" in EXCHANGE
    assert receipts()[0]["receipt"]["quoteHash"] == "0x" + digest.hex()
    assert [voucher_signer(row) for row in payloads("voucher")] == [SIGNER] * 5
    (closing,) = payloads("close")
    wanted = digest_of("RequestClose", closing["request"])
    assert signer_of(wanted, closing["signature"]) == PAYER
    assert voucher_signer(closing["final"]) == SIGNER
    (done,) = bodies('{"close": ')
    assert signer_of(digest_of("Close", done["close"]), done["signature"]) == NODE
    assert int(done["close"]["settled"]) == sum(int(u) for _, u in closing["final"]["lines"])


def test_receipts_are_made_and_chained_as_section_9_says() -> None:
    """Hashes, sums, prices and heads of both receipts follow from what the exchange shows."""
    streamed = re.findall(r'"delta":{"content":"([^"]+)"}', EXCHANGE)
    sent = re.findall(r"Content-Length: \d+\n\n({\"model.*)\n```", EXCHANGE)
    (whole,) = bodies('{"id": "cmpl-')
    answers = ("".join(streamed), whole["choices"][0]["text"])
    channel = "0x" + keccak(word(SIGNER) + word(NODE)).hex()
    head, total = bytes(32), 0
    for seq, (signed, asked, text) in enumerate(
        zip(receipts(), (sent[2], sent[3]), answers, strict=True), start=1
    ):
        receipt = signed["receipt"]
        digest = digest_of("Receipt", receipt)
        assert signer_of(digest, signed["signature"]) == NODE
        assert (receipt["channelId"], receipt["seq"]) == (channel, str(seq))
        assert receipt["usageHash"] == usage_hash(signed["lines"])
        for name, said in (("request", asked), ("response", text)):
            salted = keccak(word(signed[f"{name}Salt"]) + said.encode())
            assert receipt[f"{name}Hash"] == "0x" + salted.hex(), name
        exact = receipt["promptTokens"] * 2_000_000 + receipt["completionTokens"] * 6_000_000
        assert int(receipt["amount"]) == -(-exact // 1_000_000)
        total += int(receipt["amount"])
        assert int(receipt["total"]) == total
        head = keccak(head + digest)
        # The next voucher of the exchange signs this head.
        assert any(word(row["receiptsHead"]) == head for row in heads())


def heads() -> list[Any]:
    """Return the vouchers and the final voucher, which name heads."""
    return [*payloads("voucher"), payloads("close")[0]["final"]]


def test_a_registration_is_signed_as_section_15_says() -> None:
    """A creator's signature can be made from the page."""
    (sent,) = bodies('{"register": ')
    digest = digest_of("Register", sent["register"], "ContentRegistry")
    assert signer_of(digest, sent["signature"]) == CREATOR == sent["register"]["creator"]


def canonical(value: Any) -> bytes:
    """Return the canonical form (RFC 8785) of JSON without fractions, whose names are ASCII."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


def listing_digest(document: Any, deployment: Any = DEPLOYMENT) -> bytes:
    """Return what the owner of a listing signs, as section 15 says."""
    said = {
        "contentId": document["contentId"],
        "listingHash": "0x" + keccak(canonical(document)).hex(),
        "issuedAt": document["issuedAt"],
    }
    return digest_of("Listing", said, "ContentRegistry", deployment)


def test_listings_and_key_requests_are_signed_as_section_15_says() -> None:
    """The owner's and the trainer's signatures of the exchange can be made from the page."""
    (signed,) = bodies('{"listing": ')
    assert signer_of(listing_digest(signed["listing"]), signed["signature"]) == CREATOR
    (asked,) = bodies('{"request": ')
    digest = digest_of("KeyRequest", asked["request"], "ContentRegistry")
    assert signer_of(digest, asked["signature"]) == PAYER == asked["request"]["requester"]
    (ended,) = bodies('{"endCustody": ')
    digest = digest_of("EndCustody", ended["endCustody"], "ContentRegistry")
    assert signer_of(digest, ended["signature"]) == CREATOR
    (made,) = bodies('{"certificate": ')
    assert signer_of(digest_of("Destruction", made["certificate"]), made["signature"]) == NODE


def test_the_vectors_of_the_market_are_made_as_section_15_says() -> None:
    """Hashes, digests and signatures of market.json follow from the page alone."""
    names = ("chainId", "settlement", "contentRegistry")
    at = dict(
        zip(("chain_id", "settlement", "content_registry"), map(MARKET.get, names), strict=True)
    )
    listing = MARKET["listing"]
    signed = listing["signed"]
    assert canonical(signed["listing"]) == listing["canonical"].encode()
    assert listing["listingHash"] == "0x" + keccak(listing["canonical"].encode()).hex()
    terms = canonical(signed["listing"]["license"])
    assert listing["licenseHash"] == "0x" + keccak(terms).hex()
    digest = listing_digest(signed["listing"], at)
    assert listing["digest"] == "0x" + digest.hex()
    for signature in (signed["signature"], listing["plainSignature"]):
        assert signer_of(digest, signature) == MARKET["owner"]
    for name, kind, member, signer in (
        ("handOver", "Custody", "custody", "owner"),
        ("keyRequest", "KeyRequest", "request", "requester"),
        ("endCustody", "EndCustody", "endCustody", "owner"),
    ):
        found = MARKET[name]
        digest = digest_of(kind, found["message"][member], "ContentRegistry", at)
        assert found["digest"] == "0x" + digest.hex(), name
        assert signer_of(digest, found["message"]["signature"]) == MARKET[signer], name
    header = base64.urlsafe_b64decode(MARKET["handOver"]["header"] + "==")
    assert header == canonical(MARKET["handOver"]["message"])
    said = MARKET["certificate"]
    listed = {name: said["signed"][name] for name in ("destroyed", "left", "beyondRecall")}
    certificate = said["signed"]["certificate"]
    assert said["canonical"].encode() == canonical(listed)
    assert certificate["itemsHash"] == "0x" + keccak(canonical(listed)).hex()
    digest = digest_of("Destruction", certificate, "Settlement", at)
    assert said["digest"] == "0x" + digest.hex()
    assert signer_of(digest, said["signed"]["signature"]) == MARKET["custodian"]
