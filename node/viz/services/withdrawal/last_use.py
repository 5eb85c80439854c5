"""Compute when the uses of a withdrawn work end: the node's own use, and custody for others.

Owns both rules: the node's own use ends with its own grant of class 2, custody with the last grant
that permits the work's key. Only reads the chain. Nobody can acquire a grant after a withdrawal, so
the end of custody is computed only once when the withdrawal can no longer be reorganised away.
Invariant: custody does not end while the logs lack a grant that a view or a fee shows. A key
that was destroyed too early cannot be given to a trainer who paid for it.
"""

from __future__ import annotations

from typing import Final

import structlog

from viz.domain.license import RevocationClass
from viz.domain.ports.chain import ChainReader, ContentState, GrantState
from viz.domain.ports.services import OfferedAdapters
from viz.domain.units import Address, ContentId
from viz.errors import ChainError, ChainMismatch

# The logs are read again after this time if the endpoint lacked some of them.
READ_AGAIN_S: Final = 600
# A block of this age is final. If the notice period is shorter, destruction waits for this age.
FINAL_S: Final = 3_600
_log = structlog.get_logger()


class LastUse:
    """The ends of withdrawn works' uses, as one node sees them."""

    def __init__(self, chain: ChainReader, offers: OfferedAdapters, node: Address) -> None:
        self._chain, self._offers, self._node = chain, offers, node
        self._custody_ends: dict[ContentId, int] = {}
        self._read_again_s: dict[ContentId, int] = {}

    async def own_end(self, content: ContentState) -> int | None:
        """Return when the node's own use of a withdrawn work ends; None if it does not.

        It ends with the notice period of the node's own grant, if the grant is of class 2, but not
        before the last of the node's adapters that were trained on the work.
        """
        grant = await self._chain.grant(content.content_id, self._node)
        found = await self._chain.terms(grant.terms_hash) if grant is not None else None
        if found is None or found.terms.revocation_class != RevocationClass.RETIRE_ADAPTERS:
            return None
        for adapter_id in self._offers.adapter_ids():
            state = await self._chain.adapter(adapter_id)
            holds = any(each == content.content_id for each, _ in state.shares) if state else False
            if state is not None and holds and state.trainer == self._node:
                return None
        return content.withdrawn_at + max(found.terms.notice_s, FINAL_S)

    async def custody_end(self, content: ContentState, now_s: int) -> int | None:
        """Return when the last grant that permits a withdrawn work's key ends; None before then.

        None also while the logs do not show all grants: other destructions do not wait.
        """
        if now_s < content.withdrawn_at + FINAL_S:
            return None
        known = self._custody_ends.get(content.content_id)
        if known is None:
            known = await self._last_grant_end(content, now_s)
            if known is None:
                return None
            self._custody_ends[content.content_id] = known
        return known if known <= now_s else None

    async def _last_grant_end(self, content: ContentState, now_s: int) -> int | None:
        """Return when the last grant ends, by complete logs; None if the endpoint lacks some."""
        content_id, last_s = content.content_id, content.withdrawn_at + FINAL_S
        if now_s < self._read_again_s.get(content_id, 0):
            return None
        try:
            trainers = await self._chain.trainers_of(content_id)
        except ChainMismatch:
            raise
        except ChainError as error:
            self._read_again_s[content_id] = now_s + READ_AGAIN_S
            _log.warning(
                "custody goes on: its end is not known", content_id=content_id, reason=error.detail
            )
            return None
        for trainer in trainers:
            grant = await self._chain.grant(content_id, trainer)
            if grant is not None:
                last_s = max(last_s, await self._registers_until(grant, content))
        return last_s

    async def retires(self, grant: GrantState) -> bool:
        """Return whether a withdrawal retires the adapters of this grant (class 2)."""
        found = await self._chain.terms(grant.terms_hash)
        return found is not None and found.terms.revocation_class == RevocationClass.RETIRE_ADAPTERS

    async def _registers_until(self, grant: GrantState, content: ContentState) -> int:
        """Return until when adapters can be registered under a grant (ContentRegistry.grantOf)."""
        found = await self._chain.terms(grant.terms_hash)
        if found is None or found.terms.revocation_class == RevocationClass.KEEP:
            return grant.expires_at
        return min(grant.expires_at, content.withdrawn_at + found.terms.notice_s)
