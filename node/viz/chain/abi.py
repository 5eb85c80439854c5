"""Load the compiled contracts, and encode and decode everything by their ABIs.

Owns the only place where ABIs are read (``artifacts/*.json``, written by
``scripts/compile_contracts.py``), the encoding of calls and constructors, and the decoding of
results, events and reverts. Does no I/O on the network.

A tuple whose members all have names (a struct, or named return values) decodes to a ``dict``, any
other tuple to a ``tuple``, a single value to itself. Addresses are returned with their checksum. A
struct argument may be given as a mapping, or as a tuple in ABI order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils.abi import abi_to_signature, collapse_if_tuple, event_abi_to_log_topic
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from viz.errors import ChainError, ChainUnreachable, ConfigError, InvalidRequest

CONTRACTS: Final = ("ContentRegistry", "AdapterRegistry", "Settlement", "NodeDirectory", "TestUSD")
CURRENCY: Final = "Token"
"""The deployment's token: any ERC-20 with EIP-3009. It is called through TestUSD's ABI."""

AbiEntry = Mapping[str, Any]
_BUILT_IN_ERRORS: Final[tuple[AbiEntry, ...]] = (
    {"type": "error", "name": "Error", "inputs": [{"name": "reason", "type": "string"}]},
    {"type": "error", "name": "Panic", "inputs": [{"name": "code", "type": "uint256"}]},
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One compiled contract: its ABI, and the bytecode that deploys it."""

    name: str
    abi: tuple[AbiEntry, ...]
    bytecode: bytes


@dataclass(frozen=True, slots=True)
class Revert:
    """A decoded revert: the custom error's name and its arguments."""

    name: str
    args: Mapping[str, Any]

    def __str__(self) -> str:
        """Return the error as text, such as ``Unlicensed: content id 3, trainer 0x12...``."""
        shown = ", ".join(f"{in_words(name)} {_shown(value)}" for name, value in self.args.items())
        return f"{self.name}: {shown}" if shown else self.name


@cache
def artifact(name: str) -> Artifact:
    """Return a contract's artifact; raise ConfigError if it was not compiled."""
    name = "TestUSD" if name == CURRENCY else name
    source = files("viz.chain") / "artifacts" / f"{name}.json"
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no compiled {name}: run scripts/compile_contracts.py"
        ) from error
    code = content["bytecode"]
    if isinstance(code, Mapping):
        code = code["object"]
    return Artifact(name, tuple(content["abi"]), bytes.fromhex(code.removeprefix("0x")))


@cache
def _functions(contract: str) -> Mapping[str, tuple[AbiEntry, ...]]:
    found: dict[str, tuple[AbiEntry, ...]] = {}
    for entry in artifact(contract).abi:
        if entry["type"] == "function":
            for key in (entry["name"], abi_to_signature(_any(entry))):
                found[key] = (*found.get(key, ()), entry)
    return found


@cache
def _events(contract: str) -> Mapping[bytes, AbiEntry]:
    return {
        event_abi_to_log_topic(_any(entry)): entry
        for entry in artifact(contract).abi
        if entry["type"] == "event"
    }


@cache
def _errors() -> Mapping[bytes, AbiEntry]:
    found = {_selector(entry): entry for entry in _BUILT_IN_ERRORS}
    for contract in CONTRACTS:
        for entry in artifact(contract).abi:
            if entry["type"] == "error":
                found.setdefault(_selector(entry), entry)
    return found


def encode_call(contract: str, function: str, args: Sequence[Any]) -> bytes:
    """Return the calldata of a call; ``function`` is a name, or a signature if it is overloaded.

    Raises InvalidRequest if the arguments do not fit the ABI.
    """
    entry = _function(contract, function, len(args))
    return _selector(entry) + _encode(f"{contract}.{entry['name']}", entry["inputs"], args)


def decode_result(contract: str, function: str, args: Sequence[Any], data: bytes) -> Any:
    """Return the decoded result of a call; raise ChainUnreachable for bytes of another shape."""
    outputs = _function(contract, function, len(args))["outputs"]
    if not outputs:
        return None
    values = _decode(f"{contract}.{function}", outputs, data)
    return _shape(outputs[0], values[0]) if len(outputs) == 1 else _members(outputs, values)


def deployment_code(contract: str, args: Sequence[Any]) -> bytes:
    """Return bytecode and encoded constructor arguments: the data that creates the contract."""
    found = artifact(contract)
    inputs: Sequence[AbiEntry] = ()
    for entry in found.abi:
        if entry["type"] == "constructor":
            inputs = entry["inputs"]
    return found.bytecode + _encode(f"{contract}'s constructor", inputs, args)


def event_topic(contract: str, event: str) -> bytes:
    """Return the first topic of an event's logs; raise ConfigError if there is no such event."""
    for topic, entry in _events(contract).items():
        if entry["name"] == event:
            return topic
    raise ConfigError(f"{contract} has no event {event}: run scripts/compile_contracts.py")


