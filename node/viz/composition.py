"""Build the services of one node over its backends, and list the loops that they need.

``build_services`` is the only place that connects services to each other. It uses the backends only
through their Protocols, so the HTTP tests run the same code over fakes. ``viz.backends`` chooses
the class for each Protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from viz.api.context import NodeContext, NodeTerms
from viz.domain.eip712 import settlement_domain
from viz.domain.ports.blobs import BlockStore
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.custody import BlobSources, KeyStore
from viz.domain.ports.engine import Engine
from viz.domain.ports.peers import PeerHttp
from viz.domain.ports.settlement_ledger import Store
from viz.domain.ports.transactions import ChainWriter
from viz.domain.pricing import Price
from viz.domain.units import Units
from viz.services.market.announcing import Announcing
from viz.services.market.custodian import Custodian, CustodianIdentity, CustodyPolicy
from viz.services.market.destruction import WorkDestruction
from viz.services.market.discovery import Discovery
from viz.services.market.key_requests import KeyRequests
from viz.services.market.license_documents import LicenseDocuments
from viz.services.market.licensed_works import LicensedWorks
from viz.services.market.licensing import Licensing
from viz.services.market.listings import Listings
from viz.services.market.publishing import Publishing
from viz.services.market.sealed_weights import SealedWeights
from viz.services.market.withdrawal import WithdrawalWatch
from viz.services.payments.channel_events import ChannelEvents
from viz.services.payments.channels import ChannelStore
from viz.services.payments.freshness import ChainAccess
from viz.services.payments.metering import MeterTools
from viz.services.payments.quotes import Quotes
from viz.services.payments.receipts import bill_interrupted
from viz.services.payments.relay_budget import RelayPolicy
from viz.services.payments.sessions import SessionPolicy, Sessions
from viz.services.serving.admission import Admission
from viz.services.serving.catalogue import Catalogue
from viz.services.serving.own_offers import own_offers
from viz.services.serving.paid_stream import ServingPolicy
from viz.services.settlement.claim_loop import ClaimPolicy, ClaimService
from viz.services.settlement.reconciliation import Reconciliation
from viz.services.training.destroying import DestructionSettings, build_destruction
from viz.services.training.queue import TrainingQueue, seal_with
from viz.services.upkeep.clock_check import ClockCheck, plausible_time
from viz.services.upkeep.maintenance import Maintenance
from viz.services.upkeep.supervision import Supervisor
from viz.storage.sealing import recipient_of
from viz.training.run import Bounds

SUGGESTED_DEPOSIT_UNITS: Final = 1_000_000
LoopFunction = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Backends:
    """The services' connections to the outside.

    ``key`` is the node's private key; keys of sealed blobs for this node are wrapped for
    ``age_identity``.
    """

    ledger: Store
    chain: ChainReader
    writer: ChainWriter
    engine: Engine
    blobs: BlockStore
    keys: KeyStore
    sources: BlobSources
    peers: PeerHttp
    clock: Clock
    key: bytes = field(repr=False)
    age_identity: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TrainingQueueSettings:
    """The directory of training runs, their base model, and their bounds.

    ``least_percent`` is the percentages that an adapter needs to be sold: questions answered right,
    and general questions still answered right.
    """

    directory: Path
    base_model: str
    cache_dir: Path
    threads: int
    bounds: Bounds
    least_percent: tuple[int, int]


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How others reach this node, and which addresses it asks.

    ``origin`` is what buyers sign for. ``public_url`` is announced at the start; if it is empty,
    nothing is. ``discover_s`` is the time between two rounds over the directory.
    """

    origin: str
    public_url: str = ""
    private_addresses: bool = False
    discover_s: float = 300.0


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """The operator's terms and bounds, as the services need them.

    ``registrations`` is None if the node relays no registrations. ``adapters_dir`` holds the plain
    weights of active adapters, ``licenses_dir`` the license documents to serve, ``works_dir`` the
    opened works that are licensed, ``sealed_dir`` sealed blobs on their way. ``development``: the
    chain is one whose time can be moved.
    """

    sessions: SessionPolicy
    serving: ServingPolicy
    claims: ClaimPolicy
    registrations: RelayPolicy | None
    list_price: Price
    credit_window_units: Units
    quote_valid_s: int
    compare_interval_s: float
    adapters_dir: Path
    licenses_dir: Path
    works_dir: Path
    sealed_dir: Path
    custody: CustodyPolicy
    destruction: DestructionSettings
    max_blob_bytes: int
    training: TrainingQueueSettings
    network: NetworkSettings
    development: bool


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one node, connected to each other."""

    channels: ChannelStore
    catalogue: Catalogue
    claims: ClaimService
    sessions: Sessions
    meter_tools: MeterTools
    serving: Admission
    licensing: Licensing
    license_documents: LicenseDocuments
    listings: Listings
    discovery: Discovery
    announcing: Announcing
    custodian: Custodian
    licensed_works: LicensedWorks
    publishing: Publishing
    trainings: TrainingQueue
    reconciliation: Reconciliation
    clock_check: ClockCheck
    maintenance: Maintenance
    supervisor: Supervisor
    withdrawals: WithdrawalWatch
    destruction: WorkDestruction


def build_services(backends: Backends, settings: ServiceSettings) -> Services:
    """Create and connect all services; nothing is read, written or started yet."""
    ledger, chain, writer = backends.ledger, backends.chain, backends.writer
    engine, clock, key, node = backends.engine, backends.clock, backends.key, writer.address
    domain = settlement_domain(chain.deployment.chain_id, chain.deployment.settlement)
    # Shared: after the chain failed for one reader, the others do not wait for the same failure.
    access = ChainAccess(clock)
    events = ChannelEvents()
    chain_time = plausible_time(chain.chain_time, clock, development=settings.development)
    channels = ChannelStore(
        ledger, chain, clock, node, events=events, access=access, chain_time=chain_time
    )
    catalogue = Catalogue(
        ledger, chain, engine, clock, node=node, list_price=settings.list_price, access=access
    )
    claims = ClaimService(
        chain,
        writer,
        ledger,
        clock,
        settings.claims,
        events=events,
        fee_wei=chain.fee_wei,
        claim_by=catalogue.claim_by,
    )
    clock_check = ClockCheck(
        chain.next_block_time_s, chain.chain_time, clock, development=settings.development
    )
    sessions = Sessions(
        channels,
        ledger,
        chain,
        writer,
        claimer=claims,
        adapters=catalogue,
        clock=clock,
        key=key,
        policy=replace(settings.sessions, fee_wei=chain.fee_wei, require_clock=clock_check.require),
        chain_time=chain_time,
    )
    meter_tools = MeterTools(
        channels,
        clock,
        domain,
        node,
        key,
        engine.count_tokens,
        settings.credit_window_units,
        parts_at_spaces=engine.model.parts_at_spaces,
    )
    quotes = Quotes(
        domain,
        node,
        key,
        clock,
        tokenizer_digest=engine.model.tokenizer_digest,
        valid_s=settings.quote_valid_s,
    )
    trainings = _training_queue(backends, settings.training)
    listings, network = Listings(ledger, chain, clock), settings.network
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
    destruction = build_destruction(
        settings.destruction,
        ledger,
        backends.blobs,
        backends.keys,
        works,
        key=key,
        domain=domain,
        node=node,
    )
    return Services(
        channels=channels,
        catalogue=catalogue,
        claims=claims,
        sessions=sessions,
        meter_tools=meter_tools,
        serving=Admission(
            channels,
            catalogue,
            engine,
            quotes=quotes,
            tools=meter_tools,
            clock=clock,
            policy=settings.serving,
        ),
        licensing=Licensing(
            chain, writer, clock, relays=settings.registrations, fee_wei=chain.fee_wei
        ),
        license_documents=LicenseDocuments(settings.licenses_dir, chain, settings.sessions.origin),
        listings=listings,
        discovery=Discovery(
            chain,
            backends.peers,
            clock,
            listings,
            known=own_offers(engine, catalogue, clock, node=node, origin=network.origin),
            own=node,
            interval_s=network.discover_s,
        ),
        announcing=Announcing(
            chain,
            writer,
            public_url=network.public_url,
            age_key=recipient_of(backends.age_identity),
            private_addresses=network.private_addresses,
        ),
        custodian=custodian,
        licensed_works=works,
        publishing=Publishing(
            chain,
            writer,
            SealedWeights(
                chain,
                backends.blobs,
                backends.sources,
                custodian,
                requests,
                node=node,
                directory=settings.sealed_dir,
                max_bytes=settings.max_blob_bytes,
            ),
            settings.adapters_dir,
            engine=engine,
        ),
        trainings=trainings,
        reconciliation=Reconciliation(
            ledger, chain, clock, node, events=events, interval_s=settings.compare_interval_s
        ),
        clock_check=clock_check,
        maintenance=Maintenance(ledger, clock),
        supervisor=Supervisor(clock),
        withdrawals=WithdrawalWatch(chain, writer, catalogue, trainings, destruction),
        destruction=destruction,
    )


def _training_queue(backends: Backends, settings: TrainingQueueSettings) -> TrainingQueue:
    return TrainingQueue(
        backends.chain,
        backends.ledger,
        backends.clock,
        backends.writer.address,
        seal_with(backends.key),
        directory=settings.directory,
        base_model=settings.base_model,
        cache_dir=settings.cache_dir,
        threads=settings.threads,
        bounds=settings.bounds,
        least_percent=settings.least_percent,
    )


async def restore(backends: Backends, services: Services) -> None:
    """Restore the state of an earlier process from the ledger; call it before serving.

    Bills come first: a request that was interrupted by a kill is billed for what was sent, before
    anything is sold on its channel again.
    """
    await bill_interrupted(services.meter_tools, backends.ledger)
    await services.catalogue.restore(services.publishing.weights)
    services.sessions.remember(await backends.ledger.channels())


def loops(services: Services) -> dict[str, LoopFunction]:
    """Return the loops to run until the node stops, by their names in the log."""
    return {
        "books": services.channels.run,
        "settlement": services.claims.run,
        "training": services.trainings.run,
        "housekeeping": services.maintenance.run,
        "watchdog": services.reconciliation.run,
        "clock": services.clock_check.run,
        "withdrawals": services.withdrawals.run,
        "listings": services.listings.run,
        "discovery": services.discovery.run,
        "announcement": services.announcing.run,
    }


def node_context(backends: Backends, services: Services, terms: NodeTerms) -> NodeContext:
    """Return what the HTTP handlers use of the node."""
    return NodeContext(
        sessions=services.sessions,
        serving=services.serving,
        catalogue=services.catalogue,
        ledger=backends.ledger,
        chain=backends.chain,
        engine=backends.engine,
        blobs=backends.blobs,
        licensing=services.licensing,
        license_documents=services.license_documents,
        listings=services.listings,
        discovery=services.discovery,
        announcing=services.announcing,
        custodian=services.custodian,
        licensed_works=services.licensed_works,
        destruction=services.destruction,
        publishing=services.publishing,
        settlement=services.claims,
        clock=backends.clock,
        terms=terms,
        reconciliation=services.reconciliation,
        trainings=services.trainings,
        clock_check=services.clock_check,
        supervisor=services.supervisor,
    )
