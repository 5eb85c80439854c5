"""Define every signed structure, exactly as the contracts hash it.

Owns the EIP-712 types of docs/contracts.md (normative there, and compared with the contracts by
``tests/vectors``) and EIP-3009's ReceiveWithAuthorization. ``viz.domain.node_channel`` and the
contracts decide who may sign what.

Invariant: the fields of a class follow its ``TYPE`` one to one, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from viz.domain.eip712 import Struct, address_bytes, keccak
from viz.domain.license import Terms
from viz.domain.units import UINT96_MAX, AdapterId, Address, Cid, ContentId, Hash32, Units

# ContentRegistry


@dataclass(frozen=True, slots=True)
class Register(Struct):
    """A creator registers a work; ``nonce`` is the creator's next nonce."""

    TYPE: ClassVar[str] = (
        "Register(address creator,bytes32 commitment,bytes32 licenseHash,Terms terms,"
        "uint256 nonce,uint64 deadline)" + Terms.TYPE
    )
    NESTED: ClassVar[dict[str, type[Struct]]] = {"Terms": Terms}
    creator: Address
    commitment: Hash32
    license_hash: Hash32
    terms: Terms
    nonce: int
    deadline_s: int


@dataclass(frozen=True, slots=True)
class SetTerms(Struct):
    """An owner changes the terms for new grants."""

    TYPE: ClassVar[str] = (
        "SetTerms(uint256 contentId,bytes32 licenseHash,Terms terms,uint256 nonce,uint64 deadline)"
        + Terms.TYPE
    )
    NESTED: ClassVar[dict[str, type[Struct]]] = {"Terms": Terms}
    content_id: ContentId
    license_hash: Hash32
    terms: Terms
    nonce: int
    deadline_s: int


@dataclass(frozen=True, slots=True)
class Approve(Struct):
    """An owner approves a trainer, or no longer does."""

    TYPE: ClassVar[str] = (
        "Approve(uint256 contentId,address trainer,bool allowed,uint256 nonce,uint64 deadline)"
    )
    content_id: ContentId
    trainer: Address
    allowed: bool
    nonce: int
    deadline_s: int


@dataclass(frozen=True, slots=True)
class Withdraw(Struct):
    """An owner withdraws a work permanently."""

    TYPE: ClassVar[str] = "Withdraw(uint256 contentId,uint256 nonce,uint64 deadline)"
    content_id: ContentId
    nonce: int
    deadline_s: int


OwnerAction = SetTerms | Approve | Withdraw
"""What a work's owner signs about it; the nonce is the owner's next one."""

# ContentRegistry's domain, off chain


@dataclass(frozen=True, slots=True)
class Listing(Struct):
    """A work's listing, signed by its owner; of two listings the one issued later counts."""

    TYPE: ClassVar[str] = "Listing(uint256 contentId,bytes32 listingHash,uint64 issuedAt)"
    content_id: ContentId
    listing_hash: Hash32
    issued_at_s: int


@dataclass(frozen=True, slots=True)
class Custody(Struct):
    """The hand-over of a sealed work and its key to a custodian, signed by the owner."""

    TYPE: ClassVar[str] = (
        "Custody(uint256 contentId,address custodian,string origin,string cid,uint64 size,"
        "bytes32 challenge,uint64 expiry)"
    )
    content_id: ContentId
    custodian: Address
    origin: str
    cid: Cid
    size_bytes: int
    challenge: Hash32
    expiry_s: int


@dataclass(frozen=True, slots=True)
class EndCustody(Struct):
    """An owner has a custodian destroy the key and the sealed bytes of a work."""

    TYPE: ClassVar[str] = (
        "EndCustody(uint256 contentId,address custodian,string origin,bytes32 challenge,"
        "uint64 expiry)"
    )
    content_id: ContentId
    custodian: Address
    origin: str
    challenge: Hash32
    expiry_s: int


