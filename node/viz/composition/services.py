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
from viz.composition.payments import PaymentServices, build_payments
from viz.composition.settings import Backends, ServiceSettings, TrainingQueueSettings
from viz.composition.works import WorkServices, build_works
from viz.domain.eip712 import Domain, settlement_domain
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
    works: WorkServices
    meter_tools: MeterTools
    serving: Admission
    offering: Offering
    trainings: TrainingQueue
    publisher: RunPublisher
    reconciliation: Reconciliation
    clock_check: ClockCheck
    maintenance: Maintenance
    supervisor: Supervisor
    withdrawals: WithdrawalWatch
    provenance: ProvenanceDocuments
    receipt_periods: ReceiptPeriods
    notices: Notices


def build_services(backends: Backends, settings: ServiceSettings) -> Services:
    """Create and connect all services; nothing is read, written or started yet."""
    ledger, chain, writer = backends.ledger, backends.chain, backends.writer
    clock, node = backends.clock, writer.address
    # Shared, so that after a failure of the chain not every reader waits for its own timeout.
    access = ChainAccess(clock)
    events = ChannelEvents()
    chain_time = plausible_time(chain.chain_time, clock, development=settings.development)
    channels = ChannelStore(
        ledger, chain, clock, node, events=events, access=access, chain_time=chain_time
    )
    notices = Notices(ledger, chain, clock, node=node, rule=settings.notices)
    catalogue = _catalogue(backends, settings, access, notices)
    claims = _claims(backends, settings, events, catalogue)
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
    works = build_works(backends, settings, catalogue)
    offering = Offering(works.publishing, catalogue, ledger, clock, manifests=works.manifests)
    return Services(
        channels=channels,
        catalogue=catalogue,
        claims=claims,
        payouts=Payouts(chain, writer),
        payments=payments,
        works=works,
        meter_tools=meter_tools,
        serving=_admission(backends, settings, channels, catalogue, meter_tools),
        offering=offering,
        trainings=trainings,
        publisher=_publisher(
            backends,
            settings.training,
            trainings,
            works=works,
            offering=offering,
            catalogue=catalogue,
        ),
        reconciliation=Reconciliation(
            ledger, chain, clock, node, events=events, interval_s=settings.compare_interval_s
        ),
        clock_check=clock_check,
        maintenance=Maintenance(ledger, clock),
        supervisor=Supervisor(clock),
        withdrawals=_withdrawals(backends, works, catalogue, trainings),
        provenance=_provenance(backends, settings, works, catalogue, trainings),
        receipt_periods=_receipt_periods(backends, settings),
        notices=notices,
    )


def _catalogue(
    backends: Backends, settings: ServiceSettings, access: ChainAccess, notices: Notices
) -> Catalogue:
    return Catalogue(
        backends.ledger,
        backends.chain,
        backends.engines,
        backends.clock,
        node=backends.writer.address,
        list_price=settings.list_price,
        base_prices=settings.base_prices,
        access=access,
        notices=notices,
    )


def _claims(
    backends: Backends, settings: ServiceSettings, events: ChannelEvents, catalogue: Catalogue
) -> ClaimService:
    return ClaimService(
        backends.chain,
        backends.writer,
        backends.ledger,
        backends.clock,
        settings.claims,
        events=events,
        fee_wei=backends.chain.fee_wei,
        claim_by=catalogue.claim_by,
    )


def _withdrawals(
    backends: Backends, works: WorkServices, catalogue: Catalogue, trainings: TrainingQueue
) -> WithdrawalWatch:
    return WithdrawalWatch(
        backends.chain,
        backends.writer,
        catalogue,
        trainings,
        destruction=works.destruction,
        kept=works.kept_adapters,
        listings=works.listings,
    )


def _provenance(
    backends: Backends,
    settings: ServiceSettings,
    works: WorkServices,
    catalogue: Catalogue,
    trainings: TrainingQueue,
) -> ProvenanceDocuments:
    return ProvenanceDocuments(
        backends.chain,
        trainings,
        works.license_documents,
        works.listings,
        works.manifests,
        served=lambda: catalogue.known,
        origin=settings.sessions.origin,
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
        count_tokens=backends.engines.count_tokens,
    )


def _publisher(
    backends: Backends,
    settings: TrainingQueueSettings,
    trainings: TrainingQueue,
    *,
    works: WorkServices,
    offering: Offering,
    catalogue: Catalogue,
) -> RunPublisher:
    return RunPublisher(
        trainings,
        backends.ledger,
        works.publishing,
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
    await services.catalogue.restore(services.works.publishing.weights)
    services.payments.vouchers.remember(await backends.ledger.channels())


def loops(services: Services) -> dict[str, LoopFunction]:
    """Return the loops to run until the node stops, by their names in the log."""
    return {
        "channels": services.channels.run,
        "settlement": services.claims.run,
        "training": services.trainings.run,
        "publication": services.publisher.run,
        "maintenance": services.maintenance.run,
        "reconciliation": services.reconciliation.run,
        "clock": services.clock_check.run,
        "withdrawals": services.withdrawals.run,
        "offers": services.catalogue.run,
        "deposits": services.payments.deposit_relay.run,
        "listings": services.works.listings.run,
        "discovery": services.works.discovery.run,
        "announcement": services.works.announcing.run,
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
        creator_relay=services.works.creator_relay,
        grants=services.works.grants,
        license_documents=services.works.license_documents,
        listings=services.works.listings,
        discovery=services.works.discovery,
        announcing=services.works.announcing,
        custodian=services.works.custodian,
        custody_ending=services.works.custody_ending,
        licensed_works=services.works.licensed_works,
        destruction=services.works.destruction,
        publishing=services.works.publishing,
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
