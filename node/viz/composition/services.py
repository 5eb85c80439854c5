"""Build the services of one node over its backends, and list the loops that they need.

``build_services`` is the only place that connects services to each other. It uses the backends only
through their Protocols, so the HTTP tests run the same code over fakes. ``viz.backends`` chooses
the class for each Protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from viz.api.context import NodeContext, NodeTerms
from viz.composition.market import MarketServices, build_market
from viz.composition.payments import PaymentServices, build_payments
from viz.composition.settings import Backends, ServiceSettings, TrainingQueueSettings
from viz.domain.eip712 import Domain, settlement_domain
from viz.services.adapters.publishing import Publishing
from viz.services.custody.custodian import Custodian
from viz.services.licensing.license_documents import LicenseDocuments
from viz.services.licensing.licensed_works import LicensedWorks
from viz.services.licensing.licensing import Licensing
from viz.services.market.announcing import Announcing
from viz.services.market.discovery import Discovery
from viz.services.market.listings import Listings
from viz.services.payments.channel_events import ChannelEvents
from viz.services.payments.channels import ChannelStore
from viz.services.payments.freshness import ChainAccess
from viz.services.payments.metering import MeterTools
from viz.services.payments.quotes import Quotes
from viz.services.payments.receipt_periods import ReceiptPeriods
from viz.services.payments.receipts import bill_interrupted
from viz.services.serving.admission import Admission
from viz.services.serving.catalogue import Catalogue
from viz.services.serving.offering import Offering
from viz.services.settlement.claim_loop import ClaimService
from viz.services.settlement.payouts import Payouts
from viz.services.settlement.reconciliation import Reconciliation
from viz.services.training.provenance import ProvenanceDocuments
from viz.services.training.publisher import RunPublisher
from viz.services.training.queue import TrainingQueue, seal_with
from viz.services.upkeep.clock_check import ClockCheck, plausible_time
from viz.services.upkeep.maintenance import Maintenance
from viz.services.upkeep.supervision import Supervisor
from viz.services.withdrawal.custody_end import CustodyEnding
from viz.services.withdrawal.destruction import WorkDestruction
from viz.services.withdrawal.notices import Notices
from viz.services.withdrawal.withdrawal_watch import WithdrawalWatch

LoopFunction = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one node, connected to each other."""

    channels: ChannelStore
    catalogue: Catalogue
    claims: ClaimService
    payouts: Payouts
    payments: PaymentServices
    meter_tools: MeterTools
    serving: Admission
    licensing: Licensing
    license_documents: LicenseDocuments
    listings: Listings
    discovery: Discovery
    announcing: Announcing
    custodian: Custodian
    custody_ending: CustodyEnding
    licensed_works: LicensedWorks
    publishing: Publishing
    offering: Offering
    trainings: TrainingQueue
    publisher: RunPublisher
    reconciliation: Reconciliation
    clock_check: ClockCheck
    maintenance: Maintenance
    supervisor: Supervisor
    withdrawals: WithdrawalWatch
    destruction: WorkDestruction
    provenance: ProvenanceDocuments
    receipt_periods: ReceiptPeriods
    notices: Notices


