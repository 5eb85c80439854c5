"""Define listings: the public description of a work, signed by its owner; any node may pass it on.

Owns the JSON of a listing, its hash, and the answers about listings. Does no I/O;
``viz.services.market.listings`` compares a listing with the chain.

Invariants: a listing's hash is over its canonical JSON (RFC 8785) with all members, unknown ones
included, so that an older node passes a newer listing on unchanged; every member has a size limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from viz.domain.eip712 import keccak
from viz.domain.strict_json import load_json
from viz.domain.typed_data import Listing
from viz.domain.units import Cid, ContentId, Hash32
from viz.domain.work import MAX_WORK_BYTES
from viz.errors import InvalidListing, InvalidRequest
from viz.protocol.messages import MAX_SIGNATURE_BYTES
from viz.protocol.wire import JSON_INTEGER_MAX, Json, Reader, canonical_json, license_hash_of
from viz.protocol.wire_model import (
    JSON_OBJECT,
    AddressText,
    AtMost,
    JsonInteger,
    WireModel,
    text,
    whole,
)

# POST a SignedListing -> ListingAnswer; GET ?after=ID&limit=N -> a page.
LISTINGS_PATH: Final = "/viz/v1/listings"
# GET -> SignedListing.
LISTING_PATH: Final = "/viz/v1/listings/{content_id}"

MAX_LISTING_BYTES: Final = 56 * 1024
MAX_SAMPLE_CHARS: Final = 4_096
MAX_CUSTODIANS: Final = 8
MAX_URL_CHARS: Final = 200
MAX_ISCC_CHARS: Final = 80
# A sealed work contains the work, the record that proves it, and age's header and tags.
MAX_SEALED_BYTES: Final = 2 * MAX_WORK_BYTES
# Listings in one page: if all have their maximum size, a page has at most 4 MiB.
LISTINGS_PAGE: Final = 64
CID_CHARS: Final = 59

CidText = Annotated[Cid, text(CID_CHARS)]


@dataclass(frozen=True, slots=True)
class SealedBlob(WireModel):
    """The CID of a work's sealed bytes, and their number."""

    WHERE: ClassVar[str] = "'sealed'"
    cid: CidText
    size_bytes: Annotated[int, whole(MAX_SEALED_BYTES)]


@dataclass(frozen=True, slots=True)
class CustodianAddress(WireModel):
    """A node that holds the key of a sealed work for its owner, and the node's origin."""

    WHERE: ClassVar[str] = "a custodian"
    node: AddressText
    url: Annotated[str, text(MAX_URL_CHARS)]


@dataclass(frozen=True, slots=True)
class WorkListing(WireModel):
    """What an owner publishes about a work.

    ``language`` is a BCP 47 tag, ``size_bytes`` the size of the work's file, ``license`` the
    license document or table whose canonical hash is on the chain, ``sample`` a text that the owner
    chose, ``issued_at`` seconds since 1970. ``iscc`` is the ISCC Text-Code of the work's words
    (ISO 24138, 256 bits), by which near copies are found; listings of earlier versions have none.
    """

    WHERE: ClassVar[str] = "the listing"
    chain_id: JsonInteger
    content_registry: AddressText
    content_id: Annotated[ContentId, whole(JSON_INTEGER_MAX)]
    title: Annotated[str, text(200)]
    credit: Annotated[str, text(200)]
    language: Annotated[str, text(35)]
    kind: Literal["text", "dialogue"]
    size_bytes: Annotated[int, whole(MAX_WORK_BYTES)]
    license: Annotated[Mapping[str, Any], JSON_OBJECT]
    sealed: SealedBlob
    custodians: Annotated[tuple[CustodianAddress, ...], AtMost(MAX_CUSTODIANS)]
    issued_at: JsonInteger
    sample: Annotated[str, text(MAX_SAMPLE_CHARS)] = ""
    iscc: Annotated[str, text(MAX_ISCC_CHARS)] | None = None

    @property
    def license_hash(self) -> Hash32:
        """Return keccak256 of the license as canonical JSON, which is the hash on the chain."""
        return license_hash_of(self.license)


@dataclass(frozen=True, slots=True)
class SignedListing:
    """A listing with its owner's signature; ``document`` is its canonical JSON."""

    listing: WorkListing
    document: bytes
    signature: bytes

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the signed listing in JSON values; raise InvalidRequest, InvalidListing."""
        reader = Reader(value, "the signed listing")
        found = value.get("listing") if isinstance(value, Mapping) else None
        return cls.of(found, reader.blob("signature", MAX_SIGNATURE_BYTES))

    @classmethod
    def of(cls, value: object, signature: bytes) -> Self:
        """Return the listing in JSON values with a signature; raise InvalidListing."""
        try:
            listing = WorkListing.from_json(value)
            document = canonical_json(value)
        except (InvalidRequest, ValueError) as error:
            raise InvalidListing(
                error.detail if isinstance(error, InvalidRequest) else f"the listing: {error}"
            ) from error
        if len(document) > MAX_LISTING_BYTES:
            raise InvalidListing(
                f"the listing has {len(document)} bytes, more than {MAX_LISTING_BYTES}: shorten "
                "the sample or the license"
            )
        return cls(listing, document, signature)

    @classmethod
    def read(cls, document: bytes, signature: bytes) -> Self:
        """Return the listing stored as these canonical bytes; raise InvalidListing."""
        return cls.of(load_json(document), signature)

    @property
    def struct(self) -> Listing:
        """Return the structure that the owner signs, in ContentRegistry's domain."""
        return Listing(self.listing.content_id, keccak(self.document), self.listing.issued_at)

    def to_json(self) -> Json:
        """Return the signed listing as JSON values."""
        return {"listing": load_json(self.document), "signature": "0x" + self.signature.hex()}


@dataclass(frozen=True, slots=True)
class ListingAnswer(WireModel):
    """The id and time of the listing that the node now keeps."""

    WHERE: ClassVar[str] = "the node's answer"
    content_id: Annotated[ContentId, whole(JSON_INTEGER_MAX)]
    issued_at: JsonInteger


def spelled(document: bytes, signature: bytes) -> bytes:
    """Return a signed listing's JSON, made from its canonical document without parsing it."""
    return b'{"listing":' + document + b',"signature":"0x' + signature.hex().encode() + b'"}'


def spelled_page(listings: Sequence[bytes], after: ContentId | None) -> bytes:
    """Return the JSON of a page of such listings; ``after`` as in ``listings_to_json``."""
    following = b"null" if after is None else str(int(after)).encode()
    return b'{"listings":[' + b",".join(listings) + b'],"next":' + following + b"}"


def listings_to_json(page: tuple[SignedListing, ...], after: ContentId | None) -> Json:
    """Return one page as JSON; ``after`` is where the next one begins, None after the last."""
    return {"listings": [each.to_json() for each in page], "next": after}


def listings_from_json(value: object) -> tuple[tuple[SignedListing, ...], ContentId | None]:
    """Return a page and where the next one begins; raise InvalidRequest, InvalidListing."""
    reader = Reader(value, "the page of listings")
    page = tuple(map(SignedListing.from_json, reader.array("listings", LISTINGS_PAGE)))
    after = reader.optional("next", lambda name: reader.integer(name, JSON_INTEGER_MAX))
    return page, None if after is None else ContentId(after)
