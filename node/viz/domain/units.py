"""Define the types of money, ids and hashes.

Owns the integer and byte types that modules exchange, their bounds and their text forms.
Invariants: money is ``int`` in the token's base units, never a float; addresses are checksummed
(ERC-55); hashes are exactly 32 bytes.
"""

from __future__ import annotations

import re
from typing import Final, NewType

from viz.errors import InvalidRequest

Address = NewType("Address", str)
Hash32 = NewType("Hash32", bytes)
Units = int
ContentId = NewType("ContentId", int)
AdapterId = NewType("AdapterId", int)
Cid = NewType("Cid", str)

BASE_MODEL: Final = AdapterId(0)
BPS: Final = 10_000
WEI_A_COIN: Final = 10**18
MILLION: Final = 1_000_000
UINT96_MAX: Final = 2**96 - 1
UINT64_MAX: Final = 2**64 - 1
UINT32_MAX: Final = 2**32 - 1
ZERO_ADDRESS: Final = Address("0x" + "00" * 20)
_ADDRESS: Final = re.compile(r"(?:0[xX])?[0-9a-fA-F]{40}", re.ASCII)
_AMOUNT: Final = re.compile(r"([0-9]{1,40})(?:\.([0-9]{1,40}))?", re.ASCII)
ZERO_HASH: Final = Hash32(bytes(32))


def parse_address(text: str) -> Address:
    """Return the checksummed address; raise InvalidRequest if it is not an address (ERC-55)."""
    if not isinstance(text, str) or not _ADDRESS.fullmatch(text):
        raise InvalidRequest(f"{text!r} is not an address: give 0x and 40 hexadecimal digits")
    digits = text[-40:]
    checked = _checksummed(digits.lower())
    if digits != checked and digits not in (digits.lower(), digits.upper()):
        raise InvalidRequest(f"the address {text} has a wrong checksum: a digit is mistyped")
    return Address("0x" + checked)


def _checksummed(digits: str) -> str:
    """Return 40 lower-case digits with ERC-55's capitals, where the hash's digit is 8 or more."""
    # Imported here, because most commands parse no address and the import takes time.
    from sha3 import keccak_256

    marks = keccak_256(digits.encode()).hexdigest()
    return "".join(
        digit.upper() if mark > "7" else digit for digit, mark in zip(digits, marks, strict=False)
    )


def parse_hash(text: str) -> Hash32:
    """Return the 32 bytes in ``text``, hexadecimal with or without 0x; raise InvalidRequest."""
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except (ValueError, AttributeError):
        raw = b""
    if len(raw) != 32:
        raise InvalidRequest(f"{text!r} is not a hash: give 0x and 64 hexadecimal digits")
    return Hash32(raw)


def hex_of(raw: bytes) -> str:
    """Return ``raw`` as 0x-prefixed hexadecimal."""
    return "0x" + raw.hex()


def parse_units(text: str, decimals: int) -> Units:
    """Return the base units of a token amount such as ``"1.25"``.

    Raises InvalidRequest for other forms (``"1e9"`` is a slip of the hand more often than an
    amount), for more than ``decimals`` decimals, and for more units than a voucher can hold.
    """
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"{text!r} is not an amount: write it like 1.25")
    whole, part = found[1], (found[2] or "").rstrip("0")
    if len(part) > decimals:
        raise InvalidRequest(f"{text!r} is not an amount with at most {decimals} decimals")
    units = int(whole + part.ljust(decimals, "0"))
    if units > UINT96_MAX:
        raise InvalidRequest(f"{text!r} is not an amount that a voucher can hold")
    return units


def format_units(units: Units, decimals: int) -> str:
    """Return base units as a decimal amount with all decimals."""
    sign, digits = ("-" if units < 0 else ""), str(abs(units)).rjust(decimals + 1, "0")
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}" if decimals else f"{sign}{digits}"
