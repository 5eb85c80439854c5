"""Define the fields of a license document, each with its bounds.

A document states the conditions for using a work, for people and for machines. Its hash is the
``licenseHash`` that ContentRegistry stores. Creators write it as TOML; programs exchange it as
JSON.

Invariants: every field is required and none has a default, so that the hash covers exactly what is
written; every value is text, a whole number, true or false, or a list of texts; unknown fields are
refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import pydantic
from pydantic import AfterValidator, ConfigDict, Field

from viz.domain.display import symbol_of
from viz.domain.eip712 import keccak
from viz.domain.license import MAX_NOTICE_S, RevocationClass
from viz.domain.units import BPS, UINT32_MAX, Hash32, parse_address
from viz.errors import InvalidRequest
from viz.protocol.license_document.codes import COUNTRIES
from viz.protocol.wire import JSON_INTEGER_MAX, canonical_json

FORMAT: Final = "viz-license/1"
MAX_LICENSE_BYTES: Final = 32 * 1024
MAX_NAME_CHARS: Final = 200
MAX_TEXT_CHARS: Final = 8_000
MAX_EXCERPT_TOKENS: Final = 100_000
MAX_DECIMALS: Final = 36
EFFECTS: Final = {
    RevocationClass.KEEP: "keep",
    RevocationClass.STOP_NEW_ADAPTERS: "stop-new-adapters",
    RevocationClass.RETIRE_ADAPTERS: "retire-adapters",
}
_HEX_DIGEST: Final = re.compile(r"0x[0-9a-f]{64}")
# Primary language, then script, region and variants (BCP 47, without private use).
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,4}", re.ASCII)
_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,28})(\.[0-9]{1,36})?", re.ASCII)
_MAILBOX: Final = re.compile(r"mailto:[^\s@<>\"']{1,64}@[A-Za-z0-9.-]{1,190}", re.ASCII)
_PAGE: Final = re.compile(
    r"https://[A-Za-z0-9.-]{1,190}(:[0-9]{1,5})?(/[!-;=?-~]{0,500})?", re.ASCII
)


def _legible(text: str, allowed: str = "") -> str:
    for letter in text:
        if letter in allowed:
            continue
        if letter < " " or "\x7f" <= letter <= "\x9f":
            raise ValueError(f"holds the control character U+{ord(letter):04X}: remove it")
        if "\ud800" <= letter <= "\udfff":
            raise ValueError("holds half of a surrogate pair: save it as UTF-8")
    return text


def _one_line(text: str) -> str:
    if not _legible(text).strip():
        raise ValueError("is empty: write a value")
    return text


def _matching(pattern: re.Pattern[str], why: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(why)
        return text

    return check


def _address(text: str) -> str:
    try:
        spelled = parse_address(text)
    except InvalidRequest as error:
        raise ValueError(error.detail) from error
    if text != spelled:
        raise ValueError(f"is not in checksummed form: write {spelled}")
    return text


def _date(text: str) -> str:
    if text:
        try:
            found = date.fromisoformat(text)
        except ValueError as error:
            raise ValueError("is not a date: write it as 2026-11-30") from error
        if found.isoformat() != text:
            raise ValueError(f"is not in the usual form: write {found.isoformat()}")
    return text


def contact_of(text: str) -> str:
    """Return a licensor's address as it is; raise ValueError if a license may not have it."""
    if not (_MAILBOX.fullmatch(text) or _PAGE.fullmatch(text)):
        raise ValueError(
            'is not an address: write "mailto:name@example.org" or "https://example.org/"'
        )
    return text


def _country(text: str) -> str:
    if text not in COUNTRIES:
        raise ValueError(f"{text[:10]!r} is not a country code of ISO 3166-1, such as DE")
    return text


def _symbol(text: str) -> str:
    if symbol_of(text) != text:
        raise ValueError("is not a token symbol: write at most 11 visible characters")
    return text


def _each_once(values: list[str]) -> list[str]:
    if twice := next((value for at, value in enumerate(values) if value in values[:at]), None):
        raise ValueError(f"names {twice[:40]!r} twice: keep one")
    return values


Line = Annotated[str, Field(max_length=MAX_NAME_CHARS), AfterValidator(_one_line)]
OptionalLine = Annotated[str, Field(max_length=MAX_NAME_CHARS), AfterValidator(_legible)]
LicenseText = Annotated[
    str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(lambda text: _legible(text, "\n\t"))
]
Digest = Annotated[
    str,
    AfterValidator(_matching(_HEX_DIGEST, "is not a digest: write 0x and 64 lower-case digits")),
]
ChecksummedText = Annotated[str, Field(max_length=42), AfterValidator(_address)]
DateText = Annotated[str, Field(max_length=10), AfterValidator(_date)]
Contact = Annotated[str, Field(max_length=800), AfterValidator(contact_of)]
Language = Annotated[
    str,
    AfterValidator(_matching(_LANGUAGE, "is not a language tag of BCP 47, such as en or pt-BR")),
]
Amount = Annotated[
    str, AfterValidator(_matching(_AMOUNT, 'is not an amount in tokens: write it as "2.50"'))
]
Countries = Annotated[
    list[Annotated[str, AfterValidator(_country)]],
    Field(max_length=len(COUNTRIES)),
    AfterValidator(_each_once),
]
Warranty = Literal["ownership", "authority", "no-infringement", "privacy-consent", "no-malware"]
Disclaimer = Literal["as-is", "no-warranty", "no-liability", "no-indemnity"]
Seconds = Annotated[int, Field(ge=0, le=UINT32_MAX)]