@dataclass(frozen=True, slots=True)
class Notice(Struct):
    """A notice to one node's operator about an adapter or a work: the other id is 0.

    ``kind`` is a ``viz.domain.notices.NoticeKind``. ``evidence_hash`` is the SHA-256 of a file that
    the notifier keeps, or the zero hash.
    """

    TYPE: ClassVar[str] = (
        "Notice(address notifier,address node,uint32 adapterId,uint256 contentId,uint8 kind,"
        "string statement,string contact,bytes32 evidenceHash,uint64 issuedAt)"
    )
    notifier: Address
    node: Address
    adapter_id: AdapterId
    content_id: ContentId
    kind: int
    statement: str
    contact: str
    evidence_hash: Hash32
    issued_at_s: int


@dataclass(frozen=True, slots=True)
class KeyRequest(Struct):
    """A request to a custodian for the key of a work (kind 1) or an adapter (kind 2)."""

    TYPE: ClassVar[str] = (
        "KeyRequest(address requester,address custodian,string origin,uint8 kind,uint256 id,"
        "string ageRecipient,bytes32 challenge,uint64 expiry)"
    )
    requester: Address
    custodian: Address
    origin: str
    kind: int
    item_id: int
    age_recipient: str
    challenge: Hash32
    expiry_s: int


# Settlement


@dataclass(frozen=True, slots=True)
class OpenChannel(Struct):
    """A signer key agrees to be the key of this payer's channel to this node."""

    TYPE: ClassVar[str] = "OpenChannel(address payer,address node)"
    payer: Address
    node: Address


@dataclass(frozen=True, slots=True)
class Voucher(Struct):
    """The signer promises the usage lines behind ``usage_hash``, on top of ``settled_units``."""

    TYPE: ClassVar[str] = (
        "Voucher(address node,uint96 settled,bytes32 usageHash,bytes32 receiptsHead)"
    )
    node: Address
    settled_units: Units
    usage_hash: Hash32
    receipts_head: Hash32

    def struct_hash(self) -> Hash32:
        """Return hashStruct, packed by hand because this struct is hashed for every payment."""
        node, settled = self.node, self.settled_units
        well_formed = len(node) == 42 and 0 <= settled <= UINT96_MAX
        if not well_formed or len(self.usage_hash) != 32 or len(self.receipts_head) != 32:
            return Struct.struct_hash(self)  # raises an error that names the wrong member
        return keccak(
            _VOUCHER_HEAD
            + address_bytes(node)
            + settled.to_bytes(32, "big")
            + self.usage_hash
            + self.receipts_head
        )


# The type hash, and the padding of the address after it.
_VOUCHER_HEAD: Final = keccak(Voucher.TYPE.encode()) + bytes(12)


@dataclass(frozen=True, slots=True)
class RequestClose(Struct):
    """A payer starts a unilateral close; anyone may relay it."""

    TYPE: ClassVar[str] = "RequestClose(address signer,address node,uint64 deadline)"
    signer: Address
    node: Address
    deadline_s: int


@dataclass(frozen=True, slots=True)
class Close(Struct):
    """A node lets a channel end at once; ``settled_units`` is the total after its last claim."""

    TYPE: ClassVar[str] = "Close(address signer,address node,uint96 settled,uint64 deadline)"
    signer: Address
    node: Address
    settled_units: Units
    deadline_s: int


# Settlement's domain, off chain


@dataclass(frozen=True, slots=True)
class Session(Struct):
    """A request for an access token; it names node and origin, so that no other can use it."""

    TYPE: ClassVar[str] = "Session(address node,string origin,bytes32 challenge,uint64 expiry)"
    node: Address
    origin: str
    challenge: Hash32
    expiry_s: int


@dataclass(frozen=True, slots=True)
class Quote(Struct):
    """A node's price for one signer and one adapter; prices are units per million tokens."""

    TYPE: ClassVar[str] = (
        "Quote(address node,address signer,uint32 adapterId,bytes32 weightsDigest,"
        "bytes32 tokenizerDigest,uint64 promptPrice,uint64 completionPrice,uint32 maxTokens,"
        "uint64 validUntil)"
    )
    node: Address
    signer: Address
    adapter_id: AdapterId
    weights_digest: Hash32
    tokenizer_digest: Hash32
    prompt_price_units: Units
    completion_price_units: Units
    max_tokens: int
    valid_until_s: int


