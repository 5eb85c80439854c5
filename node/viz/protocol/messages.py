"""The JSON bodies that buyer and node exchange beside the payment framing.

Owns what a node says of itself, the session exchange, a channel's view and a close's answer. The
402, credentials and stream events are ``viz.protocol.payment``. Does no I/O and judges nothing.

Invariant: for every message, ``from_json(to_json(message)) == message``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from viz.domain.ports.ledger import OfferedWork
from viz.domain.typed_data import Close, Session
from viz.domain.units import UINT64_MAX, AdapterId, Address, ContentId, Hash32, Units, hex_of
from viz.domain.usage import Lines
from viz.protocol.wire import (
    JSON_INTEGER_MAX,
    Json,
    Reader,
    lines_to_json,
    struct_from_json,
    struct_to_json,
)

MAX_SIGNATURE_BYTES: Final = 1024  # room for contract wallets (ERC-1271)
MAX_ADAPTERS: Final = 4096
MAX_OFFERED_WORKS: Final = 128  # as many as a royalty table has
MAX_TOKEN_CHARS: Final = 512
ADAPTER_MODEL_PREFIX: Final = "viz-adapter-"


def adapter_model(adapter_id: AdapterId) -> str:
    """Return the model name by which OpenAI clients ask for an adapter."""
    return f"{ADAPTER_MODEL_PREFIX}{adapter_id}"


def adapter_of_model(model: str) -> AdapterId | None:
    """Return the adapter that a model name asks for, None where it names no adapter."""
    digits = model.removeprefix(ADAPTER_MODEL_PREFIX)
    if digits == model or not (digits.isascii() and digits.isdecimal()) or len(digits) > 10:
        return None
    return AdapterId(int(digits))


# what a node says of itself


@dataclass(frozen=True, slots=True)
class AdapterOffer:
    """An adapter that a node sells (id 0: the bare base model), with its list price.

    ``name``, ``description`` and the works' titles are the node's words, for people to choose by.
    Prices are units per million tokens. The choices of one request (``n``) are continued from one
    prompt, which is computed once and billed once; each choice's text is billed by itself.
    """

    adapter_id: AdapterId
    model: str
    weights_digest: Hash32
    prompt_price_units: Units
    completion_price_units: Units
    name: str = ""
    description: str = ""
    works: tuple[OfferedWork, ...] = ()

    def to_json(self) -> Json:
        return {
            "adapterId": int(self.adapter_id),
            "model": self.model,
            "weightsDigest": hex_of(self.weights_digest),
            "promptPrice": str(self.prompt_price_units),
            "completionPrice": str(self.completion_price_units),
            "name": self.name,
            "description": self.description,
            "works": [
                {"contentId": int(work.content_id), "title": work.title} for work in self.works
            ],
        }

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(
            AdapterId(reader.integer("adapterId")),
            reader.text("model", 256),
            reader.hash32("weightsDigest"),
            reader.units("promptPrice", UINT64_MAX),
            reader.units("completionPrice", UINT64_MAX),
            reader.text("name") if reader.has("name") else "",
            reader.text("description") if reader.has("description") else "",
            tuple(_works(reader)) if reader.has("works") else (),
        )


def _works(reader: Reader) -> Iterator[OfferedWork]:
    for item in reader.array("works", MAX_OFFERED_WORKS):
        work = Reader(item, "a work")
        yield OfferedWork(
            ContentId(work.integer("contentId", JSON_INTEGER_MAX)),
            work.text("title") if work.has("title") else "",
        )


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Who a node is, on which chain, what it sells; ``chain_time_s`` is its view of the head."""

    node: Address
    chain_id: int
    settlement: Address
    content_registry: Address
    adapter_registry: Address
    token: Address
    token_name: str
    token_version: str
    token_decimals: int
    chain_time_s: int
    base_model: str
    base_digest: Hash32
    tokenizer_digest: Hash32
    context_tokens: int
    suggested_deposit_units: Units
    minimum_deposit_units: Units
    minimum_step_units: Units
    adapters: tuple[AdapterOffer, ...]

    def to_json(self) -> Json:
        return {
            "node": self.node,
            "chainId": self.chain_id,
            "settlement": self.settlement,
            "contentRegistry": self.content_registry,
            "adapterRegistry": self.adapter_registry,
            "token": self.token,
            "tokenName": self.token_name,
            "tokenVersion": self.token_version,
            "tokenDecimals": self.token_decimals,
            "chainTime": self.chain_time_s,
            "baseModel": self.base_model,
            "baseDigest": hex_of(self.base_digest),
            "tokenizerDigest": hex_of(self.tokenizer_digest),
            "contextTokens": self.context_tokens,
            "suggestedDeposit": str(self.suggested_deposit_units),
            "minimumDeposit": str(self.minimum_deposit_units),
            "minimumStep": str(self.minimum_step_units),
            "adapters": [adapter.to_json() for adapter in self.adapters],
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        reader = Reader(value, "the node's description")
        return cls(
            node=reader.address("node"),
            chain_id=reader.integer("chainId", JSON_INTEGER_MAX),
            settlement=reader.address("settlement"),
            content_registry=reader.address("contentRegistry"),
            adapter_registry=reader.address("adapterRegistry"),
            token=reader.address("token"),
            token_name=reader.text("tokenName", 64),
            token_version=reader.text("tokenVersion", 64),
            token_decimals=reader.integer("tokenDecimals", 36),
            chain_time_s=reader.integer("chainTime", JSON_INTEGER_MAX),
            base_model=reader.text("baseModel", 256),
            base_digest=reader.hash32("baseDigest"),
            tokenizer_digest=reader.hash32("tokenizerDigest"),
            context_tokens=reader.integer("contextTokens"),
            suggested_deposit_units=reader.units("suggestedDeposit"),
            minimum_deposit_units=reader.units("minimumDeposit"),
            minimum_step_units=reader.units("minimumStep"),
            adapters=tuple(
                AdapterOffer.read(Reader(item, "an adapter"))
                for item in reader.array("adapters", MAX_ADAPTERS)
            ),
        )


# sessions: who may spend a channel's balance over HTTP


@dataclass(frozen=True, slots=True)
class SessionProof:
    """A signed Session challenge; answers with an AccessToken."""

    signer: Address
    session: Session
    signature: bytes

    def to_json(self) -> Json:
        return {
            "signer": self.signer,
            "session": struct_to_json(self.session),
            "signature": hex_of(self.signature),
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        reader = Reader(value, "the session")
        return cls(
            reader.address("signer"),
            struct_from_json(Session, reader.child("session")),
            reader.blob("signature", MAX_SIGNATURE_BYTES),
        )


def session_challenge_to_json(session: Session) -> Json:
    """Return the answer to POST SESSION_CHALLENGE_PATH, whose body is {"signer": address}."""
    return struct_to_json(session)


def session_challenge_from_json(value: object) -> Session:
    return struct_from_json(Session, Reader(value, "the session challenge"))


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What service is asked with: ``Authorization: Bearer <token>``."""

    token: str
    expires_at_s: int

    def to_json(self) -> Json:
        return {"accessToken": self.token, "expiresAt": self.expires_at_s}

    @classmethod
    def from_json(cls, value: object) -> Self:
        reader = Reader(value, "the access token")
        return cls(
            reader.text("accessToken", MAX_TOKEN_CHARS),
            reader.integer("expiresAt", JSON_INTEGER_MAX),
        )

    def __repr__(self) -> str:
        return f"AccessToken(expires_at_s={self.expires_at_s})"


# channels


@dataclass(frozen=True, slots=True)
class ChannelLine:
    """One adapter's promised and delivered units on a channel."""

    adapter_id: AdapterId
    accepted_units: Units
    spent_units: Units


@dataclass(frozen=True, slots=True)
class ChannelView:
    """A channel as its node sees it, at the confirmation depth: the answer to every channel call.

    ``payer`` is the zero address until an opening is confirmed; ``base_units`` is the settled total
    that the next voucher must name, ``best`` the lines of the best voucher on it.
    """

    signer: Address
    node: Address
    payer: Address
    deposit_units: Units
    settled_units: Units
    close_at_s: int
    base_units: Units
    best: Lines
    lines: tuple[ChannelLine, ...]
    seq: int
    head: Hash32

    def to_json(self) -> Json:
        return {
            "signer": self.signer,
            "node": self.node,
            "payer": self.payer,
            "deposit": str(self.deposit_units),
            "settled": str(self.settled_units),
            "closeAt": self.close_at_s,
            "base": str(self.base_units),
            "best": lines_to_json(self.best),
            "lines": [
                {
                    "adapterId": int(line.adapter_id),
                    "accepted": str(line.accepted_units),
                    "spent": str(line.spent_units),
                }
                for line in self.lines
            ],
            "seq": self.seq,
            "head": hex_of(self.head),
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        reader = Reader(value, "the channel")
        lines = [Reader(item, "a line") for item in reader.array("lines", MAX_ADAPTERS)]
        return cls(
            signer=reader.address("signer"),
            node=reader.address("node"),
            payer=reader.address("payer"),
            deposit_units=reader.units("deposit"),
            settled_units=reader.units("settled"),
            close_at_s=reader.integer("closeAt", JSON_INTEGER_MAX),
            base_units=reader.units("base"),
            best=reader.lines("best"),
            lines=tuple(
                ChannelLine(
                    AdapterId(line.integer("adapterId")),
                    line.units("accepted"),
                    line.units("spent"),
                )
                for line in lines
            ),
            seq=reader.integer("seq", JSON_INTEGER_MAX),
            head=reader.hash32("head"),
        )


@dataclass(frozen=True, slots=True)
class CloseAnswer:
    """The node's signed Close, and the transaction in which it submitted it (empty: not yet)."""

    close: Close
    signature: bytes
    transaction_hash: bytes = b""

    def to_json(self) -> Json:
        return {
            "close": struct_to_json(self.close),
            "signature": hex_of(self.signature),
            "transaction": hex_of(self.transaction_hash),
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        reader = Reader(value, "the close")
        return cls(
            struct_from_json(Close, reader.child("close")),
            reader.blob("signature", MAX_SIGNATURE_BYTES),
            reader.blob("transaction", 32),
        )
