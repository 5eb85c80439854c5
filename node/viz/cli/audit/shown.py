"""Read what a node shows of its offers besides its description, for `viz audit node`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from viz.audit.offer_audit import ShownLicense
from viz.cli.http import get_as, get_bytes
from viz.domain.units import AdapterId, ContentId
from viz.protocol.answers import no_answer
from viz.protocol.license_document.reading import license_from_values
from viz.protocol.messages import MAX_ADAPTERS, AdapterOffer
from viz.protocol.payment import MODELS_PATH
from viz.protocol.provenance_forms.facts import provenance_path


class NodeShows:
    """The licenses, manifests and models of one node, by its URL."""

    def __init__(self, node_url: str) -> None:
        self._node = node_url

    async def license_at(self, content_id: ContentId) -> ShownLicense:
        """Return what the node shows as the license of a work."""
        said = await get_as(license_from_values, self._node, f"/license/{content_id}")
        return ShownLicense(said.license_hash, said.work.title)

    async def manifest_at(self, adapter_id: AdapterId) -> bytes:
        """Return what the node shows as an adapter's signed manifest."""
        return await get_bytes(self._node, provenance_path(adapter_id) + "/manifest")

    async def listed(self) -> Sequence[AdapterOffer]:
        """Return the offers as every OpenAI client reads them."""
        return await get_as(_offers, self._node, MODELS_PATH)


def _offers(value: dict[str, Any]) -> list[AdapterOffer]:
    entries = value.get("data")
    if not isinstance(entries, list) or len(entries) > MAX_ADAPTERS:
        raise no_answer(f"its data is not a list of at most {MAX_ADAPTERS} models")
    return [
        AdapterOffer.from_json(each.get("viz") if isinstance(each, dict) else None, "a model")
        for each in entries
    ]
