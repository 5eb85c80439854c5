"""Define the tables of the ledger, portable between SQLite and PostgreSQL.

Owns names, types and keys. All channels are with this one node, so a channel's key is its signer.
The node, chain and contracts are stored in ``meta`` and checked when the ledger is opened. A new
table is created in an older ledger when it is opened. Any other change here needs a higher
``SCHEMA_VERSION``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from sqlalchemy import BigInteger, Index, LargeBinary, MetaData, Table, Text
from sqlmodel import Field, SQLModel

from viz.store.types import HashColumn, UnitsColumn

SCHEMA_VERSION: Final = 1


class LedgerTable(SQLModel):
    """Base class with its own metadata, separate from other users of SQLModel."""

    metadata: ClassVar[MetaData] = MetaData()


class MetaTable(LedgerTable, table=True):
    __tablename__ = "meta"
    key: str = Field(primary_key=True)
    value: str = Field(sa_type=Text)


class ChannelTable(LedgerTable, table=True):
    __tablename__ = "channels"
    signer: str = Field(primary_key=True)
    base_units: int = Field(sa_type=UnitsColumn)
    signature: bytes = Field(sa_type=LargeBinary)
    voucher_head: bytes = Field(sa_type=HashColumn)
    voucher_seq: int = Field(sa_type=BigInteger)
    voucher_at: int = Field(sa_type=BigInteger)
    head: bytes = Field(sa_type=HashColumn)
    seq: int = Field(sa_type=BigInteger)
    total_units: int = Field(sa_type=UnitsColumn)
    closed_until: int = Field(sa_type=BigInteger)
    version: int = Field(sa_type=BigInteger)


class ChannelLineTable(LedgerTable, table=True):
    __tablename__ = "channel_lines"
    signer: str = Field(primary_key=True)
    adapter_id: int = Field(primary_key=True, sa_type=BigInteger)
    base_units: int = Field(sa_type=UnitsColumn)
    accepted_units: int = Field(sa_type=UnitsColumn)
    spent_units: int = Field(sa_type=UnitsColumn)


class ReceiptTable(LedgerTable, table=True):
    __tablename__ = "receipts"
    __table_args__ = (Index("receipts_by_head", "signer", "head", unique=True),)
    signer: str = Field(primary_key=True)
    seq: int = Field(primary_key=True, sa_type=BigInteger)
    head: bytes = Field(sa_type=HashColumn)
    digest: bytes = Field(sa_type=HashColumn)
    body: bytes = Field(sa_type=LargeBinary)
    created_at: int = Field(sa_type=BigInteger)


class UnbilledTable(LedgerTable, table=True):
    """Running requests with a recorded delivery; ``number`` is the order of their first record."""

    __tablename__ = "unbilled"
    number: int | None = Field(default=None, primary_key=True)
    request_id: bytes = Field(sa_type=LargeBinary, unique=True)
    signer: str
    adapter_id: int = Field(sa_type=BigInteger)
    amount_units: int = Field(sa_type=UnitsColumn)
    prompt_tokens: int = Field(sa_type=BigInteger)
    completion_tokens: int = Field(sa_type=BigInteger)
    quote_hash: bytes = Field(sa_type=HashColumn)
    request_salt: bytes = Field(sa_type=HashColumn)
    request_hash: bytes = Field(sa_type=HashColumn)
    response_salt: bytes = Field(sa_type=HashColumn)
    response_hash: bytes = Field(sa_type=HashColumn)


class AnswerTable(LedgerTable, table=True):
    __tablename__ = "answers"
    scope: bytes = Field(primary_key=True, sa_type=LargeBinary)
    key: str = Field(primary_key=True)
    request_hash: bytes = Field(sa_type=HashColumn)
    response_hash: bytes = Field(sa_type=HashColumn)
    status: int
    content_type: str
    body: bytes | None = Field(default=None, sa_type=LargeBinary)
    created_at: int = Field(sa_type=BigInteger, index=True)


class AccessTokenTable(LedgerTable, table=True):
    __tablename__ = "access_tokens"
    token_hash: bytes = Field(primary_key=True, sa_type=HashColumn)
    challenge: bytes = Field(sa_type=HashColumn, unique=True)
    signer: str
    expires_at: int = Field(sa_type=BigInteger, index=True)


class AdapterTable(LedgerTable, table=True):
    __tablename__ = "adapters"
    adapter_id: int = Field(primary_key=True, sa_type=BigInteger)
    name: str
    description: str = Field(sa_type=Text)
    base_model: bytes = Field(sa_type=HashColumn)
    weights_digest: bytes = Field(sa_type=HashColumn)
    cid: str
    manifest_hash: bytes = Field(sa_type=HashColumn)
    path: str = Field(sa_type=Text)
    prompt_units_per_million: int = Field(sa_type=UnitsColumn)
    completion_units_per_million: int = Field(sa_type=UnitsColumn)
    created_at: int = Field(sa_type=BigInteger)


class AdapterWorkTable(LedgerTable, table=True):
    """The works that an offered adapter was trained on, with the titles shown in the offer."""

    __tablename__ = "adapter_works"
    adapter_id: int = Field(primary_key=True, sa_type=BigInteger)
    content_id: int = Field(primary_key=True, sa_type=BigInteger)
    title: str = Field(sa_type=Text)


class AdapterCardTable(LedgerTable, table=True):
    """The report card of an offered adapter, as JSON."""

    __tablename__ = "adapter_cards"
    adapter_id: int = Field(primary_key=True, sa_type=BigInteger)
    card: str = Field(sa_type=Text)


class AdapterEndTable(LedgerTable, table=True):
    """An ended adapter: the work that ended it, why, since when, and where its weights were."""

    __tablename__ = "adapter_ends"
    adapter_id: int = Field(primary_key=True, sa_type=BigInteger)
    content_id: int = Field(sa_type=BigInteger)
    reason: str
    since_s: int = Field(sa_type=BigInteger)
    ended_s: int = Field(sa_type=BigInteger)
    weights_digest: bytes = Field(sa_type=HashColumn)
    cid: str


class AdapterSuccessorTable(LedgerTable, table=True):
    """The successor of an adapter, as the operator named it."""

    __tablename__ = "adapter_successors"
    adapter_id: int = Field(primary_key=True, sa_type=BigInteger)
    successor_id: int = Field(sa_type=BigInteger)


class ClaimTable(LedgerTable, table=True):
    """The outbox of claim rows; ``ending`` is empty until a row is finished."""

    __tablename__ = "claims"
    __table_args__ = (Index("claims_by_base", "signer", "base_units", unique=True),)
    claim_id: int | None = Field(default=None, primary_key=True)
    signer: str
    base_units: int = Field(sa_type=UnitsColumn)
    lines: bytes = Field(sa_type=LargeBinary)
    receipts_head: bytes = Field(sa_type=HashColumn)
    signature: bytes = Field(sa_type=LargeBinary)
    frozen_at: int = Field(sa_type=BigInteger)
    ending: str = Field(index=True)
    note: str = Field(sa_type=Text)


class TransactionTable(LedgerTable, table=True):
    """Signed transactions; ``outcome`` is empty until it is known."""

    __tablename__ = "transactions"
    hash: bytes = Field(primary_key=True, sa_type=HashColumn)
    sender: str = Field(index=True)
    nonce: int = Field(sa_type=BigInteger)
    raw: bytes = Field(sa_type=LargeBinary)
    description: str = Field(sa_type=Text)
    outcome: str


class BlockTable(LedgerTable, table=True):
    __tablename__ = "blocks"
    number: int = Field(primary_key=True, sa_type=BigInteger)
    hash: bytes = Field(sa_type=HashColumn)


class TrainingTable(LedgerTable, table=True):
    __tablename__ = "trainings"
    training_id: str = Field(primary_key=True)
    state: str
    request: str = Field(sa_type=Text)
    progress: str = Field(sa_type=Text)
    result: str = Field(sa_type=Text)
    error: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    updated_at: int = Field(sa_type=BigInteger)


class ListingTable(LedgerTable, table=True):
    """Verified listings of works; ``document`` is the canonical JSON that the owner signed."""

    __tablename__ = "listings"
    content_id: int = Field(primary_key=True, sa_type=BigInteger)
    issued_at: int = Field(sa_type=BigInteger)
    document: bytes = Field(sa_type=LargeBinary)
    signature: bytes = Field(sa_type=LargeBinary)
    received_at: int = Field(sa_type=BigInteger)


class CustodyTable(LedgerTable, table=True):
    """Sealed works in custody; their keys are files in the folder of keys."""

    __tablename__ = "custody"
    content_id: int = Field(primary_key=True, sa_type=BigInteger)
    owner: str = Field(index=True)
    cid: str
    size_bytes: int = Field(sa_type=BigInteger)
    created_at: int = Field(sa_type=BigInteger)


class HandedKeyTable(LedgerTable, table=True):
    """Every key that was handed out; ``kind`` is a KeyKind."""

    __tablename__ = "handed_keys"
    __table_args__ = (Index("handed_keys_by_item", "kind", "item_id", "seq"),)
    seq: int | None = Field(default=None, primary_key=True)
    kind: int
    item_id: int = Field(sa_type=BigInteger)
    requester: str
    recipient: str = Field(sa_type=Text)
    cid: str
    challenge: bytes = Field(sa_type=HashColumn, unique=True)
    block: int = Field(sa_type=BigInteger)
    handed_at: int = Field(sa_type=BigInteger)


class NoticeTable(LedgerTable, table=True):
    """Notices of third parties; ``state`` is a NoticeState, ``kind`` a NoticeKind.

    A dropped number is not given again (``sqlite_autoincrement``): answers name notices by it.
    """

    __tablename__ = "notices"
    __table_args__ = {"sqlite_autoincrement": True}
    notice_id: int | None = Field(default=None, primary_key=True)
    digest: bytes = Field(sa_type=HashColumn, unique=True)
    notifier: str
    node: str
    adapter_id: int = Field(sa_type=BigInteger)
    content_id: int = Field(sa_type=BigInteger)
    kind: int
    statement: str = Field(sa_type=Text)
    contact: str = Field(sa_type=Text)
    evidence_hash: bytes = Field(sa_type=HashColumn)
    issued_at_s: int = Field(sa_type=BigInteger)
    signature: bytes = Field(sa_type=LargeBinary)
    received_at: int = Field(sa_type=BigInteger)
    effective_at: int = Field(sa_type=BigInteger)
    standing: bool
    state: str
    reason: str = Field(sa_type=Text)
    answered_at: int = Field(sa_type=BigInteger)


def table(model: type[LedgerTable]) -> Table:
    """Return the SQLAlchemy table of a model, for Core statements."""
    name: Any = model.__tablename__
    return LedgerTable.metadata.tables[name]
