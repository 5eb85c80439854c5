"""End the custody of a work if its owner asks for it: destroy key and sealed work here.

If the node is killed meanwhile, a second request continues; a later one gets the same certificate.
What the node has under a grant of its own stays until the license ends that use
(``viz.services.withdrawal.withdrawal_watch``).
"""

from __future__ import annotations

import structlog

from viz.domain.ports.chain import ChainReader
from viz.domain.ports.holdings import EndedUse
from viz.errors import KeyUnknown, StorageUnavailable
from viz.protocol.custody import SignedEndCustody
from viz.protocol.destruction import DestructionCertificate
from viz.services.custody.custodian import Custodian
from viz.services.withdrawal.destruction import WorkDestruction

_log = structlog.get_logger()


class CustodyEnding:
    """Ends custody at one node."""

    def __init__(
        self, chain: ChainReader, custodian: Custodian, destruction: WorkDestruction
    ) -> None:
        self._chain = chain
        self._custodian, self._destruction = custodian, destruction

    async def end(self, asked: SignedEndCustody) -> DestructionCertificate:
        """Destroy the work's key and sealed bytes here; return the node's certificate of that.

        A repetition changes nothing and returns the last certificate. Raises WrongDomain,
        AccessTokenInvalid, InvalidSignature, LicenseError for a work that is not registered,
        InvalidRequest while the work is being handed over, KeyUnknown if it never was in custody
        here, StorageUnavailable if something could not be destroyed yet, StoreError,
        ChainUnreachable.
        """
        content = await self._custodian.require_end(asked.end_custody, asked.signature)
        content_id = content.content_id
        with self._custodian.changing(content_id):
            now_s = await self._chain.chain_time()
            use = EndedUse(content_id, custody=True, by_owner=True)
            made = await self._destruction.destroy(
                use, withdrawn_at_s=content.withdrawn_at, due_at_s=now_s, time_s=now_s
            )
            if await self._destruction.has_any(use):
                raise StorageUnavailable(
                    f"not all of work {content_id} could be destroyed here: ask again; the node's "
                    "log says why"
                )
        if made is not None:
            _log.info("custody ended by the owner", content_id=content_id, owner=content.owner)
            return made
        certificates = await self._destruction.certificates(content_id)
        if not certificates:
            raise KeyUnknown(
                f"work {content_id} is not in custody here, and never was destroyed here"
            )
        return certificates[-1]
