"""Convert values to and from JSON, with strict and bounded reading.

Owns the text forms: money and wide integers are decimal strings (a JSON number is a float to many
readers), addresses are ERC-55 text, hashes and signatures are 0x-hexadecimal, usage lines are
[id, "amount"] pairs. ``viz.protocol.wire_model`` reads whole messages with these functions;
``Reader`` is for files and messages of which only a few members are needed. This module does not
import pydantic, which takes longer than a short command.

Invariants: nothing longer than its bound is parsed; unknown members are ignored, so that a newer
peer can add some; every failure is one InvalidRequest that names the member.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

import rfc8785

from viz.domain.eip712 import keccak
from viz.domain.strict_json import MAX_VALUES, TooMuchJson, load_json
from viz.domain.units import (
    UINT32_MAX,
    UINT96_MAX,
    AdapterId,
    Address,
    Hash32,
    Units,
    parse_address,
    parse_hash,
)
from viz.domain.usage import MAX_LINES, Lines, UsageLine
from viz.errors import InvalidRequest

Json = dict[str, Any]
T = TypeVar("T")

MAX_JSON_BYTES: Final = 64 * 1024
MAX_TEXT_CHARS: Final = 2048
MAX_DIGITS: Final = 80
# The largest integer that every JSON reader keeps exact (RFC 8785 refuses larger ones).
JSON_INTEGER_MAX: Final = 2**53 - 1


def canonical_json(value: Any) -> bytes:
    """Return RFC 8785 canonical JSON."""
    return rfc8785.dumps(value)


def license_hash_of(text: Mapping[str, Any]) -> Hash32:
    """Return keccak256 of a license's text as canonical JSON: its hash on the chain."""
    return keccak(canonical_json(dict(text)))


def parse_json(
    raw: bytes | str, *, max_bytes: int = MAX_JSON_BYTES, max_values: int = MAX_VALUES
) -> Json:
    """Return the object in ``raw``; raise InvalidRequest if it is no object, or is too large.

    Of a member that is there twice the last one counts, as for other servers of OpenAI's clients.
    """
    if len(raw) > max_bytes:
        raise InvalidRequest(f"the message has {len(raw)} bytes; at most {max_bytes} are read")
    try:
        value = load_json(
            raw, max_values=max_values, last_counts=True, parse_constant=_refuse_constant
        )
    except TooMuchJson as error:
        raise InvalidRequest(f"the message is beyond a bound: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the message is not valid JSON") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the message is not a JSON object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def to_base64url(value: Any) -> str:
    """Return canonical JSON as base64url without padding."""
    return base64.urlsafe_b64encode(canonical_json(value)).rstrip(b"=").decode()


def from_base64url(
    text: str, *, max_chars: int = MAX_JSON_BYTES, max_values: int = MAX_VALUES
) -> Json:
    """Return the JSON object in base64url text, with or without padding.

    Raises InvalidRequest.
    """
    if len(text) > max_chars:
        raise InvalidRequest(f"the credential has {len(text)} characters; at most {max_chars} fit")
    try:
        padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
        raw = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("the text is not base64url") from error
    return parse_json(raw, max_bytes=max_chars, max_values=max_values)


# values: each function raises ValueError whose text says what the value must be


# Cached: every credential has the same few addresses, and each checksum takes a Keccak.
_known_address = lru_cache(maxsize=8_192)(parse_address)


def read_address(value: object) -> Address:
    """Return the address in a text; raise ValueError."""
    try:
        if isinstance(value, str) and len(value) <= 42:
            return _known_address(value)
    except InvalidRequest:
        pass
    raise ValueError("an address")


def read_hash(value: object) -> Hash32:
    """Return the 32 bytes in a hexadecimal text; raise ValueError."""
    try:
        if isinstance(value, str) and len(value) <= 66:
            return parse_hash(value)
    except InvalidRequest:
        pass
    raise ValueError("a 32-byte hash")


def read_hex(value: object, max_bytes: int) -> bytes:
    """Return the bytes in a hexadecimal text; raise ValueError."""
    if not isinstance(value, str) or len(value) > 2 + 2 * max_bytes:
        raise ValueError(f"a text of at most {2 + 2 * max_bytes} characters")
    try:
        return bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        raise ValueError("hexadecimal") from None


