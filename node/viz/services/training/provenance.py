"""Gather an adapter's provenance: the signed manifest, its works' grants and their licenses.

Owns the search for license documents. Invariants: a manifest is used only if the chain names its
hash; a license document only if it hashes to the license of the grant. The manifest of an adapter
that was trained elsewhere is that of its trainer's node, if the adapter is served here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from viz.domain.manifest import SourceWork, open_manifest
from viz.domain.ports.chain import AcquiredGrant, AdapterState, ChainReader
from viz.domain.ports.ledger import TrainingRecord
from viz.domain.units import AdapterId, ContentId, Hash32, hex_of
from viz.errors import (
    ChainUnreachable,
    InvalidLicense,
    ListingUnknown,
    ProvenanceUnknown,
    UnknownAdapter,
    VizError,
)
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.license_document.reading import is_license_document, license_from_values
from viz.protocol.provenance_forms.catalogue import write_form
from viz.protocol.provenance_forms.facts import AcquiredWork, AdapterProvenance
from viz.services.adapters.manifests import Manifests
from viz.services.licensing.license_documents import LicenseDocuments
from viz.services.market.listings import Listings
from viz.services.training.holdings import run_works
from viz.services.training.queue import ManifestFile, TrainingQueue
from viz.services.work_records import load_record

# The grants under which an adapter was registered never change.
GRANTS_KEPT: Final = 256
FORMS_KEPT: Final = 64
READS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class _KeptDocument:
    document: LicenseDocument
    is_public: bool


class ProvenanceDocuments:
    """Answer the provenance of adapters that were trained at this node, or are served here."""

    def __init__(
        self,
        chain: ChainReader,
        trainings: TrainingQueue,
        licenses: LicenseDocuments,
        listings: Listings,
        manifests: Manifests,
        *,
        served: Callable[[], Container[AdapterId]],
        origin: str,
    ) -> None:
        """``origin`` is this node's public origin, for the links between the forms.

        ``served`` returns the adapters on offer here, whose manifests may be fetched.
        """
        self._manifests, self._served = manifests, served
        self._chain, self._trainings = chain, trainings
        self._licenses, self._listings, self._origin = licenses, listings, origin
        self._grants: OrderedDict[Hash32, Mapping[ContentId, AcquiredGrant]] = OrderedDict()
        self._forms: OrderedDict[tuple[AdapterId, str], tuple[AdapterProvenance, bytes]] = (
            OrderedDict()
        )

    async def get(self, adapter_id: AdapterId) -> AdapterProvenance:
        """Return what is known of an adapter's training.

        Raises UnknownAdapter, ProvenanceUnknown if its manifest is not kept here, InvalidSignature
        and InvalidRequest if what is kept is not the manifest that the chain names,
        ChainUnreachable.
        """
        adapter = await self._chain.adapter(adapter_id)
        if adapter is None:
            raise UnknownAdapter(f"adapter {adapter_id} is not registered: check the id")
        kept = await self._trainings.manifest(adapter.manifest_hash)
        if kept is None and adapter_id in self._served():
            envelope = await self._manifests.get(adapter)
            kept = ManifestFile(envelope) if envelope is not None else None
        if kept is None:
            raise ProvenanceUnknown(
                f"this node does not keep the manifest {hex_of(adapter.manifest_hash)} of adapter "
                f"{adapter_id}: ask the node of its trainer, {adapter.trainer}",
                trainer=adapter.trainer,
            )
        manifest = await asyncio.to_thread(
            open_manifest, kept.envelope, expected_hash=adapter.manifest_hash
        )
        grants = await self._grants_of(adapter)
        shares = dict(adapter.shares)
        works: list[AcquiredWork] = []
        for start in range(0, len(manifest.works), READS_AT_ONCE):
            works += await asyncio.gather(
                *(
                    self._work(source, shares.get(source.content_id, 0), grants, kept.record)
                    for source in manifest.works[start : start + READS_AT_ONCE]
                )
            )
        return AdapterProvenance(
            adapter,
            manifest,
            kept.envelope,
            works,
            self._chain.deployment,
            self._origin,
            _name(kept),
        )

    async def form(self, provenance: AdapterProvenance, name: str) -> bytes:
        """Return one form; it is written again only if the facts have changed.

        Raises KeyError for an unknown form, ConfigError if a library for it is missing.
        """
        key = (provenance.adapter.adapter_id, name)
        kept = self._forms.get(key)
        if kept is None or kept[0] != provenance:
            # The bill's validator takes a tenth of a second.
            kept = (provenance, await asyncio.to_thread(write_form, provenance, name))
            self._forms[key] = kept
            while len(self._forms) > FORMS_KEPT:
                self._forms.popitem(last=False)
        return kept[1]

    async def _grants_of(self, adapter: AdapterState) -> Mapping[ContentId, AcquiredGrant]:
        key = adapter.manifest_hash
        if key not in self._grants:
            found = await self._chain.acquired_grants(adapter)
            self._grants[key] = {grant.content_id: grant for grant in found}
            while len(self._grants) > GRANTS_KEPT:
                self._grants.popitem(last=False)
        return self._grants[key]

    async def _work(
        self,
        source: SourceWork,
        share_bps: int,
        grants: Mapping[ContentId, AcquiredGrant],
        record: TrainingRecord | None,
    ) -> AcquiredWork:
        state = await self._chain.content(source.content_id)
        if state is None:
            raise ChainUnreachable(
                f"the chain's endpoint knows no work {source.content_id} of the manifest: try "
                "again, or use another endpoint"
            )
        grant = grants.get(source.content_id)
        if grant is None:
            return AcquiredWork(source, share_bps, state)
        terms = await self._chain.terms(grant.terms_hash)
        license_hash = terms.license_hash if terms is not None else None
        found = await self._license(source.content_id, license_hash, record)
        if found is None:
            return AcquiredWork(source, share_bps, state, grant, license_hash)
        return AcquiredWork(
            source, share_bps, state, grant, license_hash, found.document, found.is_public
        )

    async def _license(
        self, content_id: ContentId, wanted: Hash32 | None, record: TrainingRecord | None
    ) -> _KeptDocument | None:
        """Return the document with the wanted hash: one that is served, or the trainer's copy."""
        if wanted is None:
            return None
        try:
            document = await self._licenses.kept(content_id)
            if document.license_hash == wanted:
                return _KeptDocument(document, is_public=True)
        except VizError:
            pass  # none is listed here: it may be in a listing
        try:
            signed = await self._listings.get(content_id)
            if (listed := _document(signed.listing.license, wanted)) is not None:
                return _KeptDocument(listed, is_public=True)
        except ListingUnknown:
            pass
        if record is None:
            return None
        for license_values in await asyncio.to_thread(_recorded, record, content_id):
            if (own := _document(license_values, wanted)) is not None:
                return _KeptDocument(own, is_public=False)
        return None


def _document(values: Mapping[str, Any], wanted: Hash32) -> LicenseDocument | None:
    if not is_license_document(values):
        return None
    try:
        document = license_from_values(values)
    except InvalidLicense:
        return None
    return document if document.license_hash == wanted else None


def _recorded(record: TrainingRecord, content_id: ContentId) -> list[Mapping[str, Any]]:
    """Return the license in the registration record beside a work's file. Blocks."""
    found = []
    for named, work in run_works(record):
        if named != content_id:
            continue
        try:
            kept = load_record(Path(str(work.get("path"))))
        except (VizError, OSError):
            continue
        if kept is not None:
            found.append(kept.license)
    return found


def _name(kept: ManifestFile) -> str:
    name = kept.record.request.get("name") if kept.record is not None else ""
    return name if isinstance(name, str) else ""
