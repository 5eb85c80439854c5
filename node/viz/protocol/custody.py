"""Define the messages of custody: handing a sealed work over, and asking for a key.

Owns the JSON and the header of both, and the log of the keys that a custodian handed out. Does no
I/O. ``viz.services.custody.custodian`` decides who gets a key.

An upload is one request: the header ``Viz-Custody`` is the base64url of a ``HandOver``, the body
the sealed bytes. The key in it is wrapped for the custodian's age recipient, so that neither a
proxy nor a log sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from viz.domain.ports.custody import KeyKind
from viz.domain.typed_data import Custody, EndCustody, KeyRequest
from viz.domain.units import Cid, ContentId
from viz.errors import InvalidRequest
from viz.protocol.listing import MAX_URL_CHARS, CidText
from viz.protocol.messages import SignatureHex
from viz.protocol.wire import JSON_INTEGER_MAX, Json, from_base64url, to_base64url
from viz.protocol.wire_model import (
    AddressText,
    AtMost,
    Hash32Hex,
    JsonInteger,
    Signed,
    WireModel,
    blob,
    text,
    whole,
)

# POST {"account"} -> KeyChallenge.
KEY_CHALLENGE_PATH: Final = "/viz/v1/keys/challenge"
# POST SignedKeyRequest -> WrappedKey.
KEYS_PATH: Final = "/viz/v1/keys"
# GET ?after=SEQ -> HandedKeys.
HANDED_PATH: Final = "/viz/v1/keys/{kind}/{item_id}"
# POST the sealed bytes with the header -> CustodyAnswer.
CUSTODY_PATH: Final = "/viz/v1/custody"
# POST SignedEndCustody -> DestructionCertificate (viz.protocol.destruction).
END_CUSTODY_PATH: Final = "/viz/v1/custody/end"
CUSTODY_HEADER: Final = "Viz-Custody"
KIND_NAMES: Final = {"works": KeyKind.WORK, "adapters": KeyKind.ADAPTER}
HANDED_PAGE: Final = 256
MAX_WRAPPED_KEY_BYTES: Final = 1_024

WrappedKeyHex = Annotated[bytes, blob(MAX_WRAPPED_KEY_BYTES)]


@dataclass(frozen=True, slots=True)
class KeyChallenge(WireModel):
    """What the signature must name: the custodian, its origin, and a single-use challenge."""

    WHERE: ClassVar[str] = "the custodian's challenge"
    custodian: AddressText
    origin: Annotated[str, text(MAX_URL_CHARS)]
    challenge: Hash32Hex
    expiry_s: JsonInteger


@dataclass(frozen=True, slots=True)
class SignedKeyRequest(WireModel):
    """A request for the key of a sealed blob, signed by the requester."""

    WHERE: ClassVar[str] = "the request for a key"
    request: Annotated[KeyRequest, Signed]
    signature: SignatureHex


@dataclass(frozen=True, slots=True)
class WrappedKey(WireModel):
    """A blob's key, wrapped for the requester. The chain permitted it at ``block``."""

    WHERE: ClassVar[str] = "the custodian's answer"
    cid: CidText
    wrapped_key: WrappedKeyHex
    block: JsonInteger


@dataclass(frozen=True, slots=True)
class HandOver(WireModel):
    """An owner's signed hand-over of a sealed work, with its key wrapped for the custodian."""

    WHERE: ClassVar[str] = f"the header {CUSTODY_HEADER}"
    custody: Annotated[Custody, Signed]
    signature: SignatureHex
    wrapped_key: WrappedKeyHex

    @classmethod
    def from_header(cls, header: str) -> HandOver:
        """Return the hand-over in a header; raise InvalidRequest."""
        if not header:
            raise InvalidRequest(
                f"the header {CUSTODY_HEADER} is missing: it says, signed, what is handed over"
            )
        return cls.from_json(from_base64url(header))

    def to_header(self) -> str:
        """Return the header's value."""
        return to_base64url(self.to_json())


@dataclass(frozen=True, slots=True)
class CustodyAnswer(WireModel):
    """A sealed work that the node now has in custody."""

    WHERE: ClassVar[str] = "the custodian's answer"
    content_id: Annotated[ContentId, whole(JSON_INTEGER_MAX)]
    cid: CidText
    size_bytes: JsonInteger


@dataclass(frozen=True, slots=True)
class SignedEndCustody(WireModel):
    """An owner's signed request to destroy what a custodian holds of a work."""

    WHERE: ClassVar[str] = "the end of the custody"
    end_custody: Annotated[EndCustody, Signed]
    signature: SignatureHex


@dataclass(frozen=True, slots=True)
class HandedKeyView(WireModel):
    """One key that was handed out: to whom, at which block, and when."""

    WHERE: ClassVar[str] = "a key that was handed out"
    seq: JsonInteger
    requester: AddressText
    cid: CidText
    block: JsonInteger
    handed_at: JsonInteger


@dataclass(frozen=True, slots=True)
class HandedKeys(WireModel):
    """The keys of a work or an adapter that were handed out, the oldest first."""

    WHERE: ClassVar[str] = "the custodian's answer"
    handed: Annotated[tuple[HandedKeyView, ...], AtMost(HANDED_PAGE)]


def account_to_json(account: str) -> Json:
    """Return the body that asks for a challenge."""
    return {"account": account}


def sealed_name(cid: Cid) -> str:
    """Return the file name of a sealed blob."""
    return f"{cid}.age"
