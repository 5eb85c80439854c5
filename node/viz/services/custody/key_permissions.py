"""Decide who may have which key. The chain alone decides.

A live grant that permits training gives its holder the key of a work, and the trainer's permission
to serve gives its holder the key of an adapter.
"""

from __future__ import annotations

from viz.domain.license import Use
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.custody import CustodyLedger, KeyKind
from viz.domain.typed_data import KeyRequest
from viz.domain.units import UINT32_MAX, AdapterId, Address, Cid, ContentId
from viz.errors import (
    AdapterNotServable,
    InvalidRequest,
    KeyUnknown,
    LicenseError,
    NoLiveGrant,
    UnknownAdapter,
)
from viz.protocol.wire import JSON_INTEGER_MAX
from viz.storage.sealing import check_recipient


class KeyPermissions:
    """Reads from the chain what a request for a key may have."""

    def __init__(self, chain: ChainReader, ledger: CustodyLedger) -> None:
        self._chain, self._ledger = chain, ledger

    async def cid_for(self, said: KeyRequest) -> Cid:
        """Return the CID whose key the chain permits the requester to have.

        Raises NoLiveGrant, LicenseError for a work that does not exist, KeyUnknown for one that is
        not in custody here, AdapterNotServable, UnknownAdapter, InvalidRequest for another kind,
        ChainUnreachable.
        """
        if said.kind == KeyKind.WORK:
            return await self._work(work_id(said.item_id), said.requester)
        if said.kind == KeyKind.ADAPTER:
            if not 0 < said.item_id <= UINT32_MAX:
                raise UnknownAdapter(f"there is no adapter {said.item_id}: check the id")
            return await self._adapter(AdapterId(said.item_id), said.requester)
        raise InvalidRequest(f"kind is {said.kind}: write 1 for a work, 2 for an adapter")

    async def recipient_of(self, said: KeyRequest) -> str:
        """Return the age recipient that the request or the directory names.

        Raises InvalidRequest if it is none, ChainUnreachable.
        """
        recipient = said.age_recipient
        if not recipient:
            entry = await self._chain.node_entry(said.requester)
            recipient = entry.age_key if entry is not None else ""
        check_recipient(recipient)
        return recipient

    async def _work(self, content_id: ContentId, requester: Address) -> Cid:
        grant = await self._chain.grant(content_id, requester)
        if grant is None or not grant.live:
            await self._require_on_offer(content_id, requester)
            why = "has no grant" if grant is None else "no longer has a live grant"
            raise NoLiveGrant(
                f"{requester} {why} to work {content_id}: acquire one, then ask again",
                contents=[int(content_id)],
            )
        terms = await self._chain.terms(grant.terms_hash)
        if terms is None or not terms.terms.permits(Use.TRAIN):
            raise NoLiveGrant(
                f"the grant to work {content_id} does not permit training, so its key is not given",
                contents=[int(content_id)],
            )
        record = await self._ledger.custody(content_id)
        if record is None:
            raise KeyUnknown(
                f"this node does not hold the key of work {content_id}: ask another custodian of "
                "its listing"
            )
        return record.cid

    async def _require_on_offer(self, content_id: ContentId, requester: Address) -> None:
        """Raise LicenseError if nobody can acquire a grant: to no work, or to a withdrawn one."""
        content = await self._chain.content(content_id)
        if content is None:
            raise LicenseError(f"there is no work {content_id}: check the id")
        if content.withdrawn_at:
            raise NoLiveGrant(
                f"{requester} has no live grant to work {content_id}, which was withdrawn: it "
                "grants no new licenses, and its key is not given",
                contents=[int(content_id)],
            )

    async def _adapter(self, adapter_id: AdapterId, requester: Address) -> Cid:
        state = await self._chain.adapter(adapter_id)
        if state is None:
            raise UnknownAdapter(
                f"adapter {adapter_id} is not registered or not confirmed yet: check the id, or "
                "try again later"
            )
        reason = (await self._chain.servable(adapter_id, requester)).reason
        if reason is not None:
            raise AdapterNotServable(f"{requester} may not serve adapter {adapter_id}: {reason}")
        return state.cid


def work_id(number: int) -> ContentId:
    """Return a work's id as given by a stranger; raise LicenseError if no work can have it."""
    if not 0 < number <= JSON_INTEGER_MAX:
        raise LicenseError(f"there is no work {number}: check the id")
    return ContentId(number)
