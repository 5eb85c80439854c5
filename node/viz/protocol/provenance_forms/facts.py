"""Collect the statements about an adapter's training: manifest, chain, and license documents.

Invariant: each statement keeps its source. The trainer signed the manifest, the contracts hold
shares and grants, and a licensor wrote the license document whose hash is on the chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from viz.domain.manifest import Manifest, SourceWork
from viz.domain.ports.chain import AcquiredGrant, AdapterState, ContentState, Deployment
from viz.domain.units import AdapterId, ContentId, Hash32
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_forms.facts import ACQUIRED
from viz.protocol.wire import Json

PROVENANCE_PATH: Final = "/viz/v1/adapters/{adapter_id}/provenance"
NOT_STATED: Final = "not stated: no license document of the grant is kept at this node"


def provenance_path(adapter_id: AdapterId) -> str:
    """Return the path at which a node answers an adapter's provenance."""
    return PROVENANCE_PATH.format(adapter_id=int(adapter_id))


@dataclass(frozen=True, slots=True)
class AcquiredWork:
    """A work of an adapter: what the manifest, the chain and its license say.

    ``share_bps`` is the work's part of the royalties. ``grant`` is the trainer's grant, and
    ``license_hash`` the hash of its license; None if the chain has none. ``document`` has that
    hash. ``is_public``: the document is served to anybody, and not only stored here.
    """

    source: SourceWork
    share_bps: int
    state: ContentState
    grant: AcquiredGrant | None = None
    license_hash: Hash32 | None = None
    document: LicenseDocument | None = None
    is_public: bool = False

    @property
    def content_id(self) -> ContentId:
        return self.source.content_id

    @property
    def title(self) -> str:
        """The title in the license document, or the work's id."""
        return self.document.work.title if self.document else f"work {self.content_id}"

    @property
    def acquired(self) -> str:
        """How the licensor came to have the rights, in words."""
        return ACQUIRED[self.document.work.acquired] if self.document else NOT_STATED


@dataclass(frozen=True, slots=True)
class AdapterProvenance:
    """An adapter with the manifest that its registration names, and its works in order.

    ``origin`` is the node's own; ``name`` is the trainer's claim.
    """

    adapter: AdapterState
    manifest: Manifest
    envelope: bytes
    works: Sequence[AcquiredWork]
    deployment: Deployment
    origin: str
    name: str = ""

    @property
    def urn(self) -> str:
        """A global name of the adapter (CAIP-10 names the registry)."""
        where = self.deployment
        registry = f"eip155:{where.chain_id}:{where.adapter_registry}"
        return f"urn:viz:adapter:{registry}:{int(self.adapter.adapter_id)}"

    @property
    def tokens(self) -> int:
        """The total tokens of the works, in the base model's tokenisation."""
        return sum(work.source.tokens for work in self.works)

    def url(self, form: str) -> str:
        """Return the URL of one form."""
        return f"{self.origin}{provenance_path(self.adapter.adapter_id)}/{form}"

    def license_url(self, work: AcquiredWork) -> str:
        """Return where this node answers the license of a work, if it is its custodian."""
        return f"{self.origin}/license/{int(work.content_id)}"


def forms_to_json(provenance: AdapterProvenance, forms: Mapping[str, str]) -> Json:
    """Return the answer that lists the forms, each with its media type and address."""
    return {
        "adapterId": int(provenance.adapter.adapter_id),
        "forms": [
            {"form": name, "mediaType": media_type, "url": provenance.url(name)}
            for name, media_type in forms.items()
        ],
    }
