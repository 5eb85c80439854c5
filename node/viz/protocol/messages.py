"""Define the JSON bodies that buyer and node exchange, except those of the payment scheme.

Owns a node's description, the session exchange, the view of a channel and the answer to a close.
``viz.protocol.payment`` has the 402, the stream's events and receipts. Does no I/O.

Invariant: for every message, ``from_json(to_json(message)) == message``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from pydantic import Field

from viz.domain.card import ReportCard
from viz.domain.notices import NoticeSummary
from viz.domain.ports.ledger import OfferedWork
from viz.domain.typed_data import Close, Session
from viz.domain.units import UINT32_MAX, UINT64_MAX, AdapterId, Units
from viz.protocol.wire import JSON_INTEGER_MAX, Json
from viz.protocol.wire_model import (
    AdapterNumber,
    AddressText,
    AtMost,
    Hash32Hex,
    JsonInteger,
    NullIsAbsent,
    Signed,
    Uint32,
    UnitsText,
    UsageLines,
    WireModel,
    blob,
    decimal,
    number,
    record,
    struct_from_json,
    struct_to_json,
    text,
    whole,
)

MAX_SIGNATURE_BYTES: Final = 1024  # room for contract wallets (ERC-1271)
MAX_ADAPTERS: Final = 4096
MAX_OFFERED_WORKS: Final = 128  # the bound of a royalty table
MAX_TOKEN_CHARS: Final = 512
MAX_ARITHMETIC_CHARS: Final = 32
MAX_AGE_KEY_CHARS: Final = 128  # the bound of NodeDirectory
ADAPTER_MODEL_PREFIX: Final = "viz-adapter-"
MAX_BASE_NAME_CHARS: Final = 200
_ADAPTER_ID: Final = re.compile(rf"{ADAPTER_MODEL_PREFIX}([0-9]+)")
_BASE_NAME: Final = re.compile(rf"[!-?A-~](?:[ -?A-~]{{0,{MAX_BASE_NAME_CHARS - 2}}}[!-?A-~])?")

SignatureHex = Annotated[bytes, blob(MAX_SIGNATURE_BYTES)]


def unnamed(adapter_id: AdapterId) -> str:
    """Return the name under which a node offers an adapter that nobody named there."""
    return f"adapter {adapter_id}"


def adapter_model(adapter_id: AdapterId) -> str:
    """Return the model name with which OpenAI clients request an adapter."""
    return f"{ADAPTER_MODEL_PREFIX}{adapter_id}"


def adapter_of_model(model: str) -> AdapterId | None:
    """Return the adapter of a model name; None if it names no adapter."""
    digits = model.removeprefix(ADAPTER_MODEL_PREFIX)
    if digits == model or not (digits.isascii() and digits.isdecimal()) or len(digits) > 10:
        return None
    return AdapterId(int(digits))


def adapter_named(words: str) -> AdapterId | None:
    """Return the adapter whose id a person's words are, in any case; None if they are no id.

    For a number that no adapter can have it may be 0, under which no adapter is sold.
    """
    found = _ADAPTER_ID.fullmatch(words.strip().casefold())
    if found is None:
        return None
    digits = found[1].lstrip("0")
    return AdapterId(int(digits or "0") if len(digits) <= 10 else 0)


def is_base_name(name: str) -> bool:
    """Return whether a base model may have this name: nobody may take it for another model's id.

    It is printable ASCII without outer blanks and without ``@``, which precedes a digest, at most
    ``MAX_BASE_NAME_CHARS`` long, and does not begin as an adapter's id does.
    """
    begins_as_id = name.casefold().startswith(ADAPTER_MODEL_PREFIX)
    return _BASE_NAME.fullmatch(name) is not None and not begins_as_id


# what a node says of itself


OFFERED_WORK: Final = record(
    OfferedWork, {"content_id": ("contentId", whole(JSON_INTEGER_MAX)), "title": ("title", text())}
)


REPORT_CARD: Final = record(
    ReportCard,
    {
        "asked": ("asked", whole(UINT32_MAX)),
        "right": ("right", whole(UINT32_MAX)),
        "base_right": ("baseRight", whole(UINT32_MAX)),
        "general_base": ("generalBase", whole(UINT32_MAX)),
        "general_kept": ("generalKept", whole(UINT32_MAX)),
        "default_temperature": ("defaultTemperature", number(2)),
        "longest_tokens": ("longestTokens", whole(UINT32_MAX)),
        "committed_asked": ("committedAsked", whole(UINT32_MAX)),
        "committed_right": ("committedRight", whole(UINT32_MAX)),
        "committed_base_right": ("committedBaseRight", whole(UINT32_MAX)),
    },
)


NOTICE_SUMMARY: Final = record(
    NoticeSummary,
    {
        "open": ("open", whole(UINT32_MAX)),
        "kind": ("kind", text(32)),
        "received_at": ("receivedAt", whole(JSON_INTEGER_MAX)),
    },
)


@dataclass(frozen=True, slots=True)
class ServedBase(WireModel):
    """The base model under an offer: what generates its answers, and what counts their tokens.

    ``digest`` names the weights with their quantisation, the function that adapters are trained
    against. ``arithmetic`` is the type in which this node computes with them ("float32",
    "bfloat16", "float16"), empty if the node does not say.
    """

    digest: Hash32Hex
    tokenizer_digest: Hash32Hex
    context_tokens: Uint32
    arithmetic: Annotated[str, text(MAX_ARITHMETIC_CHARS), NullIsAbsent] = ""


@dataclass(frozen=True, slots=True)
class AdapterOffer(WireModel):
    """An adapter that a node sells (id 0: a bare base model), with its list price.

    ``name``, ``description``, the works' titles and the report card are statements of the node, for
    people to choose. The card's values are also in the signed manifest, and an audit measures them.
    Prices are units per million tokens. The choices of one request (``n``) share one prompt, which
    is computed and billed once; the text of each choice is billed separately. ``notices`` tells of
    unanswered notices on the adapter or its works. ``base`` is None from a node that says it once
    for all its offers: ask ``NodeInfo.base_of``. ``sold_until_s`` is the chain time at which
    the sale stops, before the adapter's end; None if it has none.
    """

    adapter_id: AdapterNumber
    model: Annotated[str, text(256)]
    weights_digest: Hash32Hex
    prompt_price_units: Annotated[Units, decimal(UINT64_MAX)]
    completion_price_units: Annotated[Units, decimal(UINT64_MAX)]
    name: Annotated[str, text(), NullIsAbsent] = ""
    description: Annotated[str, text(), NullIsAbsent] = ""
    works: Annotated[
        tuple[Annotated[OfferedWork, OFFERED_WORK], ...], AtMost(MAX_OFFERED_WORKS), NullIsAbsent
    ] = ()
    card: Annotated[ReportCard, REPORT_CARD] | None = None
    notices: Annotated[NoticeSummary, NOTICE_SUMMARY] | None = None
    base: ServedBase | None = None
    sold_until_s: JsonInteger | None = None


@dataclass(frozen=True, slots=True)
class NodeInfo(WireModel):
    """A node's identity, chain and offers; ``chain_time_s`` is the head's time as it sees it.

    The members about a base model are those of the first one; each offer names its own.
    """

    WHERE: ClassVar[str] = "the node's description"
    node: AddressText
    chain_id: JsonInteger
    settlement: AddressText
    content_registry: AddressText
    adapter_registry: AddressText
    token: AddressText
    token_name: Annotated[str, text(64)]
    token_version: Annotated[str, text(64)]
    token_decimals: Annotated[int, whole(36)]
    chain_time_s: JsonInteger
    base_model: Annotated[str, text(256)]
    base_digest: Hash32Hex
    tokenizer_digest: Hash32Hex
    context_tokens: Uint32
    suggested_deposit_units: UnitsText
    minimum_deposit_units: UnitsText
    minimum_step_units: UnitsText
    adapters: Annotated[tuple[AdapterOffer, ...], AtMost(MAX_ADAPTERS)]
    age_key: Annotated[str, text(MAX_AGE_KEY_CHARS), NullIsAbsent] = ""

    def base_of(self, offer: AdapterOffer) -> ServedBase:
        """Return the base model of one of the node's offers."""
        return offer.base or ServedBase(
            self.base_digest, self.tokenizer_digest, self.context_tokens
        )


