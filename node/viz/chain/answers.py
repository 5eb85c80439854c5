"""Check the shape of an endpoint's JSON answer and convert it to a typed value.

This is the only place where JSON from an endpoint becomes a number, bytes, a header, a log or a
receipt. Invariant: any JSON of another shape raises ``InvalidAnswer`` and nothing else. Only the
members that Viz uses are read, because chains differ in the others (a long ``extraData``, no
``nonce``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eth_utils.address import to_checksum_address

from viz.domain.units import Address, Hash32

# Bound of a block's number, a nonce or an amount of gas: the ledger's integers hold 63 bits.
COUNT_BITS: Final = 63
# Bound of a gas price or balance in wei: its double still fits the fields of a transaction.
WEI_BITS: Final = 128
# Bound of a block's time in seconds, the year 4147: a time in milliseconds is above it.
TIME_BITS: Final = 36
# What any transaction uses of gas.
LEAST_GAS: Final = 21_000
_MOST_TOPICS: Final = 4
_SHOWN_CHARS: Final = 60


class InvalidAnswer(ValueError):
    """The answer is JSON, but not of the shape that the method defines."""


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """The fields of a block that the watcher and the clock need."""

    number: int
    hash: Hash32
    parent_hash: Hash32
    time_s: int


@dataclass(frozen=True, slots=True)
class Log:
    """One log as the chain returned it, before decoding."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: Hash32
    transaction_hash: Hash32
    log_index: int


@dataclass(frozen=True, slots=True)
class TransactionReceipt:
    """The result of a transaction in its block; ``succeeded`` is False if it reverted."""

    transaction_hash: Hash32
    succeeded: bool
    block_number: int
    gas_used: int
    contract: Address | None
    logs: tuple[Log, ...]


def count(found: Any) -> int:
    """Read a non-negative number of at most 63 bits."""
    return _quantity(found, COUNT_BITS)


def wei(found: Any) -> int:
    """Read a gas price or a balance, in wei."""
    return _quantity(found, WEI_BITS)


def raw_bytes(found: Any) -> bytes:
    """Read bytes of any length; raise InvalidAnswer if they are none."""
    if not isinstance(found, str) or found[:2] not in ("0x", "0X"):
        raise InvalidAnswer(f"{shown(found)} is not hexadecimal")
    try:
        value = bytes.fromhex(found[2:])
    except ValueError as error:
        raise InvalidAnswer(f"{shown(found)} is not hexadecimal") from error
    if 2 * len(value) != len(found) - 2:  # bytes.fromhex skips spaces
        raise InvalidAnswer(f"{shown(found)} is not hexadecimal")
    return value


def hash32(found: Any) -> Hash32:
    """Read a hash of 32 bytes; raise InvalidAnswer if it is none."""
    value = raw_bytes(found)
    if len(value) != 32:
        raise InvalidAnswer(f"{shown(found)} is not a hash")
    return Hash32(value)


def address(found: Any) -> Address:
    """Return an address with its checksum; raise InvalidAnswer if it is none."""
    value = raw_bytes(found)
    if len(value) != 20:
        raise InvalidAnswer(f"{shown(found)} is not an address")
    return Address(str(to_checksum_address(value)))


def header(number: int | None) -> Callable[[Any], BlockHeader | None]:
    """Return the reader for block ``number``, or for the newest block if ``number`` is None.

    If a number was asked for, the reader returns None for ``null``: there is no such block.
    """

    def read(found: Any) -> BlockHeader | None:
        if found is None and number is not None:
            return None
        members = _object(found)
        block = BlockHeader(
            count(_member(members, "number")),
            hash32(_member(members, "hash")),
            hash32(_member(members, "parentHash")),
            _quantity(_member(members, "timestamp"), TIME_BITS),
        )
        if number is not None and block.number != number:
            raise InvalidAnswer(f"it is block {block.number}")
        return block

    return read


def next_time(found: Any) -> int | None:
    """Read the timestamp of the pending block; None if the endpoint has none."""
    return None if found is None else _quantity(_member(_object(found), "timestamp"), TIME_BITS)


