"""Build the services for works and adapters: licensing, custody, publishing and the market."""

from __future__ import annotations

from dataclasses import dataclass

from viz.composition.settings import Backends, ServiceSettings
from viz.domain.eip712 import settlement_domain
from viz.services.adapters.manifests import Manifests
from viz.services.adapters.publishing import Publishing
from viz.services.adapters.sealed_weights import SealedWeights
from viz.services.custody.custodian import Custodian, CustodianIdentity
from viz.services.custody.key_requests import KeyRequests
from viz.services.licensing.creator_relay import CreatorRelay
from viz.services.licensing.grants import Grants
from viz.services.licensing.license_documents import LicenseDocuments
from viz.services.licensing.licensed_works import LicensedWorks
from viz.services.market.announcing import Announcing
from viz.services.market.discovery import Discovery
from viz.services.market.listings import Listings
from viz.services.serving.catalogue import Catalogue
from viz.services.serving.own_offers import own_offers
from viz.services.training.destroying import build_destruction
from viz.services.withdrawal.adapter_holdings import AdapterHoldings
from viz.services.withdrawal.custody_end import CustodyEnding
from viz.services.withdrawal.destruction import WorkDestruction
from viz.storage.sealing import recipient_of


@dataclass(frozen=True, slots=True)
class WorkServices:
    """A node's services for works, adapters and other nodes."""

    creator_relay: CreatorRelay
    grants: Grants
    license_documents: LicenseDocuments
    listings: Listings
    custodian: Custodian
    custody_ending: CustodyEnding
    licensed_works: LicensedWorks
    destruction: WorkDestruction
    kept_adapters: AdapterHoldings
    publishing: Publishing
    discovery: Discovery
    announcing: Announcing
    manifests: Manifests


def build_works(
    backends: Backends, settings: ServiceSettings, catalogue: Catalogue
) -> WorkServices:
    """Create and connect these services; nothing is read, written or started yet."""
    ledger, chain, clock = backends.ledger, backends.chain, backends.clock
    key, node, network = backends.key, backends.writer.address, settings.network
    listings = Listings(ledger, chain, clock)
    custodian = Custodian(
        chain,
        ledger,
        backends.keys,
        backends.blobs,
        clock,
        identity=CustodianIdentity(node, settings.sessions.origin, backends.age_identity),
        policy=settings.custody,
        directory=settings.sealed_dir,
    )
    requests = KeyRequests(
        backends.peers,
        chain.deployment,
        node=node,
        key=key,
        age_identity=backends.age_identity,
    )
    works = LicensedWorks(
        chain,
        listings,
        custodian,
        requests,
        backends.sources,
        peers=backends.peers,
        node=node,
        directory=settings.works_dir,
    )
    kept = AdapterHoldings(ledger, backends.blobs, backends.keys, settings.adapters_dir)
    destruction = build_destruction(
        settings.destruction,
        ledger,
        backends.blobs,
        backends.keys,
        works,
        adapters=kept,
        key=key,
        domain=settlement_domain(chain.deployment.chain_id, chain.deployment.settlement),
        node=node,
    )
    return WorkServices(
        creator_relay=CreatorRelay(
            chain,
            backends.writer,
            clock,
            relays=settings.registrations,
            fee_wei=chain.fee_wei,
        ),
        grants=Grants(chain, backends.writer),
        license_documents=LicenseDocuments(
            settings.licenses_dir, chain, listings, origin=settings.sessions.origin
        ),
        listings=listings,
        custodian=custodian,
        custody_ending=CustodyEnding(chain, custodian, destruction),
        licensed_works=works,
        destruction=destruction,
        kept_adapters=kept,
        publishing=_publishing(backends, settings, custodian, requests),
        discovery=Discovery(
            chain,
            backends.peers,
            clock,
            listings,
            known=own_offers(backends.engines, catalogue, clock, node=node, origin=network.origin),
            own=node,
            interval_s=network.discover_s,
        ),
        manifests=Manifests(chain, backends.peers, clock, settings.manifests_dir, node=node),
        announcing=Announcing(
            chain,
            backends.writer,
            public_url=network.public_url,
            age_key=recipient_of(backends.age_identity),
            private_addresses=network.private_addresses,
        ),
    )


def _publishing(
    backends: Backends, settings: ServiceSettings, custodian: Custodian, requests: KeyRequests
) -> Publishing:
    sealed = SealedWeights(
        backends.chain,
        backends.blobs,
        backends.sources,
        custodian,
        requests,
        node=backends.writer.address,
        directory=settings.sealed_dir,
        max_bytes=settings.max_blob_bytes,
    )
    return Publishing(
        backends.chain, backends.writer, sealed, settings.adapters_dir, engines=backends.engines
    )