def decode_event(
    contract: str, topics: Sequence[bytes], data: bytes
) -> tuple[str, dict[str, Any]] | None:
    """Return a log's event name and arguments; None if the contract declares no such event.

    Raises ChainUnreachable if the log is not what the event declares.
    """
    entry = _events(contract).get(bytes(topics[0])) if topics else None
    if entry is None:
        return None
    plain = [item for item in entry["inputs"] if not item["indexed"]]
    indexed = [item for item in entry["inputs"] if item["indexed"]]
    if len(topics) != 1 + len(indexed):
        raise ChainUnreachable(
            f"a log of {entry['name']} has {len(topics)} topics: it is read again; if this "
            "continues, use another rpc_url (--rpc)"
        )
    values = dict(
        zip([item["name"] for item in plain], _decode(entry["name"], plain, data), strict=True)
    )
    for item, topic in zip(indexed, topics[1:], strict=True):
        # An indexed value of dynamic type is stored as its hash only: the topic is returned.
        dynamic = item["type"] in ("bytes", "string") or item["type"].endswith("]")
        values[item["name"]] = (
            bytes(topic) if dynamic else _decode(entry["name"], [item], bytes(topic))[0]
        )
    return entry["name"], {
        item["name"]: _shape(item, values[item["name"]]) for item in entry["inputs"]
    }


def decode_revert(data: bytes) -> Revert | None:
    """Return the error in revert data, of any of our contracts; None if it is unknown."""
    entry = _errors().get(data[:4])
    if entry is None:
        return None
    try:
        values = _decode(entry["name"], entry["inputs"], data[4:])
    except ChainError:
        return Revert(entry["name"], {})
    return Revert(
        entry["name"],
        {
            item["name"] or str(place): _shape(item, value)
            for place, (item, value) in enumerate(zip(entry["inputs"], values, strict=True))
        },
    )


def in_words(name: str) -> str:
    """Return an ABI name as lower-case words: ``contentId`` is ``content id``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()


def _function(contract: str, function: str, arity: int) -> AbiEntry:
    candidates = [
        entry for entry in _functions(contract).get(function, ()) if len(entry["inputs"]) == arity
    ]
    if len(candidates) != 1:
        problem = "no such function" if not candidates else "several such functions"
        raise InvalidRequest(
            f"{contract}.{function} with {arity} arguments: {problem}; give its full signature"
        )
    return candidates[0]


def _selector(entry: AbiEntry) -> bytes:
    return keccak(text=abi_to_signature(_any(entry)))[:4]


def _any(entry: AbiEntry) -> Any:
    # eth_utils declares its own TypedDicts; our entries are the same JSON.
    return entry


def _types(items: Sequence[AbiEntry]) -> list[str]:
    return [collapse_if_tuple(_any(item)) for item in items]


def _encode(what: str, inputs: Sequence[AbiEntry], args: Sequence[Any]) -> bytes:
    if len(inputs) != len(args):
        raise InvalidRequest(f"{what} takes {len(inputs)} arguments, not {len(args)}")
    values = [_flatten(item, value) for item, value in zip(inputs, args, strict=True)]
    try:
        return encode(_types(inputs), values)
    except (EncodingError, OverflowError, TypeError) as error:
        raise InvalidRequest(f"{what}: {error}") from error


def _decode(what: str, items: Sequence[AbiEntry], data: bytes) -> tuple[Any, ...]:
    try:
        return tuple(decode(_types(items), data))
    except (DecodingError, OverflowError, ValueError) as error:
        raise ChainUnreachable(
            f"{what} answered bytes that do not fit its ABI: use another rpc_url (--rpc), or the "
            "deployment file of these contracts"
        ) from error


def _flatten(item: AbiEntry, value: Any) -> Any:
    kind = item["type"]
    if kind.endswith("]"):
        inner = {**item, "type": kind[: kind.rindex("[")]}
        return [_flatten(inner, each) for each in value]
    if kind == "tuple":
        parts = item["components"]
        if isinstance(value, Mapping):
            value = [value[part["name"]] for part in parts]
        return tuple(_flatten(part, each) for part, each in zip(parts, value, strict=True))
    return value


def _shape(item: AbiEntry, value: Any) -> Any:
    kind = item["type"]
    if kind.endswith("]"):
        inner = {**item, "type": kind[: kind.rindex("[")]}
        return tuple(_shape(inner, each) for each in value)
    if kind == "tuple":
        return _members(item["components"], value)
    return to_checksum_address(value) if kind == "address" else value


def _members(items: Sequence[AbiEntry], values: Sequence[Any]) -> Any:
    shaped = [_shape(item, value) for item, value in zip(items, values, strict=True)]
    names = [item["name"] for item in items]
    return dict(zip(names, shaped, strict=True)) if all(names) else tuple(shaped)


def _shown(value: Any) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