def base_fee_and_gas_limit(found: Any) -> tuple[int, int | None]:
    """Read a block's base fee in wei, 0 if the chain has none, and the most gas that it may use.

    The latter is None if it is not told, or below what any transaction uses.
    """
    members = _object(found)
    fee_wei = wei(members["baseFeePerGas"]) if "baseFeePerGas" in members else 0
    gas = wei(members["gasLimit"]) if "gasLimit" in members else 0
    return fee_wei, gas if gas >= LEAST_GAS else None


def is_known(transaction_hash: Hash32) -> Callable[[Any], bool]:
    """Return the reader for a transaction; it returns False for ``null``, an unknown hash."""

    def read(found: Any) -> bool:
        if found is None:
            return False
        if hash32(_member(_object(found), "hash")) != transaction_hash:
            raise InvalidAnswer("it is another transaction")
        return True

    return read


def receipt(transaction_hash: Hash32) -> Callable[[Any], TransactionReceipt | None]:
    """Return the reader for a receipt; it returns None while the transaction is in no block."""

    def read(found: Any) -> TransactionReceipt | None:
        if found is None:
            return None
        members = _object(found)
        if hash32(_member(members, "transactionHash")) != transaction_hash:
            raise InvalidAnswer("it is another transaction's")
        if _member(members, "blockNumber") is None:
            return None
        status = count(_member(members, "status"))
        if status not in (0, 1):
            raise InvalidAnswer(f"status {status} is neither 0 nor 1")
        created = members.get("contractAddress")
        return TransactionReceipt(
            transaction_hash,
            bool(status),
            count(members["blockNumber"]),
            count(_member(members, "gasUsed")),
            None if created is None else address(created),
            tuple(_log(each) for each in _list(_member(members, "logs"))),
        )

    return read


def logs(addresses: Collection[Address], first: int, last: int) -> Callable[[Any], tuple[Log, ...]]:
    """Return the reader for the logs of ``addresses`` in blocks ``first`` to ``last``."""

    def read(found: Any) -> tuple[Log, ...]:
        read_logs = tuple(_log(each) for each in _list(found))
        for each in read_logs:
            if not first <= each.block_number <= last or each.address not in addresses:
                raise InvalidAnswer(
                    f"a log of {each.address} in block {each.block_number} was not asked for"
                )
        return read_logs

    return read


def shown(found: Any) -> str:
    """Return the start of an answer, short enough for an error message."""
    try:
        text = repr(found)
    except RecursionError:
        return "deeply nested JSON"
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."


def _quantity(found: Any, bits: int) -> int:
    if not isinstance(found, str) or found[:2] not in ("0x", "0X"):
        raise InvalidAnswer(f"{shown(found)} is not a hexadecimal number")
    digits = found[2:]
    if not digits or not all(digit in "0123456789abcdefABCDEF" for digit in digits[:64]):
        raise InvalidAnswer(f"{shown(found)} is not a hexadecimal number")
    if len(digits) > 64 or int(digits, 16).bit_length() > bits:
        raise InvalidAnswer(f"{shown(found)} is too large a number")
    return int(digits, 16)


def _object(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise InvalidAnswer(f"{shown(found)} is not an object")
    return found


def _list(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise InvalidAnswer(f"{shown(found)} is not a list")
    return found


def _member(members: Mapping[str, Any], name: str) -> Any:
    if name not in members:
        raise InvalidAnswer(f"there is no {name} in {shown(dict(members))}")
    return members[name]


def _log(found: Any) -> Log:
    members = _object(found)
    topics = _list(_member(members, "topics"))
    if len(topics) > _MOST_TOPICS:
        raise InvalidAnswer(f"a log has {len(topics)} topics")
    if members.get("removed"):
        raise InvalidAnswer(
            "a log belongs to a block that was replaced, as the endpoint says itself"
        )
    return Log(
        address(_member(members, "address")),
        tuple(hash32(topic) for topic in topics),
        raw_bytes(_member(members, "data")),
        count(_member(members, "blockNumber")),
        hash32(_member(members, "blockHash")),
        hash32(_member(members, "transactionHash")),
        count(_member(members, "logIndex")),
    )
