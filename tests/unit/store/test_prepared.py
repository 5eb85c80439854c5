"""Prepared statements write what Core writes, and fail as Core does."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from tests.fakes.records import ALICE, IDENTITY

from viz.store.database import Database
from viz.store.prepared import Prepared, _StatementText
from viz.store.tables import ChannelLineTable, table

LINES = table(ChannelLineTable)
NAMES = tuple(LINES.c.keys())
ROW = {
    "signer": ALICE,
    "adapter_id": 7,
    "base_units": 2**96 - 1,
    "accepted_units": 5,
    "spent_units": 0,
}


async def test_the_same_row_as_through_core(tmp_path: Path) -> None:
    """The columns' own conversions are used: amounts keep their last unit and their width."""
    database = await Database.open(tmp_path / "l.db", IDENTITY)

    def work(connection: Connection) -> tuple[object, ...]:
        assert Prepared(insert(LINES).inline(), NAMES).run(connection, ROW) == 1
        found = [tuple(row) for row in connection.execute(select(LINES))]
        raw = connection.exec_driver_sql("SELECT base_units FROM channel_lines").scalar()
        connection.execute(LINES.delete())
        connection.execute(insert(LINES), ROW)
        assert raw == connection.exec_driver_sql("SELECT base_units FROM channel_lines").scalar()
        assert found == [tuple(row) for row in connection.execute(select(LINES))]
        return found[0]

    assert await database.write("x", work) == tuple(ROW.values())
    await database.close()


async def test_a_driver_error_is_the_error_of_sqlalchemy(tmp_path: Path) -> None:
    """The writer tells faults by SQLAlchemy's errors, and no value is in their text."""
    database = await Database.open(tmp_path / "l.db", IDENTITY)
    again = Prepared(insert(LINES).inline(), NAMES)

    def work(connection: Connection) -> SQLAlchemyError:
        again.run(connection, ROW)
        with pytest.raises(SQLAlchemyError) as raised:
            again.run(connection, ROW)
        return raised.value

    error = await database.write("x", work)
    assert isinstance(error.__cause__, Exception) and "UNIQUE" in str(error)
    assert isinstance(error, IntegrityError) or ALICE not in str(error)
    await database.close()


def test_other_databases_get_their_own_text() -> None:
    """The statements are SQLAlchemy's, so they compile for PostgreSQL as well."""
    statement = update(LINES).values(spent_units=bindparam("spent_units"))
    text = _StatementText(statement, None, postgresql.dialect())  # type: ignore[no-untyped-call]
    assert "%(spent_units)s" in text.sql
    assert text.bound({"spent_units": 7}) == {"spent_units": str(7).rjust(29, "0")}
