"""Limit what strangers can make this node spend on gas: for one relay, and within an hour.

Owns the limits on gas for each kind of relay, and on the relays, gas and coin of an hour. Also
decides whether a close is worth its gas. Invariants:

- A relay is admitted with the most that it may cost. Later, the gas that it used is counted
  instead.
- Within any hour no more is admitted than the limits allow. A part of them is kept for channels
  that pay.
- A relay that was never sent is not counted. So people without money cannot use up the limits.
- A payer has one transaction under way. A second one could spend the same money, and revert at the
  node's cost.
- All failed transactions of strangers together have a limit. All transactions for strangers'
  contract wallets have one too: the code of a wallet can pass the simulation and then burn gas in
  the block.
- A close, and a top-up from the part that is kept, must be paid for: the channel must have earned
  its cost since the last relay of either kind.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

import structlog

from viz.domain.eip712 import is_plain
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.transactions import Call, ChainWriter, Outcome, Transaction
from viz.domain.units import BPS, WEI_A_COIN, Address, Hash32, Units
from viz.errors import ChainError, InvalidRequest, RelayBusy

HOUR_S: Final = 3_600
_MINUTE_S: Final = 60
# Gas for a contract wallet that checks its owner's signature (ERC-1271). It may have several
# owners, or a passkey.
WALLET_GAS: Final = 150_000
# The most gas of each kind of relay: twice the value in docs/gas.md, rounded up, because other
# tokens cost more than the test dollar. docs/gas.md measures a registration with known terms; new
# terms cost 81,000 more to store.
RELAY_GAS: Final[Mapping[str, int]] = {
    "openWithAuthorization": 260_000 + WALLET_GAS,
    "topUpWithAuthorization": 180_000 + WALLET_GAS,
    "registerFor": 520_000 + WALLET_GAS,
    "setTermsFor": 230_000 + WALLET_GAS,
    "approveTrainerFor": 160_000 + WALLET_GAS,
    "withdrawFor": 120_000 + WALLET_GAS,
    "closeNow": 100_000,  # the signature is the node's own
}

# The gas that each usually uses, from docs/gas.md. The cost of a close includes the opening before
# it, because both are what a channel without income costs its node.
COST_GAS: Final[Mapping[str, int]] = {
    "openWithAuthorization": 130_000,
    "topUpWithAuthorization": 90_000,
    "closeNow": 180_000,
}
# The share of the hour's limits that is kept for channels that earned money, so that strangers
# cannot keep their payers from topping up.
RESERVE_BPS: Final = 2_500
REMEMBERED: Final = 10_000
# A signature must be valid for at least this long. With less, it may expire before a block takes
# the transaction.
RELAY_VALID_S: Final = 180
# The share of the hour's limits for strangers' transactions that failed or whose end is unknown.
FAILED_BPS: Final = 500
# The share of the hour's limits for strangers' contract wallets.
WALLET_BPS: Final = 250
# How many transactions of strangers may be under way at once, because each of them may still fail.
AT_ONCE: Final = 16
# Other payers' transactions whose end is unknown are looked up this often.
_LOOK_S: Final = 10
# How long a relay waits for another relay of the same payer, or for a free place.
PATIENCE_S: Final = 5.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """Set the limits on what is sent at the node's expense; None: no limit.

    ``reserve_bps``: the share that is kept for channels that pay. ``coin_units``: what one coin of
    the chain (10^18 wei) is worth in base units of the token; 0 if gas is free.
    """

    per_hour: int | None = 600
    per_payer_per_hour: int | None = 30
    per_minute: int | None = None
    gas_per_hour: int = 80_000_000
    wei_per_hour: int | None = None
    reserve_bps: int = 0
    coin_units: Units = 0


class Earner(NamedTuple):
    """Name the channel that a relay is for, and all that it ever earned for its node.

    The channel pays for a relay only if it earned at least ``least_units`` since its last one, even
    if gas costs less.
    """

    signer: Address
    earned_units: Units
    least_units: Units = 1


@dataclass(slots=True, eq=False)
class Relay:
    """Hold one admitted relay: the gas that it is counted with, at ``fee_wei`` wei for each unit.

    ``wallet``: a contract wallet checks its signature. ``paying``: its channel pays for it.
    """

    at_s: int
    payer: Address
    gas: int
    fee_wei: int = 0
    failed: bool = False
    wallet: bool = False
    paying: bool = False
    name: Hash32 | None = None  # the transaction's hash, while its end is unknown

    @property
    def wei(self) -> int:
        return self.gas * self.fee_wei

    def end(self, found: Transaction) -> None:
        """Take over how its transaction ended, as far as that is known."""
        if found.gas_used is not None:
            self.gas = found.gas_used
        self.failed = found.outcome is Outcome.FAILED
        self.name = found.hash if found.outcome.undecided else None


class RelayBudget:
    """Track what may still be relayed. ``fee_wei`` returns the price of a unit of gas; None: 0."""

    def __init__(
        self,
        clock: Clock,
        policy: RelayPolicy,
        fee_wei: Callable[[], Awaitable[int]] | None = None,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._clock = clock
        self._policy = policy
        self._fee_wei = fee_wei
        self._sent: list[Relay] = []
        self._patience_s = patience_s
        self._turns: WeakValueDictionary[Address, asyncio.Lock] = WeakValueDictionary()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._looked_s = 0
        self._repaid: OrderedDict[Address, Units] = OrderedDict()

    async def send(
        self,
        writer: ChainWriter,
        payer: Address,
        call: Call,
        *,
        earner: Earner | None = None,
        wallet: bool = False,
        must_repay: bool = False,
    ) -> Transaction:
        """Send a stranger's transaction if the limits allow it; count it only if it was sent.

        ``earner``: the channel whose own payer asks. If it earned the relay's cost since its last
        relay, this one may use the part that is kept for such channels.
        ``must_repay``: send nothing if the channel did not earn the cost.
        ``wallet``: a contract wallet checks the signature.
        Raises RelayBusy, and whatever ``writer.submit`` raises.
        """
        # One at a time for each payer, from here until the transaction's end.
        turn = self._turns.setdefault(payer, asyncio.Lock())
        await self._wait(turn, under_way(payer))
        try:
            fee_wei = await self._fee()
            send = partial(self._send, writer, payer, call, fee_wei=fee_wei, wallet=wallet)
            if earner is not None and self._repays(earner, call.function, fee_wei):
                sent = await send(paying=True)
                self._repaid_by(earner)
                return sent
            if must_repay:
                raise _busy("nothing for a channel that did not earn what it costs", HOUR_S)
            await self._wait(self._room, _busy(f"{AT_ONCE} transactions at a time", _LOOK_S))
            try:
                return await send(paying=False)
            finally:
                self._room.release()
        finally:
            turn.release()

    async def cost_units(self, function: str) -> Units:
        """Return what a relay of that function costs now, in base units of the token, rounded up.

        Returns 0 if gas is free or the price of a coin is not known. Raises ChainError.
        """
        return self._cost_units(function, await self._fee()) if self._policy.coin_units else 0

    def _cost_units(self, function: str, fee_wei: int) -> Units:
        return -(-COST_GAS[function] * fee_wei * self._policy.coin_units // WEI_A_COIN)

    async def _fee(self) -> int:
        return await self._fee_wei() if self._fee_wei else 0

    def _repays(self, earner: Earner, function: str, fee_wei: int) -> bool:
        new_units = earner.earned_units - self._repaid.get(earner.signer, 0)
        return new_units >= max(1, earner.least_units, self._cost_units(function, fee_wei))

    def _repaid_by(self, earner: Earner) -> None:
        self._repaid[earner.signer] = earner.earned_units
        self._repaid.move_to_end(earner.signer)
        while len(self._repaid) > REMEMBERED:
            self._repaid.popitem(last=False)

    async def _wait(self, place: asyncio.Lock | asyncio.Semaphore, refusal: RelayBusy) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await place.acquire()
        except TimeoutError:
            raise refusal from None

    async def _send(
        self,
        writer: ChainWriter,
        payer: Address,
        call: Call,
        *,
        fee_wei: int,
        paying: bool,
        wallet: bool,
    ) -> Transaction:
        await self._look_up(writer, payer)
        most = RELAY_GAS[call.function]
        relay = self.admit(payer, most, fee_wei=fee_wei, paying=paying, wallet=wallet)
        try:
            sent = await writer.submit(call, max_gas=most)
        except ChainError:
            self.give_back(relay)
            raise
        relay.end(sent)
        return sent

    async def _look_up(self, writer: ChainWriter, payer: Address) -> None:
        """Look up this payer's transactions whose end is unknown, and count how they ended.

        Every ``_LOOK_S`` seconds, those of all other payers too. Raises RelayBusy if one of this
        payer is still without a known end.
        """
        now_s = self._clock.now_s()
        everybody = now_s - self._looked_s >= _LOOK_S
        if everybody:
            self._looked_s = now_s
        for relay in [each for each in self._sent if each.at_s > now_s - HOUR_S]:
            if relay.name is not None and (everybody or relay.payer == payer):
                relay.end(await writer.lookup(relay.name))
                if relay.name is not None and relay.payer == payer:
                    raise under_way(payer)

    def admit(
        self,
        payer: Address,
        gas: int,
        *,
        fee_wei: int = 0,
        paying: bool = False,
        wallet: bool = False,
    ) -> Relay:
        """Count one relay for ``payer``; raise RelayBusy if the limits leave no room for it.

        ``gas`` is the most that it may use. A relay that is ``paying`` may use the whole limits,
        and is exempt from the shares for failures and wallets.
        """
        now_s = self._clock.now_s()
        self._sent = [each for each in self._sent if each.at_s > now_s - HOUR_S]
        policy = self._policy
        if not paying:
            strangers = [each for each in self._sent if not each.paying]
            lost = [each for each in strangers if each.failed or each.name is not None]
            self._require_share(lost, FAILED_BPS, "transactions of strangers that failed")
            if wallet:
                wallets = [each for each in strangers if each.wallet]
                self._require_share(wallets, WALLET_BPS, "transactions for contract wallets")
        # A payer whose transaction failed gets no other one within the hour.
        own = [each for each in self._sent if each.payer == payer]
        lately = [each for each in self._sent if each.at_s > now_s - _MINUTE_S]
        for failed in own:
            if failed.failed:
                raise _busy(
                    f"nothing for {payer}, whose last transaction failed in its block,",
                    failed.at_s + HOUR_S - now_s,
                )
        for counted, bound, what, span_s in (
            (own, policy.per_payer_per_hour, f"transactions an hour for {payer}", HOUR_S),
            (self._sent, self._open_to(policy.per_hour, paying), "transactions an hour", HOUR_S),
            (lately, policy.per_minute, "transactions a minute", _MINUTE_S),
        ):
            if bound is not None and len(counted) >= bound:
                wait_s = counted[0].at_s + span_s - now_s if counted else span_s
                raise _busy(f"{bound} {what}", wait_s)
        relay = Relay(now_s, payer, gas, fee_wei, wallet=wallet, paying=paying)
        for spent, wanted, bound, what in (
            (sum(each.gas for each in self._sent), gas, policy.gas_per_hour, "gas"),
            (sum(each.wei for each in self._sent), relay.wei, policy.wei_per_hour, "wei"),
        ):
            most = self._open_to(bound, paying)
            if most is not None and spent + wanted > most:
                wait_s = self._sent[0].at_s + HOUR_S - now_s if self._sent else HOUR_S
                raise _busy(f"{most} {what} an hour", wait_s)
        self._sent.append(relay)
        return relay

    def _require_share(self, relays: Sequence[Relay], share_bps: int, what: str) -> None:
        """Raise RelayBusy if these relays used up their share of the hour's gas or coin."""
        for spent, bound, unit in (
            (sum(each.gas for each in relays), self._policy.gas_per_hour, "gas"),
            (sum(each.wei for each in relays), self._policy.wei_per_hour, "wei"),
        ):
            if relays and bound is not None and spent * BPS >= bound * share_bps:
                most = bound * share_bps // BPS
                wait_s = relays[0].at_s + HOUR_S - self._clock.now_s()
                raise _busy(f"{what} for {most} {unit} an hour", wait_s)

    def _open_to(self, bound: int | None, paying: bool) -> int | None:
        if bound is None or paying:
            return bound
        return bound * (BPS - self._policy.reserve_bps) // BPS

    def give_back(self, relay: Relay) -> None:
        """Stop counting a relay, because it was refused before anything was sent."""
        if relay in self._sent:
            self._sent.remove(relay)

    async def close(
        self, writer: ChainWriter, payer: Address, signer: Address, earned_units: Units, call: Call
    ) -> Transaction | None:
        """Relay a close if its channel earned the cost; return None if it was not relayed.

        ``earned_units`` is all that the channel ever earned. Earnings pay for one relay only. So
        somebody who moves money in and out of a channel without buying pays for it. A close that is
        not relayed is no error: the payer has the node's signature and can send it.
        """
        try:
            earner = Earner(signer, earned_units)
            return await self.send(writer, payer, call, earner=earner, must_repay=True)
        except (RelayBusy, ChainError) as error:
            _log.info("a close is not relayed", signer=signer, reason=error.detail)
            return None


async def is_wallet(chain: ChainReader, account: Address, signature: bytes) -> bool:
    """Return whether the code of an account checks its signature, and not its key alone.

    The account of a key may have code as well (EIP-7702). Then a token or a registry asks that
    code, even about a signature of the key. Raises ChainUnreachable.
    """
    return not is_plain(signature) or await chain.has_code(account)


def require_time(until_s: int, now_s: int, what: str) -> None:
    """Raise InvalidRequest if a signature may expire before a block takes the transaction."""
    if until_s - now_s < RELAY_VALID_S:
        raise InvalidRequest(
            f"{what} ends {max(0, until_s - now_s)} s after the chain's time, which is {now_s}: "
            f"sign one that is valid for {RELAY_VALID_S} s at least"
        )


def under_way(payer: Address) -> RelayBusy:
    """Return the refusal of a relay for a payer who has another one under way."""
    return RelayBusy(
        f"a transaction for {payer} is under way: wait for its end before the next one",
        retryAfter=_LOOK_S,
    )


def _busy(bound: str, wait_s: int) -> RelayBusy:
    return RelayBusy(
        f"this node relays {bound}: try again in {wait_s} s, or send it yourself",
        retryAfter=wait_s,
    )
