"""How values look in JSON, and their strict, bounded reading.

Owns the text forms: money and wide integers are decimal strings (a JSON number is a float to many
readers), addresses ERC-55 text, hashes and signatures 0x-hexadecimal, usage lines [id, "amount"]
pairs. Does not know which message has which members (``viz.protocol.payment``).

Invariants: nothing longer than its stated bound is parsed; members that are not asked for are
ignored, so a newer peer can add some; every failure is one InvalidRequest that names the member.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeVar

import rfc8785

from viz.domain.eip712 import Struct, layout_of
from viz.domain.strict_json import MAX_VALUES, TooMuchJson, load_json
from viz.domain.units import (
    UINT32_MAX,
    UINT96_MAX,
    AdapterId,
    Address,
    Hash32,
    Units,
    hex_of,
    parse_address,
    parse_hash,
)
from viz.domain.usage import MAX_LINES, Lines, UsageLine
from viz.errors import InvalidRequest

Json = dict[str, Any]
S = TypeVar("S", bound=Struct)
# The same few addresses stand in every credential, and a checksum takes a Keccak.
_known_address = lru_cache(maxsize=8_192)(parse_address)
T = TypeVar("T")

MAX_JSON_BYTES: Final = 64 * 1024
MAX_TEXT_CHARS: Final = 2048
# The widest integer that every JSON reader keeps exact (RFC 8785 refuses wider ones).
JSON_INTEGER_MAX: Final = 2**53 - 1


def canonical_json(value: Any) -> bytes:
    """Return RFC 8785 canonical JSON."""
    return rfc8785.dumps(value)


def parse_json(
    raw: bytes | str, *, max_bytes: int = MAX_JSON_BYTES, max_values: int = MAX_VALUES
) -> Json:
    """Return the object in ``raw``; raise InvalidRequest when it is none, or is too much."""
    if len(raw) > max_bytes:
        raise InvalidRequest(f"the message has {len(raw)} bytes; at most {max_bytes} are read")
    try:
        value = load_json(raw, max_values=max_values, parse_constant=_refuse_constant)
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


def from_base64url(text: str, *, max_chars: int = MAX_JSON_BYTES) -> Json:
    """Return the object behind base64url text, with or without padding."""
    if len(text) > max_chars:
        raise InvalidRequest(f"the credential has {len(text)} characters; at most {max_chars} fit")
    try:
        padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
        raw = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("the text is not base64url") from error
    return parse_json(raw, max_bytes=max_chars)


class Reader:
    """Reads the members of one JSON object, each with its type and bound."""

    def __init__(self, value: object, where: str = "the message") -> None:
        if not isinstance(value, Mapping):
            raise InvalidRequest(f"{where} is not a JSON object")
        self._members = value
        self._where = where

    def _get(self, name: str) -> Any:
        if name not in self._members:
            raise InvalidRequest(f"{self._where} lacks {name!r}")
        return self._members[name]

    def _fail(self, name: str, what: str) -> InvalidRequest:
        return InvalidRequest(f"{name!r} in {self._where} is not {what}")

    def has(self, name: str) -> bool:
        """Say whether the member is there and not null."""
        return self._members.get(name) is not None

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        """Return the member by ``read``, or None where it is absent or null."""
        return read(name) if self.has(name) else None

    def text(self, name: str, max_chars: int = MAX_TEXT_CHARS) -> str:
        value = self._get(name)
        if not isinstance(value, str) or len(value) > max_chars:
            raise self._fail(name, f"a text of at most {max_chars} characters")
        return value

    def integer(self, name: str, maximum: int = UINT32_MAX) -> int:
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
            raise self._fail(name, f"a whole number of 0 to {maximum}")
        return value

    def units(self, name: str, maximum: int = UINT96_MAX) -> Units:
        return _decimal(self._get(name), maximum, lambda what: self._fail(name, what))

    def boolean(self, name: str) -> bool:
        value = self._get(name)
        if not isinstance(value, bool):
            raise self._fail(name, "true or false")
        return value

    def address(self, name: str) -> Address:
        value = self.text(name, 42)
        try:
            return _known_address(value)
        except InvalidRequest as error:
            raise self._fail(name, "an address") from error

    def hash32(self, name: str) -> Hash32:
        value = self.text(name, 66)
        try:
            return parse_hash(value)
        except InvalidRequest as error:
            raise self._fail(name, "a 32-byte hash") from error

    def blob(self, name: str, max_bytes: int) -> bytes:
        value = self.text(name, 2 + 2 * max_bytes)
        try:
            return bytes.fromhex(value.removeprefix("0x"))
        except ValueError as error:
            raise self._fail(name, "hexadecimal") from error

    def array(self, name: str, max_items: int) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list) or len(value) > max_items:
            raise self._fail(name, f"a list of at most {max_items}")
        return value

    def child(self, name: str) -> Reader:
        return Reader(self._get(name), repr(name))

    def lines(self, name: str) -> Lines:
        """Return usage lines; their order and sums are for the rules to judge."""
        what = 'a usage line [adapterId, "amount"]'
        found: list[UsageLine] = []
        for pair in self.array(name, MAX_LINES):
            if not isinstance(pair, list) or len(pair) != 2:
                raise self._fail(name, f"a list of {what}")
            adapter_id, amount = pair
            if isinstance(adapter_id, bool) or not isinstance(adapter_id, int):
                raise self._fail(name, f"a list of {what}")
            if not 0 <= adapter_id <= UINT32_MAX:
                raise self._fail(name, f"a list of {what}")
            units = _decimal(amount, UINT96_MAX, lambda _: self._fail(name, f"a list of {what}"))
            found.append(UsageLine(AdapterId(adapter_id), units))
        return tuple(found)


def _decimal(value: object, maximum: int, fail: Callable[[str], InvalidRequest]) -> int:
    what = f"a decimal text of 0 to {maximum}"
    if not isinstance(value, str) or not value.isascii() or not value.isdecimal():
        raise fail(what)
    if len(value) > 80 or (value[0] == "0" and value != "0") or int(value) > maximum:
        raise fail(what)
    return int(value)


def lines_to_json(lines: Lines) -> list[list[int | str]]:
    """Return usage lines as [id, "amount"] pairs."""
    return [[int(adapter_id), str(units)] for adapter_id, units in lines]


# signed structs: the names of their EIP-712 type


def struct_to_json(struct: Struct) -> Json:
    """Return a signed struct's members by their signed names."""
    found: Json = {}
    for member in layout_of(type(struct)).members:
        value = getattr(struct, member.attribute)
        if isinstance(value, Struct):
            found[member.name] = struct_to_json(value)
        elif isinstance(value, bytes):
            found[member.name] = hex_of(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            small = _bits(member.solidity_type) <= 32
            found[member.name] = int(value) if small else str(int(value))
        else:
            found[member.name] = value
    return found


def struct_from_json(kind: type[S], reader: Reader) -> S:
    """Return the signed struct of that kind; raise InvalidRequest on a member that does not fit."""
    values: Json = {}
    for member in layout_of(kind).members:
        values[member.attribute] = _read(kind, member.solidity_type, member.name, reader)
    return kind(**values)


def _read(kind: type[Struct], solidity_type: str, name: str, reader: Reader) -> Any:
    if solidity_type.startswith("uint"):
        bits = _bits(solidity_type)
        limit = (1 << bits) - 1
        return reader.integer(name, limit) if bits <= 32 else reader.units(name, limit)
    fixed: dict[str, Callable[[str], Any]] = {
        "address": reader.address,
        "bytes32": reader.hash32,
        "string": reader.text,
        "bool": reader.boolean,
    }
    if solidity_type in fixed:
        return fixed[solidity_type](name)
    nested = kind.NESTED[solidity_type]
    return struct_from_json(nested, reader.child(name))


def _bits(solidity_type: str) -> int:
    return int(solidity_type.removeprefix("uint"))
