"""The ledger's tables and statements are SQL that PostgreSQL takes too."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from viz.store import channels
from viz.store.tables import LedgerTable

POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]


def test_the_schema_compiles_for_postgresql() -> None:
    """No type of ours is SQLite's alone, and money is text of fixed width in both."""
    for table in LedgerTable.metadata.sorted_tables:
        ddl = str(CreateTable(table).compile(dialect=POSTGRES))
        assert "BLOB" not in ddl and "FLOAT" not in ddl
        for column in table.columns:
            if column.name.endswith("_units") or "units_per" in column.name:
                assert f"{column.name} VARCHAR(29)" in ddl
        for index in table.indexes:
            assert CreateIndex(index).compile(dialect=POSTGRES)


def test_the_hot_statements_compile_for_postgresql() -> None:
    """The updates of a voucher's commit bind by name, without a dialect's upsert."""
    for statement in (channels._UPDATE_CHANNEL, channels._UPDATE_LINE):
        assert str(statement._statement.compile(dialect=POSTGRES)).startswith("UPDATE channel")