# sessions: who may spend a channel's balance over HTTP


@dataclass(frozen=True, slots=True)
class SessionProof(WireModel):
    """A signed Session challenge; the node answers with an AccessToken."""

    WHERE: ClassVar[str] = "the session"
    signer: AddressText
    session: Annotated[Session, Signed]
    signature: SignatureHex


def session_challenge_to_json(session: Session) -> Json:
    """Return the answer to POST SESSION_CHALLENGE_PATH, whose body is {"signer": address}."""
    return struct_to_json(session)


def session_challenge_from_json(value: object) -> Session:
    """Return the Session in the answer of a challenge; raise InvalidRequest."""
    return struct_from_json(Session, value, "the session challenge")


@dataclass(frozen=True, slots=True)
class AccessToken(WireModel):
    """The token for requests: ``Authorization: Bearer <token>``."""

    WHERE: ClassVar[str] = "the access token"
    token: Annotated[str, text(MAX_TOKEN_CHARS), Field(alias="accessToken")]
    expires_at_s: JsonInteger

    def __repr__(self) -> str:
        return f"AccessToken(expires_at_s={self.expires_at_s})"


# channels


@dataclass(frozen=True, slots=True)
class ChannelLine(WireModel):
    """One adapter's promised and delivered units on a channel."""

    adapter_id: AdapterNumber
    accepted_units: UnitsText
    spent_units: UnitsText


@dataclass(frozen=True, slots=True)
class ChannelView(WireModel):
    """A channel as its node sees it at the confirmation depth; the answer to all channel calls.

    ``payer`` is the zero address until an opening is confirmed. ``base_units`` is the settled total
    that the next voucher must name. ``best`` is the lines of the best voucher on this base.
    ``closed_until_s`` is the deadline of a Close that the node signed (chain time); 0: none.
    """

    WHERE: ClassVar[str] = "the channel"
    signer: AddressText
    node: AddressText
    payer: AddressText
    deposit_units: UnitsText
    settled_units: UnitsText
    close_at_s: JsonInteger
    base_units: UnitsText
    best: UsageLines
    lines: Annotated[tuple[ChannelLine, ...], AtMost(MAX_ADAPTERS)]
    seq: JsonInteger
    head: Hash32Hex
    closed_until_s: JsonInteger = 0


@dataclass(frozen=True, slots=True)
class CloseAnswer(WireModel):
    """The node's signed Close, and the transaction in which it was sent (empty if not yet)."""

    WHERE: ClassVar[str] = "the close"
    close: Annotated[Close, Signed]
    signature: SignatureHex
    transaction_hash: Annotated[bytes, blob(32), Field(alias="transaction")]
