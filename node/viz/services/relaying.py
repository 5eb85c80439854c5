"""How much gas strangers may make this node spend: for one relay, and within an hour.

Owns the bounds: gas for each kind of relay; relays and gas within an hour, in all and for each
payer. Does not know what is relayed. Invariants: a relay is admitted with all the gas that it may
use, and counted with what it used once that is known; within any hour no more is admitted than the
bounds say; one that was never sent is given back, so that who holds no money cannot use up what
others need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from viz.domain.ports.clock import Clock
from viz.domain.ports.transactions import Call, ChainWriter, Transaction
from viz.domain.units import Address
from viz.errors import ChainError, RelayBusy

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


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """The most that is sent at the node's expense; None where nothing is bounded."""

    per_hour: int | None = 600
    per_payer_per_hour: int | None = 30
    per_minute: int | None = None
    gas_per_hour: int = 80_000_000


@dataclass(slots=True, eq=False)
class Relay:
    """One relay that was admitted, with the gas that it counts for."""

    at_s: int
    payer: Address
    gas: int


class RelayBudget:
    """What may still be relayed now."""

    def __init__(self, clock: Clock, policy: RelayPolicy) -> None:
        self._clock = clock
        self._policy = policy
        self._sent: list[Relay] = []

    async def send(self, writer: ChainWriter, payer: Address, call: Call) -> Transaction:
        """Send a stranger's transaction within the bounds; counted only where it was sent.

        Raises RelayBusy, and whatever ``writer.submit`` raises.
        """
        most = RELAY_GAS[call.function]
        relay = self.admit(payer, most)
        try:
            sent = await writer.submit(call, max_gas=most)
        except ChainError:
            self.give_back(relay)
            raise
        if sent.gas_used is not None:
            relay.gas = sent.gas_used
        return sent

    def admit(self, payer: Address, gas: int) -> Relay:
        """Count one relay for ``payer``; raise RelayBusy where the hour has no more."""
        now_s = self._clock.now_s()
        self._sent = [each for each in self._sent if each.at_s > now_s - HOUR_S]
        policy = self._policy
        own = [each for each in self._sent if each.payer == payer]
        lately = [each for each in self._sent if each.at_s > now_s - _MINUTE_S]
        for counted, bound, what, span_s in (
            (own, policy.per_payer_per_hour, f"transactions an hour for {payer}", HOUR_S),
            (self._sent, policy.per_hour, "transactions an hour", HOUR_S),
            (lately, policy.per_minute, "transactions a minute", _MINUTE_S),
        ):
            if bound is not None and len(counted) >= bound:
                raise _busy(f"{bound} {what}", counted[0].at_s + span_s - now_s)
        if sum(each.gas for each in self._sent) + gas > policy.gas_per_hour:
            wait_s = self._sent[0].at_s + HOUR_S - now_s if self._sent else HOUR_S
            raise _busy(f"{policy.gas_per_hour} gas an hour", wait_s)
        relay = Relay(now_s, payer, gas)
        self._sent.append(relay)
        return relay

    def give_back(self, relay: Relay) -> None:
        """Uncount a relay: it was refused before anything was sent."""
        if relay in self._sent:
            self._sent.remove(relay)


def _busy(bound: str, wait_s: int) -> RelayBusy:
    return RelayBusy(
        f"this node relays {bound}: try again in {wait_s} s, or send it yourself",
    )
