"""Answer a repeated request from the answer that was kept, by its ``Idempotency-Key``.

Owns the key, and the form in which an answer is kept: encrypted with the buyer's access token, so
that the ledger's file does not tell what was asked and answered. ``named_requests`` is for requests
that a server on the way repeats.
"""

from __future__ import annotations

import secrets
from typing import Final

from aiohttp import web

from viz.api.context import NodeContext
from viz.domain.answer_encryption import NONCE_BYTES, private_hash, seal, unseal
from viz.domain.eip712 import keccak
from viz.domain.ports.ledger import AccessRecord, AnswerRecord
from viz.domain.units import hex_of
from viz.errors import InvalidRequest, StoreConflict
from viz.protocol.credential import bearer_of_header

KEY_HEADER: Final = "Idempotency-Key"
REPLAY_HEADER: Final = "Idempotent-Replayed"
MAX_KEY_CHARS: Final = 255


class Repeat:
    """Hold a request's idempotency key, which is valid for its access token only."""

    def __init__(self, access: AccessRecord, token: str, key: str, said: bytes) -> None:
        self.name = (bytes(access.token_hash), key)
        self.request_hash = private_hash(token, said)
        self._token = token

    @classmethod
    def of(cls, request: web.Request, access: AccessRecord, raw: bytes) -> Repeat | None:
        """Return the key of a request, or None if it has none; raise InvalidRequest."""
        key = request.headers.get(KEY_HEADER)
        if key is None:
            return None
        if not 0 < len(key) <= MAX_KEY_CHARS:
            raise InvalidRequest(f"{KEY_HEADER} has 1 to {MAX_KEY_CHARS} characters")
        token = bearer_of_header(request.headers["Authorization"])
        return cls(access, token, key, request.path.encode() + b"\0" + raw)

    async def earlier(self, parts: NodeContext) -> web.Response | None:
        """Return the stored answer for this key, or None.

        Raises InvalidRequest if the key was used for another request, and StoreConflict if the
        answer is no longer stored or cannot be read.
        """
        kept = await parts.ledger.answer(*self.name)
        if kept is None:
            return None
        if kept.request_hash != self.request_hash:
            raise InvalidRequest(f"the {KEY_HEADER} was used for another request: choose a new one")
        if kept.body is None:
            raise StoreConflict(
                "the answer was given and paid for, and is no longer kept: only its hash is",
                responseHash=hex_of(kept.response_hash),
            )
        headers = {REPLAY_HEADER: "true", "Content-Type": kept.content_type}
        try:
            body = unseal(self._token, self.name[1], kept.body)
        except ValueError as error:
            raise StoreConflict("the kept answer cannot be read: ask with a new key") from error
        return web.Response(body=body, status=kept.status, headers=headers)

    def record(self, content_type: str, body: bytes, now_s: int) -> AnswerRecord:
        """Return the record of an answer to store; its body is encrypted with the token."""
        scope, key = self.name
        sealed = seal(self._token, key, body, nonce=secrets.token_bytes(NONCE_BYTES))
        return AnswerRecord(
            scope, key, self.request_hash, keccak(body), 200, content_type, sealed, now_s
        )
