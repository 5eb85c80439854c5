"""Canonical JSON against the vectors of RFC 8785, and a license's hash against a known one."""

from __future__ import annotations

import json
import struct

import pytest
from tests.fakes.licenses import preset

from viz.domain.eip712 import keccak
from viz.domain.units import hex_of
from viz.protocol.license_document.reading import license_from_json
from viz.protocol.wire import canonical_json

# RFC 8785, appendix B: bits of a double, and how it is written.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}
# SummarySection 3.2.2, and its result in UTF-8 in section 3.2.4.
EXAMPLE = r"""{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"""
EXAMPLE_BYTES = (
    "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a"
    "5b3333333333333333332e333333333333332c31652b33302c342e352c302e3030322c31652d3237"
    "5d2c22737472696e67223a22e282ac245c75303030665c6e4127425c225c5c5c5c5c222f227d"
)
# SummarySection 3.2.3: names in the order of their UTF-16 code units.
SORTED = {
    "\r": "Carriage Return",
    "1": "One",
    "\u0080": "Control",
    "\u00f6": "Latin Small Letter O With Diaeresis",
    "\u20ac": "Euro Sign",
    "\U0001f600": "Emoji: Grinning Face",
    "\ufb33": "Hebrew Letter Dalet With Dagesh",
}


@pytest.mark.parametrize(("bits", "written"), NUMBERS.items())
def test_numbers_are_written_as_the_rfc_writes_them(bits: str, written: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(number) == written.encode()


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000"])
def test_what_is_no_number_is_refused(bits: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    with pytest.raises(ValueError, match=r"float|inf|nan|NaN"):
        canonical_json(number)


def test_the_example_of_the_rfc() -> None:
    assert canonical_json(json.loads(EXAMPLE)).hex() == EXAMPLE_BYTES


def test_names_are_sorted_as_utf_16() -> None:
    shuffled = dict(sorted(SORTED.items(), key=lambda pair: pair[1]))
    written = canonical_json(shuffled)
    assert list(json.loads(written)) == list(SORTED)


def test_the_hash_of_a_license_stays() -> None:
    """A change of form or spelling would cut every signed license from its document."""
    document = preset()
    assert document.license_hash == keccak(document.canonical)
    assert hex_of(document.license_hash) == (
        "0x3e1cc27b74c8dfa9bfb36be7cd925855c9758d8d51e303558068131e8e36484d"
    )


def test_spacing_and_order_change_nothing() -> None:
    """JSON that says the same has the same hash, however it is laid out."""
    document = preset()
    turned = dict(reversed(list(document.to_json().items())))
    again = license_from_json(json.dumps(turned, indent=4).encode())
    assert again == document and again.license_hash == document.license_hash
