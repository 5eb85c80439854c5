"""Put a registered adapter on offer: load it, and sell it under a name and at prices.

Owns the defaults of an offer: an adapter that was on offer keeps its values; a new adapter that was
trained here gets the name, the works' titles and the report card of its training.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from viz.domain.card import ReportCard, card_of
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import AdapterRecord, Ledger, OfferedWork
from viz.domain.units import AdapterId, ContentId, Hash32, Units, hex_of
from viz.protocol.messages import AdapterOffer, unnamed
from viz.protocol.wire import MAX_TEXT_CHARS
from viz.services.adapters.manifests import Manifests
from viz.services.adapters.publishing import Publishing
from viz.services.serving.catalogue import Catalogue
from viz.services.work_records import titles_of

_NAMED: Final = (
    "name",
    "description",
    "prompt_units_per_million",
    "completion_units_per_million",
)


@dataclass(frozen=True, slots=True)
class OfferTerms:
    """How an adapter is to be sold; None keeps the former value or takes the node's default."""

    name: str | None = None
    description: str | None = None
    prompt_units_per_million: Units | None = None
    completion_units_per_million: Units | None = None
    titles: Mapping[ContentId, str] = field(default_factory=dict)


class Offering:
    """Puts one node's adapters on offer."""

    def __init__(
        self,
        publishing: Publishing,
        catalogue: Catalogue,
        ledger: Ledger,
        clock: Clock,
        *,
        manifests: Manifests | None = None,
    ) -> None:
        """Create it; ``manifests`` keeps those of adapters that other nodes trained."""
        self._manifests = manifests
        self._publishing, self._catalogue = publishing, catalogue
        self._ledger, self._clock = ledger, clock

    async def put_on_offer(self, adapter_id: AdapterId, terms: OfferTerms) -> AdapterOffer:
        """Load a registered adapter and put it on offer; raise as ``Publishing.activate`` does."""
        state = await self._publishing.activate(adapter_id)
        list_price = self._catalogue.list_price_of(state.base_model)
        fresh = AdapterRecord(
            adapter_id,
            unnamed(adapter_id),
            "",
            state.base_model,
            state.weights_digest,
            state.cid,
            state.manifest_hash,
            str(self._publishing.path_of(state.weights_digest)),
            list_price.prompt_price_units,
            list_price.completion_price_units,
            self._clock.now_s(),
        )
        titles, card, asked = await self._trained_here(state.weights_digest)
        fresh = replace(fresh, **asked)
        for before in await self._ledger.adapters():
            if before.adapter_id == adapter_id:
                kept = {name: getattr(before, name) for name in (*_NAMED, "created_at")}
                fresh = replace(fresh, **kept)
                titles = {work.content_id: work.title for work in before.works} | titles
        titles |= terms.titles
        works = tuple(OfferedWork(key, titles.get(key, "")) for key, _ in state.shares)
        named = {name: getattr(terms, name) for name in _NAMED}
        changed = {name: value for name, value in named.items() if value is not None}
        await self._catalogue.add(replace(fresh, works=works, card=card, **changed))
        if self._manifests is not None:
            # Now, since the trainer's node gave the weights a moment ago; later it may be gone.
            await self._manifests.get(state)
        return self._catalogue.offer(adapter_id)

    async def _trained_here(
        self, weights_digest: Hash32
    ) -> tuple[dict[ContentId, str], ReportCard | None, dict[str, Any]]:
        """Return what is known of an adapter that was trained here.

        That is the titles of its works, its report card, and the name and description in the
        training request.
        """
        found: dict[ContentId, str] = {}
        card: ReportCard | None = None
        asked: dict[str, Any] = {}
        for training in await self._ledger.trainings():
            if training.result.get("weightsDigest") == hex_of(weights_digest):
                found |= await asyncio.to_thread(titles_of, training.request)
                card = card_of(training.result.get("metrics", {})) or card
                given = {name: training.request.get(name) for name in ("name", "description")}
                asked |= {name: str(text)[:MAX_TEXT_CHARS] for name, text in given.items() if text}
        return found, card, asked
