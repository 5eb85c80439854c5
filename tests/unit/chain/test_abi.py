"""The codec that every call, event and refusal passes through."""

from __future__ import annotations

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from viz.chain import abi
from viz.chain.custom_errors import _SENTENCES, explain
from viz.errors import ChainError, InvalidRequest

TRAINER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def test_a_struct_goes_in_as_tuple_or_mapping_and_comes_out_as_mapping() -> None:
    """Names bind values, so a reordered struct cannot swap two of them unnoticed."""
    given = (1, 2, 3, 4, 0, 7, True)
    names = [
        "trainingFee",
        "minRoyaltyBps",
        "grantDuration",
        "notice",
        "revocationClass",
        "uses",
        "approvalRequired",
    ]
    license_hash = b"\1" * 32
    as_tuple = abi.encode_call("ContentRegistry", "hashTerms", (given, license_hash))
    as_mapping = abi.encode_call(
        "ContentRegistry", "hashTerms", (dict(zip(names, given, strict=True)), license_hash)
    )
    assert as_tuple == as_mapping
    answer = as_tuple[4:]
    found = abi.decode_result("ContentRegistry", "termsOf", (b"\0" * 32,), answer)
    assert found == {"terms": dict(zip(names, given, strict=True)), "licenseHash": license_hash}


def test_a_refusal_is_said_in_words() -> None:
    """The sentence comes with the error's own name and arguments."""
    data = keccak(text="Unlicensed(uint256,address)")[:4] + encode(
        ["uint256", "address"], [3, TRAINER]
    )
    revert = abi.decode_revert(data)
    assert revert is not None
    assert explain(revert) == (
        "the trainer has no valid grant to this work; acquire one first "
        f"(Unlicensed: content id 3, trainer {TRAINER})"
    )


def test_plain_reverts_are_passed_on() -> None:
    """require(..., "text") and unknown selectors do not confuse the reader."""
    plain = keccak(text="Error(string)")[:4] + encode(["string"], ["not today"])
    revert = abi.decode_revert(plain)
    assert revert is not None
    assert explain(revert) == "not today"
    assert abi.decode_revert(b"\xde\xad\xbe\xef") is None
    assert abi.decode_revert(b"") is None


def test_every_explained_error_exists_in_some_contract() -> None:
    """A renamed custom error loses its sentence only knowingly."""
    declared = {
        entry["name"]
        for contract in abi.CONTRACTS
        for entry in abi.artifact(contract).abi
        if entry["type"] == "error"
    }
    assert set(_SENTENCES) <= declared


def test_overloads_are_told_apart_by_count_or_signature() -> None:
    """An ambiguous name is refused, never guessed."""
    three = (TRAINER, TRAINER, 1)
    assert (
        abi.encode_call("ContentRegistry", "safeTransferFrom", three)[:4]
        == (keccak(text="safeTransferFrom(address,address,uint256)")[:4])
    )
    for function, arguments in (("safeTransferFrom", ()), ("nothing", ())):
        with pytest.raises(InvalidRequest, match="no such function"):
            abi.encode_call("ContentRegistry", function, arguments)


@pytest.mark.parametrize("bad", [-1, 2**96, "1", 1.5, None])
def test_arguments_that_do_not_fit_are_refused(bad: object) -> None:
    """Money that is no uint96 never reaches the chain, cut or rounded."""
    with pytest.raises(InvalidRequest):
        abi.encode_call("Settlement", "hashClose", (TRAINER, TRAINER, bad, 1))


def test_an_answer_that_fits_no_abi_is_an_error() -> None:
    """An address without code answers nothing: that is not a zero."""
    with pytest.raises(ChainError, match="do not fit its ABI"):
        abi.decode_result("Settlement", "CLOSE_DELAY", (), b"")


def test_indexed_and_plain_arguments_come_back_by_name() -> None:
    """Events decode with their names, addresses checksummed."""
    topics = [
        abi.event_topic("ContentRegistry", "GrantAcquired"),
        (7).to_bytes(32, "big"),
        bytes(12) + bytes.fromhex(TRAINER[2:]),
        b"\2" * 32,
    ]
    data = encode(["address", "uint96", "uint64"], [TRAINER, 100, 9])
    assert abi.decode_event("ContentRegistry", topics, data) == (
        "GrantAcquired",
        {
            "contentId": 7,
            "trainer": TRAINER,
            "termsHash": b"\2" * 32,
            "owner": TRAINER,
            "fee": 100,
            "expiresAt": 9,
        },
    )
    assert abi.decode_event("ContentRegistry", [b"\0" * 32], b"") is None
