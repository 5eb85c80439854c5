"""Store what the sender, the watcher and the claim loop need: transactions, blocks, claim rows.

Owns the outbox of claims and its one rule: freezing a voucher into a row and moving its channel's
base to the row's end point are one commit. So no voucher is accepted on a base that is being
claimed (threat 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, delete, insert, select, update

from viz.domain.ports.ledger import ChannelLineRecord
from viz.domain.ports.settlement_ledger import BlockMark, ClaimRecord, SignedTransaction
from viz.domain.ports.transactions import Outcome
from viz.domain.units import Address, Hash32
from viz.domain.usage import UsageLine, pack_lines, unpack_lines
from viz.store.channels import load, save
from viz.store.database import Database, write_row
from viz.store.tables import BlockTable, ClaimTable, TransactionTable, table

_CLAIMS: Final = table(ClaimTable)
_TRANSACTIONS: Final = table(TransactionTable)
_BLOCKS: Final = table(BlockTable)

MARKS_KEPT: Final = 512


class ChainsideTables:
    """Implements SettlementLedger, TransactionJournal and CursorStore on a database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # claims

    async def freeze(self, signer: Address, *, now_s: int) -> ClaimRecord | None:
        return await self._db.write("freeze", lambda c: _freeze(c, signer, now_s))

    async def frozen(self) -> Sequence[ClaimRecord]:
        wanted = (
            select(_CLAIMS)
            .where(_CLAIMS.c.ending == "")
            .order_by(_CLAIMS.c.signer, _CLAIMS.c.base_units)
        )
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [_claim(row) for row in rows]

    async def finish(self, claim_id: int, end: Literal["settled", "dropped"], note: str) -> None:
        ended = update(_CLAIMS).where(_CLAIMS.c.claim_id == claim_id, _CLAIMS.c.ending == "")

        def work(connection: Connection) -> None:
            connection.execute(ended.values(ending=end, note=note))

        await self._db.write("finish-claim", work)

    async def take_up_dropped(self) -> None:
        reopened = update(_CLAIMS).where(_CLAIMS.c.ending == "dropped").values(ending="", note="")

        def work(connection: Connection) -> None:
            connection.execute(reopened)

        await self._db.write("take-up-dropped", work)

    # transactions

    async def record(self, transaction: SignedTransaction) -> None:
        row = {
            "hash": transaction.hash,
            "sender": transaction.sender,
            "nonce": transaction.nonce,
            "raw": transaction.raw,
            "description": transaction.description,
            "outcome": "",
        }
        await self._db.write("record-transaction", lambda c: write_row(c, _TRANSACTIONS, row))

    async def resolve(self, transaction_hash: Hash32, outcome: Outcome) -> None:
        ended = update(_TRANSACTIONS).where(_TRANSACTIONS.c.hash == transaction_hash)

        def work(connection: Connection) -> None:
            connection.execute(ended.values(outcome=outcome.value))

        await self._db.write("resolve-transaction", work)

    async def pending(self, sender: Address) -> Sequence[SignedTransaction]:
        wanted = (
            select(_TRANSACTIONS)
            .where(_TRANSACTIONS.c.sender == sender, _TRANSACTIONS.c.outcome == "")
            .order_by(_TRANSACTIONS.c.nonce)
        )
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [_transaction(row) for row in rows]

    async def described(self, sender: Address, description: str) -> Sequence[SignedTransaction]:
        wanted = (
            select(_TRANSACTIONS)
            .where(_TRANSACTIONS.c.sender == sender, _TRANSACTIONS.c.description == description)
            .order_by(_TRANSACTIONS.c.nonce)
        )
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [_transaction(row) for row in rows]

    # the watcher's cursor

    async def marks(self) -> Sequence[BlockMark]:
        wanted = select(_BLOCKS).order_by(_BLOCKS.c.number.desc())
        rows = await self._db.read(lambda c: c.execute(wanted).all())
        return [BlockMark(row.number, Hash32(row.hash)) for row in rows]

    async def advance(self, mark: BlockMark) -> None:
        def work(connection: Connection) -> None:
            write_row(connection, _BLOCKS, {"number": mark.number, "hash": mark.hash})
            beyond = (
                select(_BLOCKS.c.number)
                .order_by(_BLOCKS.c.number.desc())
                .offset(MARKS_KEPT)
                .limit(1)
            )
            if (oldest := connection.execute(beyond).scalar()) is not None:
                connection.execute(delete(_BLOCKS).where(_BLOCKS.c.number <= oldest))

        await self._db.write("advance-cursor", work)

    async def rollback(self, above: int) -> None:
        gone = delete(_BLOCKS).where(_BLOCKS.c.number > above)

        def work(connection: Connection) -> None:
            connection.execute(gone)

        await self._db.write("rollback-cursor", work)


def _transaction(row: Row[Any]) -> SignedTransaction:
    return SignedTransaction(
        Hash32(row.hash),
        Address(row.sender),
        row.nonce,
        row.raw,
        row.description,
        failed=row.outcome == Outcome.FAILED.value,
    )


def _freeze(connection: Connection, signer: Address, now_s: int) -> ClaimRecord | None:
    """Insert the claim row and move the channel's base to its end, in the caller's transaction.

    The signature is cleared: it is on the old base, and the row keeps it.
    """
    channel = load(connection, signer)
    if channel is None or not channel.signature or not (due := channel.unclaimed()):
        return None
    lines = tuple(UsageLine(adapter_id, units) for adapter_id, units in due.items())
    row = {
        "signer": signer,
        "base_units": channel.base_units,
        "lines": pack_lines(lines),
        "receipts_head": channel.voucher_head,
        "signature": channel.signature,
        "frozen_at": now_s,
        "ending": "",
        "note": "",
    }
    key: Any = connection.execute(insert(_CLAIMS).values(row)).inserted_primary_key
    claim = ClaimRecord(
        key[0],
        signer,
        channel.base_units,
        lines,
        channel.voucher_head,
        channel.signature,
        now_s,
    )
    moved = {
        adapter_id: ChannelLineRecord(line.accepted_units, line.accepted_units, line.spent_units)
        for adapter_id, line in channel.lines.items()
    }
    save(
        connection,
        replace(channel, base_units=claim.end_units, lines=moved, signature=b""),
        due.keys(),
    )
    return claim


def _claim(row: Row[Any]) -> ClaimRecord:
    return ClaimRecord(
        row.claim_id,
        Address(row.signer),
        row.base_units,
        unpack_lines(row.lines),
        Hash32(row.receipts_head),
        row.signature,
        row.frozen_at,
    )
