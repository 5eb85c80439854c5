"""Store access tokens by hash, each with the challenge that it was issued for."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, delete, insert, select

from viz.domain.ports.ledger import TOKENS_EACH, AccessRecord
from viz.domain.units import Address, Hash32
from viz.store.database import BATCH_ROWS, Database, in_batches
from viz.store.tables import AccessTokenTable, table

_TOKENS: Final = table(AccessTokenTable)


class AccessTables:
    """Implements AccessLedger on a database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def admit(self, challenge: Hash32, access: AccessRecord) -> bool:
        row = {
            "token_hash": access.token_hash,
            "challenge": challenge,
            "signer": access.signer,
            "expires_at": access.expires_at,
        }

        def work(connection: Connection) -> bool:
            # One token for each challenge: a signed Session that is sent again gets none.
            used = select(_TOKENS.c.signer).where(_TOKENS.c.challenge == challenge)
            if connection.execute(used).first() is not None:
                return False
            connection.execute(insert(_TOKENS), row)
            newest = (
                select(_TOKENS.c.token_hash)
                .where(_TOKENS.c.signer == access.signer)
                .order_by(_TOKENS.c.expires_at.desc(), _TOKENS.c.token_hash)
                .limit(TOKENS_EACH)
            )
            kept = [access.token_hash, *connection.execute(newest).scalars()]
            connection.execute(
                delete(_TOKENS).where(
                    _TOKENS.c.signer == access.signer, _TOKENS.c.token_hash.not_in(kept)
                )
            )
            return True

        return await self._db.write("admit-access", work)

    async def access(self, token_hash: Hash32) -> AccessRecord | None:
        wanted = select(_TOKENS).where(_TOKENS.c.token_hash == token_hash)
        row = await self._db.read(lambda c: c.execute(wanted).first())
        if row is None:
            return None
        return AccessRecord(Hash32(row.token_hash), Address(row.signer), row.expires_at)

    async def forget_access(self, before: int) -> int:
        some = select(_TOKENS.c.token_hash).where(_TOKENS.c.expires_at < before).limit(BATCH_ROWS)
        old = delete(_TOKENS).where(_TOKENS.c.token_hash.in_(some))
        return await in_batches(self._db, "forget-access", old)
