"""Begin and end the writer's transactions on the driver's connection.

SQLAlchemy's own ``begin`` and ``commit`` cost as much as two of the prepared statements. For SQLite
they are replaced here: a connection of ``writing`` has one transaction of SQLAlchemy's, which is
never ended and begins nothing in the database, and each ``transaction`` is the driver's. For other
databases SQLAlchemy's are used. Invariant: as in ``viz.store.prepared``, a driver's error is raised
as the SQLAlchemy error that Core would raise.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

_BY_HAND: Final = "viz_by_hand"


def writing(engine: Engine) -> Connection:
    """Return a new connection for ``transaction``."""
    connection = engine.connect()
    if connection.dialect.name == "sqlite":
        connection.execution_options(**{_BY_HAND: True})
        connection.begin()
    return connection


def is_by_hand(connection: Connection) -> bool:
    """Return whether ``transaction`` begins this connection's transactions in the database."""
    return bool(connection.get_execution_options().get(_BY_HAND))


def transaction(connection: Connection) -> AbstractContextManager[object]:
    """Return a transaction on a connection of ``writing``; an error rolls it back."""
    return _ByHand(connection) if is_by_hand(connection) else connection.begin()


def run(connection: Connection, sql: str) -> None:
    """Run a statement without values on the driver's connection; raise DBAPIError."""
    error_class: type[Exception] = connection.dialect.loaded_dbapi.Error
    try:
        connection.connection.cursor().execute(sql)
    except error_class as error:
        raise DBAPIError(sql, None, error, hide_parameters=True) from error


class _ByHand:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        run(self._connection, "BEGIN")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            try:
                run(self._connection, "COMMIT")
            except DBAPIError:
                self._roll_back()
                raise
        else:
            self._roll_back()

    def _roll_back(self) -> None:
        error_class: type[Exception] = self._connection.dialect.loaded_dbapi.Error
        try:
            # It does nothing if SQLite has rolled back by itself, as on a full disk.
            self._connection.connection.rollback()
        except error_class as error:
            raise DBAPIError("ROLLBACK", None, error, hide_parameters=True) from error