def read_decimal(value: object, maximum: int = UINT96_MAX) -> int:
    """Return the number in a canonical decimal text; raise ValueError."""
    # The length is checked before int(), whose time grows with its square.
    if (
        isinstance(value, str)
        and 0 < len(value) <= MAX_DIGITS
        and value.isascii()
        and value.isdecimal()
        and (value[0] != "0" or value == "0")
        and (number := int(value)) <= maximum
    ):
        return number
    raise ValueError(f"a decimal text of 0 to {maximum}")


def read_whole(value: object, maximum: int = UINT32_MAX) -> int:
    """Return a JSON integer within bounds; raise ValueError (``true`` is not an integer)."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise ValueError(f"a whole number of 0 to {maximum}")
    return value


def read_lines(value: object) -> Lines:
    """Return usage lines without checking their order and sum; raise ValueError."""
    if not isinstance(value, list) or len(value) > MAX_LINES:
        raise ValueError(f"a list of at most {MAX_LINES}")
    try:
        return tuple(
            UsageLine(AdapterId(read_whole(adapter_id)), read_decimal(amount))
            for adapter_id, amount in map(_pair, value)
        )
    except ValueError:
        raise ValueError('a list of a usage line [adapterId, "amount"]') from None


def read_object(value: object) -> Json:
    """Return the value if it is a JSON object; raise ValueError."""
    if not isinstance(value, dict):
        raise ValueError("a JSON object")
    return value


def _pair(value: object) -> list[object]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError
    return value


class Reader:
    """Reads the members of one JSON object, each by its type and bound."""

    def __init__(self, value: object, where: str = "the message") -> None:
        if not isinstance(value, Mapping):
            raise InvalidRequest(f"{where} is not a JSON object")
        self._members = value
        self._where = where

    def _get(self, name: str) -> Any:
        if name not in self._members:
            raise InvalidRequest(f"{self._where} lacks {name!r}")
        return self._members[name]

    def _read(self, name: str, read: Callable[[object], T]) -> T:
        try:
            return read(self._get(name))
        except ValueError as error:
            raise self._fail(name, str(error)) from error

    def _fail(self, name: str, what: str) -> InvalidRequest:
        return InvalidRequest(f"{name!r} in {self._where} is not {what}")

    def has(self, name: str) -> bool:
        """Return whether the member exists and is not null."""
        return self._members.get(name) is not None

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        """Return the member, read with ``read``; None if it is absent or null."""
        return read(name) if self.has(name) else None

    def text(self, name: str, max_chars: int = MAX_TEXT_CHARS) -> str:
        value = self._get(name)
        if not isinstance(value, str) or len(value) > max_chars:
            raise self._fail(name, f"a text of at most {max_chars} characters")
        return value

    def integer(self, name: str, maximum: int = UINT32_MAX) -> int:
        return self._read(name, partial(read_whole, maximum=maximum))

    def units(self, name: str, maximum: int = UINT96_MAX) -> Units:
        return self._read(name, partial(read_decimal, maximum=maximum))

    def number(self, name: str, maximum: float) -> float:
        value = self._get(name)
        wrong = isinstance(value, bool) or not isinstance(value, int | float)
        if wrong or not 0 <= value <= maximum:
            raise self._fail(name, f"a number from 0 to {maximum}")
        return float(value)

    def boolean(self, name: str) -> bool:
        value = self._get(name)
        if not isinstance(value, bool):
            raise self._fail(name, "true or false")
        return value

    def address(self, name: str) -> Address:
        return self._read(name, read_address)

    def hash32(self, name: str) -> Hash32:
        return self._read(name, read_hash)

    def blob(self, name: str, max_bytes: int) -> bytes:
        return self._read(name, partial(read_hex, max_bytes=max_bytes))

    def array(self, name: str, max_items: int) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list) or len(value) > max_items:
            raise self._fail(name, f"a list of at most {max_items}")
        return value

    def child(self, name: str) -> Reader:
        return Reader(self._get(name), repr(name))

    def lines(self, name: str) -> Lines:
        """Return usage lines without checking their order and sum."""
        return self._read(name, read_lines)
