"""Compute the hashes in a receipt and the chain of receipts, and verify a signed receipt.

Invariant: head_0 = 0; head_n = keccak256(head_{n-1}, receiptDigest_n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from viz.domain.eip712 import Domain, is_signed_by, keccak
from viz.domain.typed_data import Receipt
from viz.domain.units import Address, Hash32
from viz.domain.usage import Lines, sum_of, usage_hash
from viz.errors import InvalidSignature

_NAMED_SALT: Final = b"viz request: "


def next_head(head: Hash32, receipt_digest: Hash32) -> Hash32:
    """Return the head of the receipts chain after one more receipt."""
    return keccak(head + receipt_digest)


def salted_hash(salt: Hash32, content: bytes) -> Hash32:
    """Return keccak256(salt, content), which reveals nothing without the salt (threat 31).

    For a request, ``content`` is the HTTP body as sent; for a response, the text in UTF-8.
    """
    return keccak(salt + content)


def salt_of_name(name: str) -> Hash32:
    """Return the salt of the request hash in the receipt of a request with a name.

    Only the buyer and the node know the name. So the buyer finds the request that a receipt bills
    among equal ones, and the hash still reveals nothing to others.
    """
    # A header's bytes that are not UTF-8 are surrogates in its text.
    return keccak(_NAMED_SALT + name.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt with the node's signature, its usage lines and the salts of its hashes."""

    receipt: Receipt
    lines: Lines
    request_salt: Hash32
    response_salt: Hash32
    signature: bytes

    def verify(self, domain: Domain, node: Address) -> Hash32:
        """Return the receipt's digest; raise InvalidSignature if ``node`` did not sign it."""
        digest = domain.digest(self.receipt)
        if not is_signed_by(digest, self.signature, node):
            raise InvalidSignature("the receipt is not signed by the node")
        if usage_hash(self.lines) != self.receipt.usage_hash:
            raise InvalidSignature("the receipt's usage lines are not the ones that were signed")
        if sum_of(self.lines) != self.receipt.amount_units:
            raise InvalidSignature("the receipt's usage lines do not sum to its amount")
        return digest
