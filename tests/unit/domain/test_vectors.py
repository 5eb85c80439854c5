"""The golden vectors, which Solidity's tests read too, are what this code computes."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from scripts.make_vectors import text_of, vectors

from viz.domain.claim_rows import pack_rows, unpack_rows
from viz.domain.eip712 import keccak, recover

TERMS = (
    "Terms(uint96 trainingFee,uint16 minRoyaltyBps,uint32 grantDuration,uint32 notice,"
    "uint8 revocationClass,uint8 uses,bool approvalRequired)"
)
# What people and nodes sign, word for word: whoever changes one of these changes the protocol.
SIGNED = {
    "Register(address creator,bytes32 commitment,bytes32 licenseHash,Terms terms,uint256 nonce,"
    "uint64 deadline)" + TERMS,
    "SetTerms(uint256 contentId,bytes32 licenseHash,Terms terms,uint256 nonce,uint64 deadline)"
    + TERMS,
    "Approve(uint256 contentId,address trainer,bool allowed,uint256 nonce,uint64 deadline)",
    "Withdraw(uint256 contentId,uint256 nonce,uint64 deadline)",
    "Listing(uint256 contentId,bytes32 listingHash,uint64 issuedAt)",
    "Custody(uint256 contentId,address custodian,string origin,string cid,uint64 size,"
    "bytes32 challenge,uint64 expiry)",
    "EndCustody(uint256 contentId,address custodian,string origin,bytes32 challenge,uint64 expiry)",
    "KeyRequest(address requester,address custodian,string origin,uint8 kind,uint256 id,"
    "string ageRecipient,bytes32 challenge,uint64 expiry)",
    "Notice(address notifier,address node,uint32 adapterId,uint256 contentId,uint8 kind,"
    "string statement,string contact,bytes32 evidenceHash,uint64 issuedAt)",
    "OpenChannel(address payer,address node)",
    "Voucher(address node,uint96 settled,bytes32 usageHash,bytes32 receiptsHead)",
    "RequestClose(address signer,address node,uint64 deadline)",
    "Close(address signer,address node,uint96 settled,uint64 deadline)",
    "Session(address node,string origin,bytes32 challenge,uint64 expiry)",
    "Quote(address node,address signer,uint32 adapterId,bytes32 weightsDigest,"
    "bytes32 tokenizerDigest,uint64 promptPrice,uint64 completionPrice,uint32 maxTokens,"
    "uint64 validUntil)",
    "Receipt(bytes32 channelId,uint64 seq,bytes32 usageHash,bytes32 quoteHash,bytes32 requestHash,"
    "bytes32 responseHash,uint32 promptTokens,uint32 completionTokens,uint96 amount,uint96 total,"
    "uint64 time)",
    "Destruction(address node,uint256 contentId,uint64 withdrawnAt,uint64 dueAt,uint64 time,"
    "bytes32 itemsHash)",
    "ReceiptPeriod(address node,uint64 number,uint64 since,uint64 until,bytes32 previous,"
    "bytes32 root,uint32 count,uint96 amount)",
    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    "uint256 validBefore,bytes32 nonce)",
}
DIRECTORY = Path(__file__).parents[2] / "vectors"


@pytest.mark.parametrize("name", sorted(vectors()))
def test_the_committed_vectors_are_current(name: str) -> None:
    """A change of what is signed or claimed must show as a change of a committed file."""
    assert (DIRECTORY / name).read_text() == text_of(vectors()[name])


def test_every_signature_in_the_vectors_recovers() -> None:
    """The vectors prove something: each signature names its signer in both forms."""
    for struct in json.loads((DIRECTORY / "eip712.json").read_text())["structs"]:
        for form in ("signature", "compactSignature"):
            digest, signature = (bytes.fromhex(struct[key][2:]) for key in ("digest", form))
            assert recover(digest, signature) == struct["signer"]  # type: ignore[arg-type]


def test_the_vectors_hold_every_structure_that_is_signed() -> None:
    """None of the protocol's structures is without a vector, and none is spelled otherwise."""
    structs = json.loads((DIRECTORY / "eip712.json").read_text())["structs"]
    assert {struct["type"] for struct in structs} == SIGNED


def test_another_implementation_reads_the_vectors_alike() -> None:
    """eth_account, which shares no code with ours, hashes every committed message to its digest."""
    for struct in json.loads((DIRECTORY / "eip712.json").read_text())["structs"]:
        types = _types(struct["type"])
        message = encode_typed_data(
            full_message={
                "types": {"EIP712Domain": [{"name": "name", "type": "string"}], **types},
                "primaryType": struct["name"],
                "domain": {"name": "any"},
                "message": _typed(types, struct["name"], struct["message"]),
            }
        )
        assert "0x" + message.body.hex() == struct["structHash"]
        separator = bytes.fromhex(struct["domainSeparator"][2:])
        assert "0x" + keccak(b"\x19\x01" + separator + message.body).hex() == struct["digest"]


def _types(spelled: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for name, fields in re.findall(r"(\w+)\(([^)]*)\)", spelled):
        pairs = [field.split(" ") for field in fields.split(",")]
        found[name] = [{"type": kind, "name": field} for kind, field in pairs]
    return found


def _typed(types: dict[str, list[dict[str, str]]], kind: str, value: Any) -> Any:
    if kind in types:
        fields = {field["name"]: field["type"] for field in types[kind]}
        return {name: _typed(types, fields[name], value[name]) for name in fields}
    if kind.startswith("uint"):
        return int(value)
    return bytes.fromhex(value[2:]) if kind.startswith("bytes") else value


def test_claim_rows_unpack_to_what_was_packed() -> None:
    """What a node sends on chain can be read back from the chain, byte for byte."""
    packed = bytes.fromhex(json.loads((DIRECTORY / "claim.json").read_text())["packed"][2:])
    assert pack_rows(unpack_rows(packed)) == packed
    assert len(unpack_rows(packed)) == 3


def test_works_are_cut_and_committed_to_as_the_page_says() -> None:
    """A creator's own tool commits to what a custodian computes, or the key is never handed on.

    Computed here from the words of docs/protocol.md, section 15, without the code under test.
    """
    known = json.loads((DIRECTORY / "works.json").read_text())
    text, dialogue = known["works"]
    lines = bytes.fromhex(dialogue["bytes"][2:]).decode().splitlines()
    entries = [json.loads(line) for line in lines if line]
    for message in (message for entry in entries for message in entry["messages"]):
        message["content"] = unicodedata.normalize("NFC", message["content"])
    assert dialogue["chunks"] == [
        json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        for entry in entries
    ]
    first, second, *cut = text["chunks"]
    assert (first, second) == ("Caf\u00e9 de la Mer", "It opens\nat six.")
    assert [len(each) <= 1_200 for each in cut] == [True, True] and "past" in cut[1]
    assert " ".join(cut) == ("The tide runs out past the bar. " * 60).strip()
    for work in known["works"]:
        level = [keccak(b"\0" + chunk.encode()) for chunk in work["chunks"]]
        while len(level) > 1:
            pairs = [level[place : place + 2] for place in range(0, len(level), 2)]
            level = [keccak(b"\1" + b"".join(two)) if len(two) == 2 else two[0] for two in pairs]
        root = keccak(b"\2" + len(work["chunks"]).to_bytes(4, "big") + level[0])
        creator = bytes.fromhex(known["creator"][2:]).rjust(32, b"\0")
        assert work["root"] == "0x" + root.hex()
        salted = creator + bytes.fromhex(known["salt"][2:]) + root
        assert work["commitment"] == "0x" + keccak(salted).hex()
