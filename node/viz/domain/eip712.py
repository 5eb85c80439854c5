"""Hash and sign typed structs (EIP-712); the only module that uses the elliptic curve.

Owns Keccak, domain separators, the encoding of a struct's fields, and secp256k1 signing and
recovery through coincurve. ``viz.domain.typed_data`` defines the structs that Viz signs.

Invariants: a digest never passes through text or JSON; a struct's hash takes one Keccak over
precomputed type hash and packed words, its digest a second; only low-s signatures are made or
accepted (EIP-2); 64-byte signatures are EIP-2098 compact, 65-byte ones r, s, v with v 27 or 28.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from typing import Any, ClassVar, Final

from sha3 import keccak_256

from viz.domain.units import Address, Hash32, parse_address
from viz.errors import ConfigError, InvalidRequest, InvalidSignature

try:
    from coincurve import PrivateKey, PublicKey
except ImportError as error:  # a pure Python curve would be a hundred times slower
    raise ConfigError(
        "coincurve is not installed, and signatures need it: pip install coincurve"
    ) from error

_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_HALF_ORDER: Final = _ORDER // 2
_HIGH_BIT: Final = 1 << 255

COMPACT_SIGNATURE_BYTES: Final = 64


def keccak(data: bytes) -> Hash32:
    """Return Keccak-256, the chain's hash."""
    return Hash32(keccak_256(data).digest())


# encoding of fields (EIP-712, encodeData)


def address_bytes(address: Address) -> bytes:
    """Return the 20 bytes of a checksummed address."""
    return bytes.fromhex(address[2:])


def _word_address(value: Any) -> bytes:
    raw = bytes.fromhex(value[2:])
    if len(raw) != 20:
        raise ValueError
    return bytes(12) + raw


def _word_bytes32(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) != 32:
        raise ValueError
    return value


def _word_string(value: Any) -> bytes:
    return keccak(value.encode())


def _word_bool(value: Any) -> bytes:
    if not isinstance(value, bool):
        raise ValueError
    return bytes(31) + (b"\x01" if value else b"\x00")


@cache
def _word_uint(bits: int) -> Callable[[Any], bytes]:
    limit = 1 << bits

    def encode(value: Any) -> bytes:
        if not isinstance(value, int) or not 0 <= value < limit:
            raise ValueError
        return value.to_bytes(32, "big")

    return encode


def _encoder(solidity_type: str) -> Callable[[Any], bytes]:
    if solidity_type.startswith("uint"):
        return _word_uint(int(solidity_type[4:]))
    fixed: dict[str, Callable[[Any], bytes]] = {
        "address": _word_address,
        "bytes32": _word_bytes32,
        "string": _word_string,
        "bool": _word_bool,
    }
    # Any other name is a nested struct, which is encoded as its own hash.
    return fixed.get(solidity_type, lambda value: value.struct_hash())


@dataclass(frozen=True, slots=True)
class Member:
    """One field of a signed struct: its type and name on chain, its attribute here, its encoder."""

    solidity_type: str
    name: str
    attribute: str
    encode: Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class StructLayout:
    """The type hash and the members of a struct class, computed once for each class."""

    name: str
    type_hash: Hash32
    members: tuple[Member, ...]


_LAYOUTS: dict[type[Struct], StructLayout] = {}


class Struct:
    """Base of signed structs: frozen dataclasses whose fields follow ``TYPE`` one to one, in order.

    ``TYPE`` is the EIP-712 encodeType of the struct, referenced structs appended. Attributes may
    carry their unit in the name (``settled_units`` for ``settled``): position binds them.
    ``NESTED`` names the classes of struct members.
    """

    __slots__ = ()
    TYPE: ClassVar[str]
    NESTED: ClassVar[dict[str, type[Struct]]] = {}

    def struct_hash(self) -> Hash32:
        """Return hashStruct (EIP-712); raise InvalidRequest if a value does not fit its type."""
        layout = layout_of(type(self))
        words = [layout.type_hash]
        for member in layout.members:
            try:
                words.append(Hash32(member.encode(getattr(self, member.attribute))))
            except (ValueError, TypeError, AttributeError) as error:
                raise InvalidRequest(
                    f"{layout.name}.{member.name} is not a {member.solidity_type}"
                ) from error
        return keccak(b"".join(words))


def layout_of(struct: type[Struct]) -> StructLayout:
    """Return the layout of ``struct``, which is read from its ``TYPE`` at the first use."""
    known = _LAYOUTS.get(struct)
    if known is None:
        known = _LAYOUTS[struct] = _read_layout(struct)
    return known


def _read_layout(struct: type[Struct]) -> StructLayout:
    head = struct.TYPE.split(")", 1)[0]
    name, inside = head.split("(", 1)
    pairs = [part.split(" ") for part in inside.split(",")]
    attributes = tuple(f.name for f in fields(struct))  # type: ignore[arg-type]
    members = tuple(
        Member(kind, label, attribute, _encoder(kind))
        for (kind, label), attribute in zip(pairs, attributes, strict=True)
    )
    return StructLayout(name, keccak(struct.TYPE.encode()), members)


PLAIN_SIGNATURE_BYTES: Final = (64, 65)


