"""Addresses as ERC-55 has them, whoever writes them."""

from __future__ import annotations

import pytest
from eth_utils.address import is_address, to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from viz.domain.units import parse_address, parse_units
from viz.errors import InvalidRequest

# The examples of ERC-55.
KNOWN = (
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0xde709f2102306220921060314715629080e2fb77",
)


@pytest.mark.parametrize("address", KNOWN)
def test_an_address_is_taken_in_its_forms_and_given_in_one(address: str) -> None:
    """Protects every comparison of addresses: one form, and a mistyped digit is seen."""
    for form in (address, address.lower(), "0x" + address[2:].upper(), address[2:]):
        assert parse_address(form) == address
    if address[2:] not in (address[2:].lower(), address[2:].upper()):
        with pytest.raises(InvalidRequest, match="mistyped"):
            parse_address("0x" + address[2:].swapcase())


@given(st.binary(min_size=20, max_size=20))
def test_checksums_are_those_of_other_tools(raw: bytes) -> None:
    """Protects against a checksum of our own making."""
    assert str(parse_address("0x" + raw.hex())) == str(to_checksum_address(raw))


@pytest.mark.parametrize("text", ["", "0x", "0x12", "0x" + "g" * 40, "0x" + "1" * 41, "1" * 39, 7,
                                  None, b"0x" + b"1" * 40, "0x" + "１" * 40])  # fmt: skip
def test_what_is_no_address_is_refused(text: object) -> None:
    """Protects callers: nothing but 40 hexadecimal digits passes."""
    assert not (isinstance(text, str) and is_address(text))
    with pytest.raises(InvalidRequest, match="not an address"):
        parse_address(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("1.25", 1_250_000),
        ("0", 0),
        ("007", 7_000_000),
        ("0.000001", 1),
        ("2.500000000", 2_500_000),
    ],
)
def test_an_amount_is_read_to_the_unit(text: str, units: int) -> None:
    """What a person types is what is signed."""
    assert parse_units(text, 6) == units


@pytest.mark.parametrize(
    "text", ["", "1e9", "-1", "+1", "1_000", "1,5", ".5", "5.", "NaN", "\uff11", " 1", "0.0000001"]
)
def test_what_is_no_plain_amount_is_refused(text: str) -> None:
    """A slip of the hand is no permission to spend: ``1e9`` was a thousand million."""
    with pytest.raises(InvalidRequest, match="is not an amount"):
        parse_units(text, 6)


def test_an_amount_above_what_a_voucher_can_hold_is_refused() -> None:
    """A voucher's amounts are 96 bits wide, and no amount may wrap around."""
    with pytest.raises(InvalidRequest, match="that a voucher can hold"):
        parse_units("1" * 30, 6)
