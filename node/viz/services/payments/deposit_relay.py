"""Relay the deposits of buyers who have no gas, and wait until they are confirmed.

``viz.services.payments.deposits`` checks a deposit, ``viz.services.payments.relay_budget`` sends
it. Also reads what buyers are told before they sign a deposit, and keeps the last reading: a node
whose chain does not answer can still say what it sells. Invariant: gas is spent on a deposit only
after its signatures were verified, or the chain's simulation accepted them. For strangers there is
a budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from viz.domain.eip712 import Domain
from viz.domain.node_channel import NodeChannel, require_selling, require_signed_for
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.transactions import ChainWriter
from viz.domain.units import ZERO_ADDRESS, Address, Units
from viz.protocol.credential import Deposit
from viz.protocol.messages import ChannelView
from viz.services.payments.channel_view import view_of
from viz.services.payments.channels import ChannelStore
from viz.services.payments.deposits import Deposits
from viz.services.payments.relay_budget import (
    Earner,
    RelayBudget,
    RelayPolicy,
    is_wallet,
    under_way,
)
from viz.services.upkeep.supervision import periodically

CONFIRM_POLL_S: Final = 0.5
TERMS_LOOK_S: Final = 300
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DepositPolicy:
    """Set the least deposit, how long one is awaited, and what is relayed for whom."""

    minimum_units: Units
    confirm_wait_s: float = 30.0
    relays: RelayPolicy = field(default_factory=RelayPolicy)


@dataclass(frozen=True, slots=True)
class DepositTerms:
    """Hold what a buyer is told before it signs a deposit.

    ``chain_s`` is the time of the newest block, read when the node's clock was at ``seen_s``.
    """

    token_name: str
    token_version: str
    minimum_units: Units
    chain_s: int
    seen_s: int

    def chain_time_s(self, now_s: int) -> int:
        """Return the chain's time at ``now_s``: the time that passed since is added."""
        return self.chain_s + max(0, now_s - self.seen_s)


class DepositRelay:
    """Relay openings and top-ups of channels to this node."""

    def __init__(
        self,
        channels: ChannelStore,
        chain: ChainReader,
        writer: ChainWriter,
        budget: RelayBudget,
        clock: Clock,
        *,
        domain: Domain,
        policy: DepositPolicy,
        require_clock: Callable[[], None],
    ) -> None:
        """Pay gas out of ``budget``; ``require_clock`` raises ClockWrong."""
        self._channels = channels
        self._chain = chain
        self._writer = writer
        self._budget = budget
        self._clock = clock
        self._domain = domain
        self._policy = policy
        self._require_clock = require_clock
        self._deposits = Deposits(
            chain, domain, writer.address, policy.minimum_units, budget.cost_units
        )
        self._relaying: set[tuple[Address, Address]] = set()
        self.last_terms: DepositTerms | None = None
        """The last reading of ``read_terms``; None if there was none yet."""

    async def relay(self, deposit: Deposit) -> ChannelView:
        """Relay an opening or a top-up; return the channel once it is confirmed, or after a wait.

        Raises WrongDomain, ClockWrong, InvalidRequest, InvalidSignature, ChannelClosing, RelayBusy,
        FeeTooHigh, TransactionFailed, OutcomeUnknown.
        """
        require_signed_for(
            self._domain,
            self._writer.address,
            chain_id=deposit.chain_id,
            contract=deposit.contract,
            named_node=deposit.node,
        )
        self._require_clock()
        call = await self._deposits.call_of(deposit)
        relaying = deposit.signer, deposit.payer  # so a stranger's deposit blocks only itself
        if relaying in self._relaying:
            raise under_way(deposit.payer)
        self._relaying.add(relaying)
        try:
            opened = await self._channels.get(deposit.signer, fresh=True)
            # While a signed Close is valid, the money could not be spent and might go back.
            require_selling(opened.channel, opened.chain_s)
            before = opened.channel.limit_units
            payer = deposit.payer
            wallet = await is_wallet(self._chain, payer, deposit.authorization)
            earner = self._earner(opened.channel) if payer == opened.channel.payer else None
            sent = await self._budget.send(self._writer, payer, call, earner=earner, wallet=wallet)
            sent.require_mined("the deposit")
        finally:
            self._relaying.discard(relaying)
        return view_of(await self._confirmed(deposit.signer, before), private=False)

    async def read_terms(self) -> DepositTerms:
        """Read from the chain what buyers are told before a deposit; raise ChainError."""
        token = await self._deposits.token_domain()
        chain_s, seen_s = await self._chain.chain_time(), self._clock.now_s()
        minimum_units = await self._deposits.least_units()
        self.last_terms = DepositTerms(token.name, token.version, minimum_units, chain_s, seen_s)
        return self.last_terms

    async def run(self) -> None:
        """Read the terms every ``TERMS_LOOK_S``, until cancelled, so that the last is not old."""
        await periodically(self.read_terms, TERMS_LOOK_S, _log.warning, "the terms are not read")

    def _earner(self, channel: NodeChannel) -> Earner:
        """Return what the channel earned: the settled total, or what was delivered and signed."""
        delivered_units = min(channel.end_units, channel.total_spent_units)
        earned_units = max(channel.settled_units, delivered_units)
        return Earner(channel.signer, earned_units, self._policy.minimum_units)

    async def _confirmed(self, signer: Address, above_units: Units) -> NodeChannel:
        """Return the channel once a deposit is confirmed, or as it is after ``confirm_wait_s``."""
        channel = (await self._channels.get(signer, fresh=True)).channel
        try:
            async with asyncio.timeout(self._policy.confirm_wait_s):
                while channel.payer == ZERO_ADDRESS or channel.limit_units <= above_units:
                    await asyncio.sleep(CONFIRM_POLL_S)
                    channel = (await self._channels.get(signer, fresh=True)).channel
        except TimeoutError:
            _log.info("a deposit is not confirmed yet", signer=signer)
        return channel