def is_plain(signature: bytes) -> bool:
    """Return whether the length is that of a key's signature; others are contracts' (ERC-1271)."""
    return len(signature) in PLAIN_SIGNATURE_BYTES


# domains


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a signature is valid: one contract on one chain."""

    name: str
    version: str
    chain_id: int
    contract: Address
    separator: Hash32 = field(init=False, repr=False)

    TYPE: ClassVar[bytes] = (
        b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    )

    def __post_init__(self) -> None:
        words = (
            keccak(self.TYPE),
            keccak(self.name.encode()),
            keccak(self.version.encode()),
            _word_uint(256)(self.chain_id),
            _word_address(self.contract),
        )
        object.__setattr__(self, "separator", keccak(b"".join(words)))

    def digest(self, struct: Struct) -> Hash32:
        """Return the 32 bytes that are signed for ``struct`` in this domain."""
        return keccak(b"\x19\x01" + self.separator + struct.struct_hash())


def content_registry_domain(chain_id: int, contract: Address) -> Domain:
    """Return the domain of ContentRegistry's signed actions."""
    return Domain("Viz ContentRegistry", "1", chain_id, contract)


def settlement_domain(chain_id: int, contract: Address) -> Domain:
    """Return the domain of vouchers, closes, quotes, receipts and sessions."""
    return Domain("Viz Settlement", "1", chain_id, contract)


# signatures


def public_address(key: bytes) -> Address:
    """Return the address of a 32-byte private key; raise InvalidRequest if it is not valid."""
    return _address(PublicKey.from_valid_secret(_checked(key)).format(compressed=False))


def sign_compact(key: bytes, digest: Hash32) -> bytes:
    """Return the 64-byte EIP-2098 signature of ``digest``: r, then s with the parity on top."""
    raw = _private(key).sign_recoverable(digest, hasher=None)
    s = int.from_bytes(raw[32:64], "big") | (_HIGH_BIT if raw[64] else 0)
    return raw[:32] + s.to_bytes(32, "big")


def sign(key: bytes, digest: Hash32) -> bytes:
    """Return the 65-byte signature r, s, v of ``digest``, the form of contracts and wallets."""
    raw = _private(key).sign_recoverable(digest, hasher=None)
    return raw[:64] + bytes([27 + raw[64]])


def with_v(compact: bytes) -> bytes:
    """Return an EIP-2098 signature as 65 bytes r, s, v, the form that OpenZeppelin accepts."""
    parity, s = _unpacked(compact)
    return compact[:32] + s.to_bytes(32, "big") + bytes([27 + parity])


def _unpacked(compact: bytes) -> tuple[int, int]:
    """Return the parity and s in the second half of an EIP-2098 signature."""
    word = int.from_bytes(compact[32:], "big")
    return word >> 255, word & (_HIGH_BIT - 1)


def recover_bytes(digest: Hash32, signature: bytes) -> bytes:
    """Return the 20 bytes of the address that signed; raise InvalidSignature.

    Accepts 64 bytes (EIP-2098) or 65 (r, s, v). Refuses signatures with a high s.
    """
    return keccak(_recover_public(digest, signature)[1:])[12:]


def recover(digest: Hash32, signature: bytes) -> Address:
    """Return the checksummed address that signed; raise InvalidSignature."""
    return _address(_recover_public(digest, signature))


def is_signed_by(digest: Hash32, signature: bytes, signer: Address) -> bool:
    """Return whether ``signer`` made the signature."""
    try:
        return recover_bytes(digest, signature) == address_bytes(signer)
    except InvalidSignature:
        return False


# Cached: a voucher's signer is recovered to find the channel, and again by the channel's checks.
# A signature that cannot be recovered raises and is not cached.
@lru_cache(maxsize=1024)
def _recover_public(digest: Hash32, signature: bytes) -> bytes:
    if len(signature) == COMPACT_SIGNATURE_BYTES:
        parity, s = _unpacked(signature)
    elif len(signature) == 65 and signature[64] in (27, 28):
        parity, s = signature[64] - 27, int.from_bytes(signature[32:64], "big")
    else:
        raise InvalidSignature("a signature has 64 bytes (EIP-2098), or 65 with v 27 or 28")
    if s > _HALF_ORDER:
        raise InvalidSignature("the signature's s is high; only a low s is accepted (EIP-2)")
    raw = signature[:32] + s.to_bytes(32, "big") + bytes([parity])
    try:
        return PublicKey.from_signature_and_message(raw, digest, hasher=None).format(
            compressed=False
        )
    except Exception as error:
        # The library raises bare Exception and ValueError for points that are not on the curve.
        raise InvalidSignature("no signer can be recovered from the signature") from error


def _address(public: bytes) -> Address:
    return parse_address("0x" + keccak(public[1:])[12:].hex())


def _checked(key: bytes) -> bytes:
    if len(key) != 32 or not 0 < int.from_bytes(key, "big") < _ORDER:
        raise InvalidRequest("a private key is 32 bytes and a number below the curve's order")
    return key


@lru_cache(maxsize=64)
def _private(key: bytes) -> PrivateKey:
    return PrivateKey(_checked(key))
