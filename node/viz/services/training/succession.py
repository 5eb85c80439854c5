"""Plan the successor of an adapter: a training on those of its works that may still be used.

Owns which works are left out: those whose grant no longer permits a new adapter, and those whose
withdrawal retires adapters. Which works an adapter has is read from the chain: the records of its
run lose what they say of a work when that is destroyed. Trains nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

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

    Before the adapter's end and after it. Raises UnknownAdapter, InvalidRequest if the adapter was
    not trained here, a work's file is not known, or all its works may still be used, LicenseError
    if no work is left.
    """
    state = await chain.adapter(adapter_id)
    if state is None:
        raise UnknownAdapter(f"adapter {adapter_id} is not registered: check the id")
    digest = hex_of(state.weights_digest)
    found = [r for r in await ledger.trainings() if r.result.get("weightsDigest") == digest]
    if not found:
        raise InvalidRequest(f"adapter {adapter_id} was not trained here, {_BY_HAND}")
    left, without = list[ContentId](), list[ContentId]()
    for content_id, _ in state.shares:
        may_stay = await _may_stay(content_id, chain, trainer)
        (left if may_stay else without).append(content_id)
    if not without:
        raise InvalidRequest(
            f"every work of adapter {adapter_id} may still be used: it needs no successor"
        )
    if not left:
        raise LicenseError(
            f"no work of adapter {adapter_id} may still be used, so it can have no successor"
        )
    works = await asyncio.to_thread(_works_of, found)
    if unknown := [content_id for content_id in left if content_id not in works]:
        named = ", ".join(map(str, unknown))
        raise InvalidRequest(f"this node has no record of the file of work {named}, {_BY_HAND}")
    request = _request(found[-1], [works[content_id] for content_id in left])
    return Succession(
        request | {"base": hex_of(state.base_model)},
        state.royalty_bps,
        state.trainer_bps,
        tuple(without),
    )


_BY_HAND: Final = (
    "so what to train on is not known: train the successor with `viz train`, and publish it with "
    "--succeeds"
)


def _works_of(records: Sequence[TrainingRecord]) -> dict[ContentId, dict[str, Any]]:
    """Return the works of runs with the same weights, as the newest record has them. Blocks."""
    return {content_id: dict(work) for record in records for content_id, work in run_works(record)}


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
