"""Plan the successor of an adapter: a training on those of its works that may still be used.

Owns which works are left out: those whose grant no longer permits a new adapter, and those whose
withdrawal retires adapters. Trains nothing; reads the chain and the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from viz.domain.license import RevocationClass
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.ledger import TrainingLedger, TrainingRecord
from viz.domain.units import AdapterId, Address, ContentId, hex_of
from viz.errors import InvalidRequest, LicenseError, UnknownAdapter
from viz.services.training.holdings import run_works


@dataclass(frozen=True, slots=True)
class Succession:
    """The training request, the rates to register the successor with, and the works left out."""

    request: Mapping[str, Any]
    royalty_bps: int
    trainer_bps: int
    without: tuple[ContentId, ...]


async def plan_succession(
    adapter_id: AdapterId, chain: ChainReader, ledger: TrainingLedger, trainer: Address
) -> Succession:
    """Return the plan of an adapter's successor.

    Raises UnknownAdapter, InvalidRequest if the adapter was not trained here or all its works may
    still be used, LicenseError if no work is left.
    """
    state = await chain.adapter(adapter_id)
    if state is None:
        raise UnknownAdapter(f"adapter {adapter_id} is not registered: check the id")
    digest = hex_of(state.weights_digest)
    found = [r for r in await ledger.trainings() if r.result.get("weightsDigest") == digest]
    if not found:
        raise InvalidRequest(
            f"adapter {adapter_id} was not trained here, so its works' files are not known: train "
            "its successor with `viz train`, and publish it with --succeeds"
        )
    works = await asyncio.to_thread(lambda: list(run_works(found[-1])))
    left, without = [], list[ContentId]()
    for content_id, work in works:
        if await _may_stay(content_id, chain, trainer):
            left.append(dict(work))
        else:
            without.append(content_id)
    if not without:
        raise InvalidRequest(
            f"every work of adapter {adapter_id} may still be used: it needs no successor"
        )
    if not left:
        raise LicenseError(f"no work of adapter {adapter_id} may still be used")
    return Succession(
        _request(found[-1], left), state.royalty_bps, state.trainer_bps, tuple(without)
    )


async def _may_stay(content_id: ContentId, chain: ChainReader, trainer: Address) -> bool:
    content = await chain.content(content_id)
    grant = await chain.grant(content_id, trainer)
    if content is None or grant is None or not grant.live:
        return False
    if not content.withdrawn_at:
        return True
    terms = await chain.terms(grant.terms_hash)
    retires = RevocationClass.RETIRE_ADAPTERS
    return terms is not None and terms.terms.revocation_class != retires


def _request(record: TrainingRecord, works: list[dict[str, Any]]) -> dict[str, Any]:
    kept = ("name", "description", "settings")
    named = {name: record.request[name] for name in kept if name in record.request}
    return {"works": works, **named}
