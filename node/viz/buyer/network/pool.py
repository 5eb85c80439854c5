"""Hold a network buyer's channels: open each when it is needed, and deposit within the budget.

Owns the clients of the nodes, and the one automatic deposit at each node. Invariants: a node is
used only if the buyer's list allows it, and only under the address that was found; at most one
automatic deposit is made at a node, of at most ``budget.deposit_units``, and nothing is added to
it; one process makes deposits at no more than ``MAX_DEPOSITS`` nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import structlog

from viz.buyer.client import BuyerClient
from viz.buyer.network.budget import Budget
from viz.buyer.network.parts import DepositMade
from viz.buyer.wallet.signing import SIGNED_DEPOSIT
from viz.buyer.wallet.wallet import Wallet
from viz.domain.display import amount
from viz.domain.units import ZERO_ADDRESS, AdapterId, Address, Units
from viz.errors import BalanceTooLow, ChannelUnknown, DepositExceeded, NodeNotTrusted, VizError
from viz.protocol.market import MarketOffer

MAX_DEPOSITS: Final = 8
MAX_CLIENTS: Final = 32
Connect = Callable[[str], Awaitable[BuyerClient]]
HeldClient = Callable[[BuyerClient, str], AbstractAsyncContextManager[object]]
_log = structlog.get_logger()


@dataclass(slots=True)
class _Turn:
    """One node's client, and the lock that serialises its creation and its deposit."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    client: BuyerClient | None = None
    url: str = ""
    ends: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def end(self) -> None:
        """Release the channel for other processes."""
        self.client = None
        await self.ends.aclose()


class NodePool:
    """The clients of one buyer, by node."""

    def __init__(
        self,
        connect: Connect,
        budget: Budget,
        *,
        wallet: Wallet | None,
        unspent_units: Mapping[Address, Units],
        held: HeldClient | None = None,
    ) -> None:
        """``unspent_units`` is what the files say is left of the deposit at each node.

        Without a ``wallet`` no deposit is made. ``held`` is called with a client and its URL; the
        context that it returns stays open as long as the client.
        """
        self._connect, self._budget, self._wallet = connect, budget, wallet
        self._unspent_units, self._held = dict(unspent_units), held
        self._turns: dict[Address, _Turn] = {}
        self._deposits = 0

    @property
    def clients(self) -> tuple[BuyerClient, ...]:
        """The connected clients."""
        return tuple(each.client for each in self._turns.values() if each.client is not None)

    def unspent_units(self) -> dict[Address, Units]:
        """Return what is left of the deposit at each node with one."""
        left = dict(self._unspent_units)
        for client in self.clients:
            left[client.info.node] = _left(client)
        return left

    def funded(self) -> frozenset[Address]:
        """Return the nodes where this buyer has some of a deposit left."""
        return frozenset(node for node, units in self.unspent_units().items() if units > 0)

    def paid(self) -> frozenset[Address]:
        """Return the nodes where this buyer made a deposit, whatever is left of it."""
        now = (each for each in self.clients if each.channel.limit_units or each.channel.billed)
        return frozenset([*self._unspent_units, *(each.info.node for each in now)])

    def usable(self, offer: MarketOffer) -> bool:
        """Return whether an offer can be used: the node is allowed, and can be paid or is free."""
        if not self._budget.allows(offer.node):
            return False
        return not self.needs_deposit(offer) or self._may_deposit(offer.node)

    def needs_deposit(self, offer: MarketOffer) -> bool:
        """Return whether an offer can be used only after a new deposit."""
        free = not (offer.prompt_price_units or offer.completion_price_units)
        return not free and offer.node not in self.funded()

    def _may_deposit(self, node: Address) -> bool:
        if self._wallet is None or self._deposits >= MAX_DEPOSITS:
            return False
        turn = self._turns.get(node)
        known = turn.client if turn is not None else None
        return node not in self._unspent_units and (known is None or not known.channel.limit_units)

    async def ready(
        self, offer: MarketOffer, adapter_id: AdapterId, deposited: Callable[[DepositMade], None]
    ) -> BuyerClient:
        """Return a node's client whose channel can pay; make the deposit if necessary.

        ``deposited`` is called with a deposit that was signed, also if its fate is not known.
        Raises what connecting and depositing raise, NodeNotTrusted if another node answers,
        ChannelUnknown without a deposit and without a wallet, DepositExceeded if it is used up,
        AdapterNotServable before a deposit for an adapter that the node may not serve.
        """
        turn = self._turns.setdefault(offer.node, _Turn())
        async with turn.lock:
            if turn.client is not None and turn.url != offer.url:
                await turn.end()
            client = turn.client or await self._connected(offer, turn)
            client.require_trust()
            if offer.prompt_price_units or offer.completion_price_units:
                await self._fund(client, offer, adapter_id, deposited)
            return client

    async def _connected(self, offer: MarketOffer, turn: _Turn) -> BuyerClient:
        if len(self.clients) >= MAX_CLIENTS:
            raise ChannelUnknown(f"{MAX_CLIENTS} channels are open in this process already")
        client = await self._connect(offer.url)
        turn.ends.push_async_callback(client.aclose)
        try:
            if client.info.node != offer.node:
                raise NodeNotTrusted(
                    f"another node answers at {offer.url}: {client.info.node}, not {offer.node}"
                )
            if client.channel.limit_units or client.channel.payer != ZERO_ADDRESS:
                await client.look()
            if self._held is not None:
                await turn.ends.enter_async_context(self._held(client, offer.url))
        except BaseException:
            await turn.end()
            raise
        turn.client, turn.url = client, offer.url
        return client

    async def _fund(
        self,
        client: BuyerClient,
        offer: MarketOffer,
        adapter_id: AdapterId,
        deposited: Callable[[DepositMade], None],
    ) -> None:
        channel, info, here = client.channel, client.info, client.deployment
        if _left(client) > 0 and channel.payer != ZERO_ADDRESS:
            return
        if channel.limit_units:
            raise DepositExceeded(
                f"the deposit at {info.node} is used up: add to it with `viz channel open`"
            )
        if self._deposits >= MAX_DEPOSITS:
            raise ChannelUnknown(
                f"there is no deposit at {info.node}, and this process has made {MAX_DEPOSITS}, "
                "which is the most: open a channel with `viz channel open`, or start again"
            )
        if self._wallet is None:
            raise ChannelUnknown(
                f"there is no deposit at {info.node}: give --key, the wallet that pays for one, or "
                "open a channel with `viz channel open`"
            )
        units = min(
            self._budget.deposit_units,
            max(info.suggested_deposit_units, info.minimum_deposit_units),
        )
        if units < info.minimum_deposit_units:
            raise DepositExceeded(
                f"{info.node} takes deposits of at least "
                f"{amount(info.minimum_deposit_units, here)}, and --max-deposit is less"
            )
        await client.node.require_servable(adapter_id)
        self._deposits += 1
        try:
            await client.open_channel(self._wallet, units)
        except BalanceTooLow:
            self._deposits -= 1  # nothing was signed
            raise
        except VizError as error:
            if SIGNED_DEPOSIT in error.extensions:
                deposited(DepositMade(offer.node, offer.url, units, confirmed=False))
            raise
        deposited(DepositMade(offer.node, offer.url, units))
        _log.info("deposited", node=info.node, units=amount(units, here))

    async def aclose(self) -> None:
        """Release the channels for other processes."""
        for turn in self._turns.values():
            await turn.end()


def _left(client: BuyerClient) -> Units:
    return max(0, client.channel.limit_units - sum(client.channel.billed.values()))
