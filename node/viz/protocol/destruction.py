"""Define the certificate of destruction: what a node destroyed of a withdrawn work, signed.

Owns its JSON and its check. A certificate is a statement of the node: it proves who stated what and
when, but not that no copy is left. Does no I/O.

Invariant: the signature covers the whole list (``viz.domain.destruction.items_hash``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from viz.domain.destruction import (
    BEYOND_RECALL,
    IN_CUSTODY,
    LISTING,
    HeldItem,
    LeftItem,
    items_hash,
)
from viz.domain.eip712 import Domain, is_signed_by, sign_compact
from viz.domain.typed_data import Destruction
from viz.domain.units import Address, ContentId
from viz.errors import InvalidSignature
from viz.protocol.messages import SignatureHex
from viz.protocol.wire_model import AtMost, Signed, WireModel, record, text

# GET -> Certificates.
CERTIFICATES_PATH: Final = "/viz/v1/contents/{content_id}/certificates"
MAX_CERTIFICATES: Final = 64
MAX_ITEMS: Final = 4_096
_KIND: Final = text(40)
_NAME: Final = text(1_024)
_HELD: Final = record(HeldItem, {"kind": ("kind", _KIND), "name": ("name", _NAME)})
_LEFT: Final = record(
    LeftItem, {"kind": ("kind", _KIND), "name": ("name", _NAME), "reason": ("reason", text(400))}
)


@dataclass(frozen=True, slots=True)
class DestructionCertificate(WireModel):
    """What a node destroyed of one work and what it left, signed by the node."""

    WHERE: ClassVar[str] = "the certificate"
    certificate: Annotated[Destruction, Signed]
    destroyed: Annotated[tuple[Annotated[HeldItem, _HELD], ...], AtMost(MAX_ITEMS)]
    left: Annotated[tuple[Annotated[LeftItem, _LEFT], ...], AtMost(MAX_ITEMS)]
    beyond_recall: Annotated[tuple[Annotated[str, text(400)], ...], AtMost(16)]
    signature: SignatureHex

    @property
    def of_custody_only(self) -> bool:
        """Whether only what was held for others is gone: the node may still sell an adapter."""
        kinds = {item.kind for item in self.destroyed}
        return bool(kinds) and kinds <= IN_CUSTODY

    @property
    def of_listing_only(self) -> bool:
        """Whether only the work's listing is gone, which says nothing of any use."""
        return {item.kind for item in self.destroyed} == {LISTING}

    def verify(self, domain: Domain) -> None:
        """Raise InvalidSignature if the named node did not sign this content."""
        if items_hash(self.destroyed, self.left, self.beyond_recall) != self.certificate.items_hash:
            raise InvalidSignature("the certificate's list is not the one that was signed")
        if not is_signed_by(domain.digest(self.certificate), self.signature, self.certificate.node):
            raise InvalidSignature(f"the certificate is not signed by {self.certificate.node}")


@dataclass(frozen=True, slots=True)
class Certificates(WireModel):
    """All certificates of one work that a node has, the oldest first."""

    WHERE: ClassVar[str] = "the certificates"
    certificates: Annotated[tuple[DestructionCertificate, ...], AtMost(MAX_CERTIFICATES)]


def certify(
    key: bytes,
    domain: Domain,
    node: Address,
    content_id: ContentId,
    *,
    withdrawn_at_s: int,
    due_at_s: int,
    time_s: int,
    destroyed: Sequence[HeldItem],
    left: Sequence[LeftItem],
) -> DestructionCertificate:
    """Return the node's signed certificate; the times are the chain's, in seconds since 1970."""
    gone, kept = tuple(sorted(destroyed)[:MAX_ITEMS]), tuple(sorted(left)[:MAX_ITEMS])
    hashed = items_hash(gone, kept, BEYOND_RECALL)
    signed = Destruction(node, content_id, withdrawn_at_s, due_at_s, time_s, hashed)
    signature = sign_compact(key, domain.digest(signed))
    return DestructionCertificate(signed, gone, kept, BEYOND_RECALL, signature)