@dataclass(frozen=True, slots=True)
class Receipt(Struct):
    """A node's signed statement on one query: what was asked, what was sent, what it cost."""

    TYPE: ClassVar[str] = (
        "Receipt(bytes32 channelId,uint64 seq,bytes32 usageHash,bytes32 quoteHash,"
        "bytes32 requestHash,bytes32 responseHash,uint32 promptTokens,uint32 completionTokens,"
        "uint96 amount,uint96 total,uint64 time)"
    )
    channel_id: Hash32
    seq: int
    usage_hash: Hash32
    quote_hash: Hash32
    request_hash: Hash32
    response_hash: Hash32
    prompt_tokens: int
    completion_tokens: int
    amount_units: Units
    total_units: Units
    time_s: int


@dataclass(frozen=True, slots=True)
class Destruction(Struct):
    """A node's signed statement of what it destroyed of a withdrawn work.

    ``items_hash`` is keccak256 of the canonical JSON (RFC 8785) of what was destroyed, what was
    left and what cannot be recalled (``viz.domain.destruction``).
    """

    TYPE: ClassVar[str] = (
        "Destruction(address node,uint256 contentId,uint64 withdrawnAt,uint64 dueAt,uint64 time,"
        "bytes32 itemsHash)"
    )
    node: Address
    content_id: ContentId
    withdrawn_at_s: int
    due_at_s: int
    time_s: int
    items_hash: Hash32


@dataclass(frozen=True, slots=True)
class ReceiptPeriod(Struct):
    """A node's signed statement of all receipts that it made in a period.

    ``since_s`` is in the period and ``until_s`` is not. ``previous`` is the root of the period
    before it, the zero hash for the first. ``root`` is over the receipts in the order of their
    digests (``viz.domain.receipt_periods``), ``amount_units`` their sum.
    """

    TYPE: ClassVar[str] = (
        "ReceiptPeriod(address node,uint64 number,uint64 since,uint64 until,bytes32 previous,"
        "bytes32 root,uint32 count,uint96 amount)"
    )
    node: Address
    number: int
    since_s: int
    until_s: int
    previous: Hash32
    root: Hash32
    count: int
    amount_units: Units


# the token's domain


@dataclass(frozen=True, slots=True)
class ReceiveWithAuthorization(Struct):
    """A transfer that only ``to`` can pull (EIP-3009); its domain is the token's own."""

    TYPE: ClassVar[str] = (
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
        "uint256 validBefore,bytes32 nonce)"
    )
    sender: Address
    to: Address
    value_units: Units
    valid_after_s: int
    valid_before_s: int
    nonce: Hash32


OPEN_KIND: Final = keccak(b"Viz.OpenChannel")
TOP_UP_KIND: Final = keccak(b"Viz.TopUp")
GRANT_KIND: Final = keccak(b"Viz.AcquireGrant")


def channel_id(signer: Address, node: Address) -> Hash32:
    """Return keccak256(abi.encode(signer, node)), a channel's id in events and receipts."""
    return keccak(bytes(12) + address_bytes(signer) + bytes(12) + address_bytes(node))


def authorization_nonce(kind: Hash32, signer: Address, node: Address, salt: Hash32) -> Hash32:
    """Return the EIP-3009 nonce that binds a deposit to its channel and purpose.

    keccak256(abi.encode(kind, signer, node, salt)), kind OPEN_KIND or TOP_UP_KIND.
    """
    pair = bytes(12) + address_bytes(signer) + bytes(12) + address_bytes(node)
    return keccak(kind + pair + salt)


def grant_nonce(content_id: ContentId, terms_hash: Hash32, salt: Hash32) -> Hash32:
    """Return the EIP-3009 nonce that binds a training fee to one work under one set of terms."""
    return keccak(GRANT_KIND + content_id.to_bytes(32, "big") + terms_hash + salt)
