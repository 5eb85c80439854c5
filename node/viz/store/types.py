"""Define column types that keep amounts and hashes exact in any SQL database.

Owns the form of values inside the database. Invariants: the value that is read equals the value
that was written, to the last unit; the text order of stored amounts is their numeric order.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import LargeBinary, String
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from viz.domain.units import UINT96_MAX, Hash32, Units

WIDTH: Final = len(str(UINT96_MAX))


class UnitsColumn(TypeDecorator[int]):
    """Base units up to 2^96 - 1, as decimal text of fixed width.

    SQLite's integers have 64 bits, and its NUMERIC becomes a float above them. PostgreSQL's
    NUMERIC would be exact, but one form for both keeps a dump portable. Python adds the amounts.
    """

    impl = String(WIDTH)
    cache_ok = True

    def process_bind_param(self, value: Units | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if type(value) is not int or not 0 <= value <= UINT96_MAX:
            raise ValueError(f"{value!r} is not an amount of base units")
        return str(value).rjust(WIDTH, "0")

    def process_result_value(self, value: str | None, dialect: Dialect) -> Units | None:
        return None if value is None else int(value)


class HashColumn(TypeDecorator[Hash32]):
    """Exactly 32 bytes."""

    impl = LargeBinary(32)
    cache_ok = True

    def process_bind_param(self, value: Hash32 | None, dialect: Dialect) -> bytes | None:
        if value is not None and len(value) != 32:
            raise ValueError(f"a hash has 32 bytes, this has {len(value)}")
        return value

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Hash32 | None:
        return None if value is None else Hash32(bytes(value))
