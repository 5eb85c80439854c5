"""Credentials: what a buyer puts into ``Authorization`` when it pays.

Owns the base64url JSON behind ``Authorization: Payment`` ({"challenge": ..., "payload": {"action":
open | topUp | voucher | close, ...}}) and the form of access tokens. A voucher only raises what is
accepted; service needs ``Authorization: Bearer`` (threat 5). Verifies no signature: that is
``viz.domain.node_channel``'s and the contracts'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import COMPACT_SIGNATURE_BYTES
from viz.domain.node_channel import VoucherOffer
from viz.domain.typed_data import RequestClose
from viz.domain.units import Address, Hash32, Units, hex_of
from viz.errors import AccessTokenInvalid, InvalidRequest
from viz.protocol.messages import MAX_SIGNATURE_BYTES, MAX_TOKEN_CHARS
from viz.protocol.payment import INTENT, MAX_CREDENTIAL_CHARS, METHOD
from viz.protocol.wire import (
    JSON_INTEGER_MAX,
    Json,
    Reader,
    from_base64url,
    lines_to_json,
    struct_from_json,
    struct_to_json,
    to_base64url,
)


@dataclass(frozen=True, slots=True)
class Deposit:
    """A payer's EIP-3009 deposit for the node to relay: ``open`` or ``topUp`` of a channel."""

    action: Literal["open", "topUp"]
    chain_id: int
    contract: Address
    payer: Address
    signer: Address
    node: Address
    amount_units: Units
    salt: Hash32
    valid_after_s: int
    valid_before_s: int
    authorization: bytes
    signer_signature: bytes = b""  # OpenChannel(payer, node) by the signer; empty for topUp

    def to_json(self) -> Json:
        return {
            "action": self.action,
            "chainId": self.chain_id,
            "contract": self.contract,
            "payer": self.payer,
            "signer": self.signer,
            "node": self.node,
            "amount": str(self.amount_units),
            "salt": hex_of(self.salt),
            "validAfter": self.valid_after_s,
            "validBefore": self.valid_before_s,
            "authorization": hex_of(self.authorization),
            "signerSignature": hex_of(self.signer_signature),
        }

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(
            action="open" if reader.text("action", 16) == "open" else "topUp",
            chain_id=reader.integer("chainId", JSON_INTEGER_MAX),
            contract=reader.address("contract"),
            payer=reader.address("payer"),
            signer=reader.address("signer"),
            node=reader.address("node"),
            amount_units=reader.units("amount"),
            salt=reader.hash32("salt"),
            valid_after_s=reader.integer("validAfter", JSON_INTEGER_MAX),
            valid_before_s=reader.integer("validBefore", JSON_INTEGER_MAX),
            authorization=reader.blob("authorization", MAX_SIGNATURE_BYTES),
            signer_signature=reader.blob("signerSignature", MAX_SIGNATURE_BYTES),
        )


def offer_to_json(offer: VoucherOffer) -> Json:
    """Return a voucher as its credential's payload."""
    return {
        "action": "voucher",
        "chainId": offer.chain_id,
        "contract": offer.contract,
        "signer": offer.signer,
        "node": offer.node,
        **_row_to_json(offer.row),
    }


def _read_offer(reader: Reader) -> VoucherOffer:
    return VoucherOffer(
        chain_id=reader.integer("chainId", JSON_INTEGER_MAX),
        contract=reader.address("contract"),
        signer=reader.address("signer"),
        node=reader.address("node"),
        row=_read_row(reader),
    )


def _row_to_json(row: SignedVoucher) -> Json:
    return {
        "settled": str(row.base_units),
        "lines": lines_to_json(row.lines),
        "receiptsHead": hex_of(row.receipts_head),
        "signature": hex_of(row.signature),
    }


def _read_row(reader: Reader) -> SignedVoucher:
    return SignedVoucher(
        base_units=reader.units("settled"),
        receipts_head=reader.hash32("receiptsHead"),
        lines=reader.lines("lines"),
        signature=reader.blob("signature", COMPACT_SIGNATURE_BYTES),
    )


@dataclass(frozen=True, slots=True)
class CloseRequest:
    """The payer's signed RequestClose: the node answers with Close, or anyone relays this one.

    ``final`` is the signer's last voucher, for exactly what was billed; without lines and signature
    where nothing is owed beyond its base. None: the node closes at its best voucher.
    """

    chain_id: int
    contract: Address
    request: RequestClose
    signature: bytes
    final: SignedVoucher | None = None

    def to_json(self) -> Json:
        final = {} if self.final is None else {"final": _row_to_json(self.final)}
        return {
            "action": "close",
            "chainId": self.chain_id,
            "contract": self.contract,
            "request": struct_to_json(self.request),
            "signature": hex_of(self.signature),
            **final,
        }

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(
            reader.integer("chainId", JSON_INTEGER_MAX),
            reader.address("contract"),
            struct_from_json(RequestClose, reader.child("request")),
            reader.blob("signature", MAX_SIGNATURE_BYTES),
            reader.optional("final", lambda name: _read_row(reader.child(name))),
        )


Credential = Deposit | VoucherOffer | CloseRequest


def credential_to_header(credential: Credential, challenge_id: str = "") -> str:
    """Return the value of Authorization for a deposit, a voucher or a close.

    ``challenge_id`` echoes the 402 that is answered, where there was one.
    """
    payload = (
        offer_to_json(credential) if isinstance(credential, VoucherOffer) else credential.to_json()
    )
    challenge = {"id": challenge_id, "method": METHOD, "intent": INTENT}
    return f"Payment {to_base64url({'challenge': challenge, 'payload': payload})}"


def credential_from_header(header: str) -> Credential:
    """Return the credential; raise InvalidRequest when it cannot be read. Nothing is verified."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "payment":
        raise InvalidRequest("send the credential as 'Authorization: Payment <base64url>'")
    whole = Reader(from_base64url(text.strip(), max_chars=MAX_CREDENTIAL_CHARS), "the credential")
    challenge = whole.child("challenge")
    if (challenge.text("method"), challenge.text("intent")) != (METHOD, INTENT):
        raise InvalidRequest("the credential is not of method viz, intent session")
    payload = whole.child("payload")
    readers: dict[str, Callable[[Reader], Credential]] = {
        "open": Deposit.read,
        "topUp": Deposit.read,
        "voucher": _read_offer,
        "close": CloseRequest.read,
    }
    action = payload.text("action", 16)
    if action not in readers:
        raise InvalidRequest(f"{action!r} is not an action: use {', '.join(readers)}")
    return readers[action](payload)


def bearer_of_header(header: str) -> str:
    """Return the access token in ``Authorization: Bearer <token>``; raise AccessTokenInvalid."""
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not 0 < len(token) <= MAX_TOKEN_CHARS:
        raise AccessTokenInvalid("send the access token as 'Authorization: Bearer <token>'")
    return token
