"""Build the services of the money that comes in: sessions, vouchers, deposits and closes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from viz.composition.settings import Backends, ServiceSettings
from viz.domain.eip712 import settlement_domain
from viz.domain.ports.services import Claimer, KnownAdapters
from viz.services.payments.channel_close import ChannelClose
from viz.services.payments.channels import ChannelStore
from viz.services.payments.deposit_relay import DepositRelay
from viz.services.payments.relay_budget import RelayBudget
from viz.services.payments.sessions import Sessions
from viz.services.payments.vouchers import Vouchers


@dataclass(frozen=True, slots=True)
class PaymentServices:
    """What a node does for buyers who sign in, pay, deposit and close."""

    sessions: Sessions
    vouchers: Vouchers
    deposit_relay: DepositRelay
    channel_close: ChannelClose


def build_payments(
    backends: Backends,
    settings: ServiceSettings,
    channels: ChannelStore,
    *,
    claimer: Claimer,
    adapters: KnownAdapters,
    chain_time: Callable[[], Awaitable[int]],
    require_clock: Callable[[], None],
) -> PaymentServices:
    """Create and connect the services of ``channels``; nothing is read or started yet."""
    chain, writer, clock = backends.chain, backends.writer, backends.clock
    domain = settlement_domain(chain.deployment.chain_id, chain.deployment.settlement)
    budget = RelayBudget(clock, settings.deposits.relays, chain.fee_wei)
    vouchers = Vouchers(channels, clock, domain=domain, node=writer.address, adapters=adapters)
    return PaymentServices(
        Sessions(
            backends.ledger,
            clock,
            domain=domain,
            node=writer.address,
            policy=settings.sessions,
            has_channel=vouchers.has_channel,
        ),
        vouchers,
        DepositRelay(
            channels,
            chain,
            writer,
            budget,
            clock,
            domain=domain,
            policy=settings.deposits,
            require_clock=require_clock,
        ),
        ChannelClose(
            channels,
            chain,
            writer,
            budget,
            domain=domain,
            claimer=claimer,
            key=backends.key,
            chain_time=chain_time,
        ),
    )
