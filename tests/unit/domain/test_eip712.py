"""Digests and signatures agree with the reference implementation, and bad ones are refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak as reference_keccak
from hypothesis import given
from hypothesis import strategies as st

from viz.domain import typed_data
from viz.domain.eip712 import (
    Domain,
    Struct,
    layout_of,
    public_address,
    recover,
    settlement_domain,
    sign,
    sign_compact,
)
from viz.domain.license import Terms
from viz.domain.units import Address, Hash32, parse_address
from viz.errors import InvalidRequest, InvalidSignature

KEY = bytes.fromhex("4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318")
DOMAIN = settlement_domain(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
STRUCTS: tuple[type[Struct], ...] = (
    typed_data.Register,
    typed_data.SetTerms,
    typed_data.Approve,
    typed_data.Withdraw,
    typed_data.OpenChannel,
    typed_data.Voucher,
    typed_data.RequestClose,
    typed_data.Close,
    typed_data.Session,
    typed_data.Quote,
    typed_data.Receipt,
    typed_data.ReceiveWithAuthorization,
)

_addresses = st.binary(min_size=20, max_size=20).map(lambda raw: parse_address("0x" + raw.hex()))


def _values(kind: str) -> st.SearchStrategy[Any]:
    if kind.startswith("uint"):
        return st.integers(0, 2 ** int(kind[4:]) - 1)
    if kind == "Terms":
        return _instances(Terms)
    return {
        "address": _addresses,
        "bytes32": st.binary(min_size=32, max_size=32).map(Hash32),
        "string": st.text(max_size=50),
        "bool": st.booleans(),
    }[kind]


def _instances(struct: type[Struct]) -> st.SearchStrategy[Any]:
    layout = layout_of(struct)
    return st.builds(
        struct, **{member.attribute: _values(member.solidity_type) for member in layout.members}
    )


def _reference_digest(domain: Domain, struct: Struct) -> bytes:
    def plain(value: Any) -> Any:
        if isinstance(value, Struct):
            members = layout_of(type(value)).members
            return {m.name: plain(getattr(value, m.attribute)) for m in members}
        return value

    def types(struct_type: type[Struct]) -> dict[str, list[dict[str, str]]]:
        layout = layout_of(struct_type)
        own = [{"name": m.name, "type": m.solidity_type} for m in layout.members]
        nested = types(Terms) if any(m.solidity_type == "Terms" for m in layout.members) else {}
        return {layout.name: own, **nested}

    message = encode_typed_data(
        {
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": domain.contract,
        },
        types(type(struct)),
        plain(struct),
    )
    return reference_keccak(b"\x19" + message.version + message.header + message.body)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_digest_is_the_reference_digest(struct: type[Struct]) -> None:
    """A wallet that signs typed data signs exactly what our packed hashing verifies."""

    @given(_instances(struct), st.integers(1, 2**64), _addresses)
    def agrees(value: Struct, chain_id: int, contract: Address) -> None:
        domain = settlement_domain(chain_id, contract)
        assert domain.digest(value) == _reference_digest(domain, value)

    agrees()


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_fields_follow_the_type(struct: type[Struct]) -> None:
    """A field added to a class but not to its signed type would be unsigned."""
    assert [m.attribute for m in layout_of(struct).members] == [
        f.name
        for f in fields(struct)  # type: ignore[arg-type]
    ]


@given(st.binary(min_size=32, max_size=32).map(Hash32))
def test_both_signature_forms_recover_and_match_eth_account(digest: Hash32) -> None:
    """Compact and long signatures name the same signer as the reference library does."""
    reference = Account.unsafe_sign_hash(digest, KEY)
    assert sign(KEY, digest) == bytes(reference.signature)
    assert recover(digest, sign(KEY, digest)) == public_address(KEY)
    assert recover(digest, sign_compact(KEY, digest)) == public_address(KEY)
    assert public_address(KEY) == Account.from_key(KEY).address


ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
GOOD = sign(KEY, Hash32(bytes(32)))
HIGH_S = GOOD[:32] + (ORDER - int.from_bytes(GOOD[32:64], "big")).to_bytes(32, "big")


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        GOOD[:63],
        GOOD[:64] + b"\x00",
        GOOD + b"\x00",
        bytes(64),
        bytes(65),
        b"\xff" * 64,
        HIGH_S + bytes([55 - GOOD[64]]),
        bytes(32) + GOOD[32:],
        GOOD[:32] + bytes(32) + GOOD[64:],
    ],
    ids=["empty", "short", "v0", "long", "zero64", "zero65", "ones", "high-s", "r0", "s0"],
)
def test_a_bad_signature_is_refused(signature: bytes) -> None:
    """Nothing malformed or malleable is ever taken for a signature."""
    with pytest.raises(InvalidSignature):
        recover(Hash32(bytes(32)), signature)


def test_values_that_do_not_fit_are_refused() -> None:
    """An amount over 96 bits or a cut hash is an error, never a silently other digest."""
    node = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
    zero = Hash32(bytes(32))
    for voucher in (
        typed_data.Voucher(node, 2**96, zero, zero),
        typed_data.Voucher(node, -1, zero, zero),
        typed_data.Voucher(node, 1, Hash32(bytes(31)), zero),
        typed_data.Voucher(Address("0x12"), 1, zero, zero),
    ):
        with pytest.raises(InvalidRequest):
            voucher.struct_hash()
    for key in (b"", bytes(32), b"\xff" * 32):
        with pytest.raises(InvalidRequest):
            public_address(key)