def build_services(backends: Backends, settings: ServiceSettings) -> Services:
    """Create and connect all services; nothing is read, written or started yet."""
    ledger, chain, writer = backends.ledger, backends.chain, backends.writer
    engines, clock, node = backends.engines, backends.clock, writer.address
    # Shared, so that after a failure of the chain not every reader waits for its own timeout.
    access = ChainAccess(clock)
    events = ChannelEvents()
    chain_time = plausible_time(chain.chain_time, clock, development=settings.development)
    channels = ChannelStore(
        ledger, chain, clock, node, events=events, access=access, chain_time=chain_time
    )
    notices = Notices(ledger, chain, clock, node=node, rule=settings.notices)
    catalogue = Catalogue(
        ledger,
        chain,
        engines,
        clock,
        node=node,
        list_price=settings.list_price,
        base_prices=settings.base_prices,
        access=access,
        notices=notices,
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
    payments = build_payments(
        backends,
        settings,
        channels,
        claimer=claims,
        adapters=catalogue,
        chain_time=chain_time,
        require_clock=clock_check.require,
    )
    meter_tools = _meter_tools(backends, settings, channels)
    trainings = _training_queue(backends, settings.training)
    market = build_market(backends, settings, catalogue)
    licenses = LicenseDocuments(
        settings.licenses_dir, chain, market.listings, origin=settings.sessions.origin
    )
    offering = Offering(market.publishing, catalogue, ledger, clock, manifests=market.manifests)
    return Services(
        channels=channels,
        catalogue=catalogue,
        claims=claims,
        payouts=Payouts(chain, writer),
        payments=payments,
        meter_tools=meter_tools,
        serving=_admission(backends, settings, channels, catalogue, meter_tools),
        licensing=_licensing(backends, settings),
        license_documents=licenses,
        listings=market.listings,
        discovery=market.discovery,
        announcing=market.announcing,
        custodian=market.custodian,
        custody_ending=market.custody_ending,
        licensed_works=market.licensed_works,
        publishing=market.publishing,
        offering=offering,
        trainings=trainings,
        publisher=_publisher(
            backends,
            settings.training,
            trainings,
            market=market,
            offering=offering,
            catalogue=catalogue,
        ),
        reconciliation=Reconciliation(
            ledger, chain, clock, node, events=events, interval_s=settings.compare_interval_s
        ),
        clock_check=clock_check,
        maintenance=Maintenance(ledger, clock),
        supervisor=Supervisor(clock),
        withdrawals=_withdrawals(backends, market, catalogue, trainings),
        destruction=market.destruction,
        provenance=ProvenanceDocuments(
            chain,
            trainings,
            licenses,
            market.listings,
            market.manifests,
            served=lambda: catalogue.known,
            origin=settings.sessions.origin,
        ),
        receipt_periods=_receipt_periods(backends, settings),
        notices=notices,
    )


def _licensing(backends: Backends, settings: ServiceSettings) -> Licensing:
    return Licensing(
        backends.chain,
        backends.writer,
        backends.clock,
        relays=settings.registrations,
        fee_wei=backends.chain.fee_wei,
    )


def _withdrawals(
    backends: Backends, market: MarketServices, catalogue: Catalogue, trainings: TrainingQueue
) -> WithdrawalWatch:
    return WithdrawalWatch(
        backends.chain,
        backends.writer,
        catalogue,
        trainings,
        destruction=market.destruction,
        kept=market.kept_adapters,
    )


def _receipt_periods(backends: Backends, settings: ServiceSettings) -> ReceiptPeriods:
    return ReceiptPeriods(
        backends.ledger,
        backends.blobs,
        backends.clock,
        settings.receipts_dir,
        key=backends.key,
        domain=_domain(backends),
        node=backends.writer.address,
    )


def _domain(backends: Backends) -> Domain:
    deployment = backends.chain.deployment
    return settlement_domain(deployment.chain_id, deployment.settlement)


def _meter_tools(
    backends: Backends, settings: ServiceSettings, channels: ChannelStore
) -> MeterTools:
    return MeterTools(
        channels,
        backends.clock,
        _domain(backends),
        backends.writer.address,
        backends.key,
        settings.credit_window_units,
    )


def _admission(
    backends: Backends,
    settings: ServiceSettings,
    channels: ChannelStore,
    catalogue: Catalogue,
    tools: MeterTools,
) -> Admission:
    return Admission(
        channels,
        catalogue,
        quotes=_quotes(backends, settings),
        tools=tools,
        clock=backends.clock,
        policy=settings.serving,
    )


def _quotes(backends: Backends, settings: ServiceSettings) -> Quotes:
    return Quotes(
        _domain(backends),
        backends.writer.address,
        backends.key,
        backends.clock,
        valid_s=settings.quote_valid_s,
    )


def _training_queue(backends: Backends, settings: TrainingQueueSettings) -> TrainingQueue:
    return TrainingQueue(
        backends.chain,
        backends.ledger,
        backends.clock,
        backends.writer.address,
        seal_with(backends.key),
        directory=settings.directory,
        cache_dir=settings.cache_dir,
        threads=settings.threads,
        device=settings.device,
        bounds=settings.bounds,
        bases=[engine.model for engine in backends.engines],
    )


def _publisher(
    backends: Backends,
    settings: TrainingQueueSettings,
    trainings: TrainingQueue,
    *,
    market: MarketServices,
    offering: Offering,
    catalogue: Catalogue,
) -> RunPublisher:
    return RunPublisher(
        trainings,
        backends.ledger,
        market.publishing,
        offering,
        catalogue,
        directory=settings.directory,
        least_percent=settings.least_percent,
    )


async def restore(backends: Backends, services: Services) -> None:
    """Restore the state of an earlier process from the ledger; call it before serving.

    Bills come first: a request that was interrupted by a kill is billed for what was sent, before
    anything is sold on its channel again.
    """
    await bill_interrupted(services.meter_tools, backends.ledger)
    await services.notices.restore()
    await services.catalogue.restore(services.publishing.weights)
    services.payments.vouchers.remember(await backends.ledger.channels())


def loops(services: Services) -> dict[str, LoopFunction]:
    """Return the loops to run until the node stops, by their names in the log."""
    return {
        "books": services.channels.run,
        "settlement": services.claims.run,
        "training": services.trainings.run,
        "publication": services.publisher.run,
        "housekeeping": services.maintenance.run,
        "watchdog": services.reconciliation.run,
        "clock": services.clock_check.run,
        "withdrawals": services.withdrawals.run,
        "listings": services.listings.run,
        "discovery": services.discovery.run,
        "announcement": services.announcing.run,
        "receipts": services.receipt_periods.run,
    }


def node_context(backends: Backends, services: Services, terms: NodeTerms) -> NodeContext:
    """Return what the HTTP handlers use of the node."""
    return NodeContext(
        sessions=services.payments.sessions,
        vouchers=services.payments.vouchers,
        deposit_relay=services.payments.deposit_relay,
        channel_close=services.payments.channel_close,
        serving=services.serving,
        catalogue=services.catalogue,
        ledger=backends.ledger,
        chain=backends.chain,
        engines=backends.engines,
        blobs=backends.blobs,
        licensing=services.licensing,
        license_documents=services.license_documents,
        listings=services.listings,
        discovery=services.discovery,
        announcing=services.announcing,
        custodian=services.custodian,
        custody_ending=services.custody_ending,
        licensed_works=services.licensed_works,
        destruction=services.destruction,
        publishing=services.publishing,
        offering=services.offering,
        settlement=services.claims,
        payouts=services.payouts,
        clock=backends.clock,
        terms=terms,
        reconciliation=services.reconciliation,
        trainings=services.trainings,
        publisher=services.publisher,
        clock_check=services.clock_check,
        supervisor=services.supervisor,
        provenance=services.provenance,
        receipt_periods=services.receipt_periods,
        notices=services.notices,
    )
