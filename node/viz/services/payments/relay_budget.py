"""How much strangers may make this node spend: for one relay, and within an hour.

Owns the bounds: gas for each kind of relay; relays, gas and coin within an hour, in all and for
each payer; and when a close is worth its gas. Does not know what is relayed. Invariants: a relay is
admitted with all that it may cost, and counted with what it used once that is known; within any
hour no more is admitted than the bounds say, and a part of them is kept for channels that pay; one
that was never sent is given back, so that who holds no money cannot use up what others need; a
payer has one transaction under way, since a second could spend what the first one spends and revert
at the node's cost; what strangers let fail is bounded over all of them, and so is what their
contract wallets may use, whose code can be good in the simulation and burn gas in the block; a
close, and a top-up out of the part that is kept, is paid for by what its channel earned since its
last relay of either kind.
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
# A contract wallet's own check of its owner's signature (ERC-1271): several owners, or one passkey.
WALLET_GAS: Final = 150_000
# Twice what docs/gas.md measures, rounded up, for tokens dearer than the test dollar. A
# registration is measured with terms seen before; storing new ones is 81,000 more.
RELAY_GAS: Final[Mapping[str, int]] = {
    "openWithAuthorization": 260_000 + WALLET_GAS,
    "topUpWithAuthorization": 180_000 + WALLET_GAS,
    "registerFor": 520_000 + WALLET_GAS,
    "closeNow": 100_000,  # the signature is the node's own
}

# What they use as a rule, as docs/gas.md measures them. A close counts with the opening before it:
# that is what a channel which comes back empty cost its node.
COST_GAS: Final[Mapping[str, int]] = {
    "openWithAuthorization": 130_000,
    "topUpWithAuthorization": 90_000,
    "closeNow": 180_000,
}
# Of the hour's bounds, for channels that brought money: strangers cannot keep them from topping up.
RESERVE_BPS: Final = 2_500
REMEMBERED: Final = 10_000
# Less than this is left of a signature: blocks may pass over it until it is void.
RELAY_VALID_S: Final = 180
# Of the hour's bounds, for strangers' transactions that failed or have no known end.
FAILED_BPS: Final = 500
# Of the hour's bounds, for strangers' contract wallets.
WALLET_BPS: Final = 250
# Strangers' transactions sent and waited for at a time: each may yet fail.
AT_ONCE: Final = 16
# Transactions of others without a known end are looked up this often.
_LOOK_S: Final = 10
# How long a relay waits for the end of another one for the same payer.
PATIENCE_S: Final = 5.0
_OPEN: Final = (Outcome.PENDING, Outcome.UNKNOWN)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """The most that is sent at the node's expense; None where nothing is bounded.

    ``coin_units`` is what one coin of the chain (10^18 wei) is worth in the token; 0: gas is free.
    """

    per_hour: int | None = 600
    per_payer_per_hour: int | None = 30
    per_minute: int | None = None
    gas_per_hour: int = 80_000_000
    wei_per_hour: int | None = None
    reserve_bps: int = 0
    coin_units: Units = 0


class Earner(NamedTuple):
    """A channel that a relay is for, and all that it ever brought its node.

    A relay of less than ``least_units`` that are new is not paid for, however little gas costs.
    """

    signer: Address
    earned_units: Units
    least_units: Units = 1


@dataclass(slots=True, eq=False)
class Relay:
    """One relay that was admitted, with the gas that it counts for at ``fee_wei`` a unit."""

    at_s: int
    payer: Address
    gas: int
    fee_wei: int = 0
    failed: bool = False
    wallet: bool = False
    paying: bool = False
    name: Hash32 | None = None  # of a transaction without a known end

    @property
    def wei(self) -> int:
        return self.gas * self.fee_wei

    def end(self, found: Transaction) -> None:
        """Take what became of it, as far as that is known."""
        if found.gas_used is not None:
            self.gas = found.gas_used
        self.failed = found.outcome is Outcome.FAILED
        self.name = found.hash if found.outcome in _OPEN else None


class RelayBudget:
    """What may still be relayed now. ``fee_wei`` says what a unit of gas costs (None: nothing)."""

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
        """Send a stranger's transaction within the bounds; counted only where it was sent.

        ``earner``: the channel whose own payer asks. Where it newly earned what the relay costs,
        the relay may use what is kept for such channels; with ``must_repay`` none is sent else.
        ``wallet``: a contract wallet judges its signature. Raises RelayBusy, and whatever
        ``writer.submit`` raises.
        """
        turn = self._turns.setdefault(payer, asyncio.Lock())
        await self._wait(turn, _under_way(payer))
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
        """Return what a relay of that function costs now, in units of the token, rounded up.

        0 where gas is free or the price of a coin is not known. Raises ChainError.
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
        """Count what became of the transactions without a known end, and of all others now and
        then; raise RelayBusy where one is this payer's and still has none."""
        now_s = self._clock.now_s()
        everybody = now_s - self._looked_s >= _LOOK_S
        if everybody:
            self._looked_s = now_s
        for relay in [each for each in self._sent if each.at_s > now_s - HOUR_S]:
            if relay.name is not None and (everybody or relay.payer == payer):
                relay.end(await writer.lookup(relay.name))
                if relay.name is not None and relay.payer == payer:
                    raise _under_way(payer)

    def admit(
        self,
        payer: Address,
        gas: int,
        *,
        fee_wei: int = 0,
        paying: bool = False,
        wallet: bool = False,
    ) -> Relay:
        """Count one relay for ``payer``; raise RelayBusy where the hour has no more."""
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
        """Raise RelayBusy where these used up their share of the hour's gas or coin."""
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
        """Uncount a relay: it was refused before anything was sent."""
        if relay in self._sent:
            self._sent.remove(relay)

    async def close(
        self, writer: ChainWriter, payer: Address, signer: Address, earned_units: Units, call: Call
    ) -> Transaction | None:
        """Relay a close if its channel earned what that costs; return None if it did not.

        ``earned_units`` is all that the channel ever brought. What paid for one relay pays for no
        other: capital that goes in and out again moves at its owner's cost. The payer has the
        node's signature and can send the close itself, so a close that is not relayed is no error.
        """
        try:
            earner = Earner(signer, earned_units)
            return await self.send(writer, payer, call, earner=earner, must_repay=True)
        except (RelayBusy, ChainError) as error:
            _log.info("a close is not relayed", signer=signer, reason=error.detail)
            return None


async def is_wallet(chain: ChainReader, account: Address, signature: bytes) -> bool:
    """Say whether the code of an account judges its signature, and not the key alone.

    A key may have code as well (EIP-7702): then a token or a registry asks that code, also about a
    signature of the key. Raises ChainUnreachable.
    """
    return not is_plain(signature) or await chain.has_code(account)


def require_time(until_s: int, now_s: int, what: str) -> None:
    """Raise InvalidRequest where a signature may be void before a block takes it."""
    if until_s - now_s < RELAY_VALID_S:
        raise InvalidRequest(
            f"{what} ends {max(0, until_s - now_s)} s after the chain's time, which is {now_s}: "
            f"sign one that is valid for {RELAY_VALID_S} s at least"
        )


def _under_way(payer: Address) -> RelayBusy:
    return RelayBusy(
        f"a transaction for {payer} is under way: wait for its end before the next one"
    )


def _busy(bound: str, wait_s: int) -> RelayBusy:
    return RelayBusy(
        f"this node relays {bound}: try again in {wait_s} s, or send it yourself",
    )
