"""Parse a work's terms file, and define the messages of its registration.

Owns the format of a work's ``terms.toml``, the hash of a license, and the JSON of a relayed
registration. Does no I/O. ``viz.domain.work`` parses the work itself.

A terms file::

    title = "The keeper of Varn Point"
    kind = "dialogue"                # or "text"
    file = "work.jsonl"              # beside this file
    credit = "Alma Reyes"            # whom to credit; optional
    language = "en"                  # a BCP 47 tag; optional
    [terms]
    training_fee = "2.00"            # in whole tokens, for each grant
    min_royalty_bps = 800            # of an adapter's gross revenue
    duration_s = 31536000            # of a grant; 0 is for ever
    notice_s = 604800                # after a withdrawal, at most 90 days
    revocation_class = 2             # 0 keep, 1 stop new adapters, 2 retire adapters
    uses = ["train", "embody", "serve", "evaluate"]
    needs_approval = false
    [license]
    text = "..."                     # and any further conditions, all under the hash

With a license document (``viz.protocol.license_document``) the file needs no [terms] and must have
no [license].

Invariant: equal license tables have equal hashes, whatever their order or spacing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from viz.domain.license import Terms, Use
from viz.domain.typed_data import Register
from viz.domain.units import UINT32_MAX, ContentId, Hash32, parse_units
from viz.errors import InvalidRequest, InvalidWork
from viz.protocol.messages import SignatureHex
from viz.protocol.wire import JSON_INTEGER_MAX, Reader, license_hash_of
from viz.protocol.wire_model import (
    AddressText,
    Hash32Hex,
    JsonInteger,
    Signed,
    UnitsText,
    WireModel,
    whole,
)

# POST a SignedRegistration -> RegistrationAnswer.
CONTENTS_PATH: Final = "/viz/v1/contents"
# How long a node uses an answer about the chain's state again.
STATE_KEPT_S: Final = 10
# GET -> RegistrationContext.
REGISTRATION_CONTEXT_PATH: Final = "/viz/v1/contents/context/{creator}"


@dataclass(frozen=True, slots=True)
class WorkWords:
    """The name of a work's file, and the defaults for its listing."""

    file: str
    credit: str
    language: str


@dataclass(frozen=True, slots=True)
class WorkDescription:
    """The content of a terms file."""

    title: str
    kind: str
    file: str
    terms: Terms
    license: Mapping[str, Any]

    @property
    def license_hash(self) -> Hash32:
        """Return keccak256 of the license table as canonical JSON (RFC 8785)."""
        return license_hash_of(self.license)


def parse_description(
    text: str,
    *,
    token_decimals: int,
    licensed: tuple[Terms, Mapping[str, Any]] | None = None,
) -> WorkDescription:
    """Return the content of a terms file; raise InvalidWork, which names the wrong key.

    ``licensed`` has the terms and values of a license document, which is then the license. The
    caller must compare its terms with those of the result.
    """
    try:
        top = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidWork(
            f"the terms file is not TOML: {error}. Name the work's folder, or its terms.toml"
        ) from error
    known = {"title", "kind", "file", "credit", "language", "terms", "license"}
    if unknown := set(top) - known:
        raise InvalidWork(f"the terms file has an unknown key {sorted(unknown)[0]!r}")
    try:
        reader = Reader(top, "the terms file")
        if licensed is None:
            license_table = top.get("license")
            if not isinstance(license_table, Mapping) or not license_table.get("text"):
                raise InvalidWork(
                    "the terms file lacks [license] with a text: write one, or make a license "
                    "document (`viz license new`) and give it with --license"
                )
        else:
            license_table = licensed[1]
            if "license" in top:
                raise InvalidWork(
                    "the terms file has a [license], and a license document is given as well: "
                    "remove [license], so that only one of them is the license"
                )
        if licensed is None or "terms" in top:
            terms = _parse_terms(reader.child("terms"), top["terms"], token_decimals)
        else:
            terms = licensed[0]
        return WorkDescription(
            reader.text("title", 200),
            reader.text("kind"),
            reader.text("file"),
            terms,
            license_table,
        )
    except InvalidRequest as error:
        raise InvalidWork(error.detail) from error


def words_of(text: str) -> WorkWords:
    """Return a terms file's file name, credit and language; raise InvalidWork."""
    try:
        reader = Reader(tomllib.loads(text), "the terms file")
        return WorkWords(
            reader.text("file"),
            reader.optional("credit", lambda name: reader.text(name, 200)) or "",
            reader.optional("language", lambda name: reader.text(name, 35)) or "",
        )
    except tomllib.TOMLDecodeError as error:
        raise InvalidWork(f"the terms file is not TOML: {error}") from error
    except InvalidRequest as error:
        raise InvalidWork(error.detail) from error


def _parse_terms(reader: Reader, table: Mapping[str, Any], token_decimals: int) -> Terms:
    known = {
        "training_fee",
        "min_royalty_bps",
        "duration_s",
        "notice_s",
        "revocation_class",
        "uses",
        "needs_approval",
    }
    if unknown := set(table) - known:
        raise InvalidWork(f"[terms] has an unknown key {sorted(unknown)[0]!r}")
    uses = Use(0)
    for name in reader.array("uses", len(Use)):
        if not isinstance(name, str) or name.upper() not in Use.__members__:
            spelled = ", ".join(use.lower() for use in Use.__members__)
            raise InvalidWork(f"{name!r} is not a use of a work; the uses are {spelled}")
        uses |= Use[name.upper()]
    terms = Terms(
        training_fee_units=parse_units(reader.text("training_fee"), token_decimals),
        min_royalty_bps=reader.integer("min_royalty_bps"),
        grant_duration_s=reader.integer("duration_s", UINT32_MAX),
        notice_s=reader.integer("notice_s", UINT32_MAX),
        revocation_class=reader.integer("revocation_class"),
        uses=int(uses),
        approval_required=reader.boolean("needs_approval"),
    )
    terms.check()
    return terms


@dataclass(frozen=True, slots=True)
class RegistrationContext(WireModel):
    """What a creator needs to sign: chain and contract, the next nonce, and the chain's time."""

    WHERE: ClassVar[str] = "the registration's context"
    chain_id: JsonInteger
    content_registry: AddressText
    creator: AddressText
    nonce: UnitsText
    chain_time_s: JsonInteger
    token_decimals: Annotated[int, whole(255)]


@dataclass(frozen=True, slots=True)
class SignedRegistration(WireModel):
    """A creator's signed Register, which a node submits."""

    WHERE: ClassVar[str] = "the registration"
    register: Annotated[Register, Signed]
    signature: SignatureHex


@dataclass(frozen=True, slots=True)
class RegistrationAnswer(WireModel):
    """The registered work; its id is final only after its confirmations."""

    WHERE: ClassVar[str] = "the node's answer"
    content_id: Annotated[ContentId, whole(JSON_INTEGER_MAX)]
    transaction: Hash32Hex