class _LicenseTable(pydantic.BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Licensor(_LicenseTable):
    """The party that gives the license, its capacity, and the wallet that registers the work."""

    name: Line
    kind: Literal["person", "organization"]
    capacity: Literal["author", "rights-holder", "publisher", "agent"]
    contact: Contact
    wallet: ChecksummedText


class LicensedWork(_LicenseTable):
    """The licensed work: its name, the digest of its file, and the Merkle root of its chunks.

    ``created`` and ``published`` are dates, or empty if unknown. ``acquired`` says how the licensor
    came to have the rights.
    """

    title: Line
    creators: Annotated[list[Line], Field(min_length=1, max_length=32), AfterValidator(_each_once)]
    language: Language
    sha256: Digest
    root: Digest
    created: DateText
    published: DateText
    third_party: bool
    personal_data: bool
    acquired: Literal["own-work", "commissioned", "assigned", "licensed", "public-domain"]


class Excerpts(_LicenseTable):
    """Whether answers may quote the work, and the longest run of tokens an adapter may repeat."""

    permitted: bool
    max_tokens: Annotated[int, Field(ge=0, le=MAX_EXCERPT_TOKENS)]


class Rights(_LicenseTable):
    """The rights, one by one; a right that is false is reserved."""

    copy_for_training: bool
    embody_in_parameters: bool
    serve: bool
    evaluate: bool
    compose: bool
    export: bool
    excerpts: Excerpts


class LicenseLimits(_LicenseTable):
    """The limits of the rights; an empty ``bases`` or ``territory`` means no limit.

    ``bases`` are digests of base models. ``grant_s`` is the duration of a grant in seconds; 0 means
    without end.
    """

    bases: Annotated[list[Digest], Field(max_length=32), AfterValidator(_each_once)]
    field: Literal["any", "non-commercial", "research"]
    territory: Countries
    grant_s: Seconds
    approval_required: bool


class Money(_LicenseTable):
    """The fee of a grant in whole tokens, and the least part of an adapter's gross revenue."""

    training_fee: Amount
    min_royalty_bps: Annotated[int, Field(ge=0, le=BPS)]


class Exit(_LicenseTable):
    """The effect of a withdrawal, its notice period, and what a trainer must then erase."""

    revocation_class: Literal[0, 1, 2]
    effect: Literal["keep", "stop-new-adapters", "retire-adapters"]
    notice_s: Annotated[int, Field(ge=0, le=MAX_NOTICE_S)]
    erasure: Literal["none", "copies-and-keys"]


class Warranties(_LicenseTable):
    """What the licensor warrants, and what it disclaims (the words of RSL 1.0)."""

    given: Annotated[list[Warranty], Field(max_length=5), AfterValidator(_each_once)]
    disclaimed: Annotated[list[Disclaimer], Field(max_length=4), AfterValidator(_each_once)]


class Law(_LicenseTable):
    """Governing law and courts, and which one counts if the chain and this document differ."""

    governing: Line
    courts: OptionalLine
    precedence: Literal["chain-first", "document-first"]


class OnChain(_LicenseTable):
    """The chain, registry and token that the license is for."""

    chain_id: Annotated[int, Field(ge=1, le=JSON_INTEGER_MAX)]
    registry: ChecksummedText
    token: ChecksummedText
    token_decimals: Annotated[int, Field(ge=0, le=MAX_DECIMALS)]
    token_symbol: Annotated[str, Field(max_length=11), AfterValidator(_symbol)]


class LicenseDocument(_LicenseTable):
    """A complete license; ``text`` has further conditions in words."""

    format: Literal["viz-license/1"]
    issued: Annotated[DateText, Field(min_length=10)]
    text: LicenseText
    licensor: Licensor
    work: LicensedWork
    rights: Rights
    limits: LicenseLimits
    money: Money
    exit: Exit
    warranties: Warranties
    law: Law
    chain: OnChain

    def to_json(self) -> dict[str, Any]:
        """Return the document as JSON values; parsing them gives an equal document."""
        return self.model_dump(mode="json")

    @property
    def in_public_domain(self) -> bool:
        """Whether nobody owns the work: then there is nothing to reserve or to pay for."""
        return self.work.acquired == "public-domain"

    @cached_property
    def canonical(self) -> bytes:
        """The document as canonical JSON (RFC 8785): the bytes that are hashed."""
        return canonical_json(self.to_json())

    @property
    def license_hash(self) -> Hash32:
        """Return keccak256 of the canonical JSON, the ``licenseHash`` of ContentRegistry."""
        return keccak(self.canonical)
