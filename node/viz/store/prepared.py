"""Run SQLAlchemy Core statements as prepared text on the driver's own cursor.

A Core statement costs about 100 microseconds per run, most of them in SQLAlchemy. The statements of
the paid request are compiled here once, with the columns' own conversions. Tables and dialects are
SQLAlchemy's. Invariant: a driver's error is raised as the SQLAlchemy error that Core would raise,
so that ``viz.store.faults`` handles both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import UpdateBase

_Convert = Callable[[Any], Any]


class Prepared:
    """One INSERT, UPDATE or DELETE, compiled at its first run for each dialect."""

    def __init__(self, statement: UpdateBase, names: tuple[str, ...] | None = None) -> None:
        """Take a statement whose values are bound by name; ``names`` are an INSERT's columns."""
        self._statement = statement
        self._names = names
        self._compiled: dict[str, _StatementText] = {}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Run the statement in the open transaction and return how many rows it changed.

        Raises DBAPIError, which hides the values.
        """
        dialect = connection.dialect
        text = self._compiled.get(dialect.name)
        if text is None:
            text = self._compiled[dialect.name] = _StatementText(
                self._statement, self._names, dialect
            )
        error_class: type[Exception] = dialect.loaded_dbapi.Error
        try:
            cursor = connection.connection.cursor()
            cursor.execute(text.sql, text.bound(values))
            return int(cursor.rowcount)
        except error_class as error:
            # Leave the parameters out: they may be people's prompts and answers.
            raise DBAPIError(text.sql, None, error, hide_parameters=True) from error


class _StatementText:
    """A compiled statement: its text, and how each value is converted for the driver."""

    def __init__(
        self, statement: UpdateBase, names: tuple[str, ...] | None, dialect: Dialect
    ) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=names)
        self.sql = str(compiled)
        self._positional = bool(compiled.positional)
        order = compiled.positiontup if compiled.positional else None
        self._binds: list[tuple[str, _Convert | None]] = [
            (name, compiled.binds[name].type.bind_processor(dialect))
            for name in order or compiled.binds
        ]

    def bound(self, values: Mapping[str, Any]) -> Any:
        """Return the values in the driver's form; raise what a column's conversion raises."""
        if self._positional:
            return [
                values[name] if convert is None else convert(values[name])
                for name, convert in self._binds
            ]
        return {
            name: values[name] if convert is None else convert(values[name])
            for name, convert in self._binds
        }
