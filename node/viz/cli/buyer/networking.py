"""Define the buyer's options without --node, and open the network for the commands.

If a proxy is running, the command sends its work to that proxy, and needs no password.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from viz.cli.buyer.buying import Caps, home_of
from viz.cli.http import LOCAL_NODE
from viz.cli.own_chain import chain_if_given, given_here, trusted_deployment
from viz.domain.ports.chain import DEVELOPMENT_CHAINS
from viz.domain.units import ZERO_ADDRESS, parse_address, parse_units
from viz.errors import InvalidRequest

if TYPE_CHECKING:
    from viz.buyer.control.client import ProxyControl
    from viz.buyer.network.budget import Budget
    from viz.buyer.network.buyer import NetworkBuyer
    from viz.buyer.network.control import NetworkControl
    from viz.buyer.network.opening import NetworkSources
    from viz.buyer.network.pool import HeldClient
    from viz.domain.ports.chain import ChainReader, Deployment
    from viz.protocol.market import MarketModel

NETWORK: Final = "network"
BuyersNode = Annotated[
    str,
    typer.Option(
        "--node",
        envvar="VIZ_NODE_URL",
        help="Ask this node alone, by its URL. Default: the nodes that serve the model.",
        show_default=False,
    ),
]
WalletKey = Annotated[
    Path | None,
    typer.Option(
        "--key",
        help="Encrypted key file of the wallet that deposits where a node has no deposit yet.",
    ),
]
MaxPerDay = Annotated[
    str, typer.Option(help="Most to spend in a day (UTC) over all nodes, such as 2.00.")
]
MaxDeposit = Annotated[
    str, typer.Option(help="Most to deposit at one node, once. Default: 1 token.")
]
AllowNode = Annotated[
    list[str] | None,
    typer.Option(help="Address of a node that may be asked; repeat it. Default: any."),
]


@dataclass(frozen=True, slots=True)
class SpendingOptions:
    """What the buyer may spend over all nodes, as given on the command line."""

    key: Path | None = None
    day: str = ""
    deposit: str = ""
    nodes: tuple[str, ...] = ()

    def budget(self, deployment: Deployment) -> Budget:
        """Return the budget in the token's units; raise InvalidRequest for an invalid text."""
        from viz.buyer.network.budget import Budget

        decimals = deployment.token_decimals
        return Budget(
            parse_units(self.deposit, decimals) if self.deposit else 10**decimals,
            parse_units(self.day, decimals) if self.day else None,
            frozenset(map(parse_address, self.nodes)),
        )


def require_no_node(node: str, spending: SpendingOptions) -> None:
    """Raise InvalidRequest if the network's options are given together with a node."""
    if node and spending != SpendingOptions():
        raise InvalidRequest(
            "--key, --max-per-day, --max-deposit and --allow-node are for asking without --node: "
            "leave them out, or leave out --node (and VIZ_NODE_URL)"
        )


def sources_of(deployment: Deployment, chain: ChainReader | None) -> NetworkSources:
    """Return where to look for nodes; on a local chain, also at this machine's own node."""
    from viz.buyer.network.opening import NetworkSources

    local = deployment.chain_id in DEVELOPMENT_CHAINS
    return NetworkSources([LOCAL_NODE] if local else [], chain, local, tried=True)


@asynccontextmanager
async def network_at(
    folder: Path | None,
    deployment_file: Path | None,
    secret: str,
    rpc_url: str,
    caps: Caps,
    spending: SpendingOptions,
    held: HeldClient | None = None,
) -> AsyncIterator[NetworkBuyer]:
    """Yield a buyer that uses all nodes; ``secret`` also opens the wallet's key file."""
    from viz.buyer.network.opening import network_buyer
    from viz.buyer.wallet.wallet import KeyWallet

    deployment = trusted_deployment(deployment_file, folder)
    wallet = None
    if spending.key is not None:
        from viz.chain.keys import load_key_file

        wallet = KeyWallet(bytes(load_key_file(spending.key, secret).key))
    async with AsyncExitStack() as ends:
        chain = await ends.enter_async_context(chain_if_given(rpc_url, deployment))
        yield await ends.enter_async_context(
            network_buyer(
                deployment,
                sources_of(deployment, chain),
                home=home_of(folder),
                password=secret,
                budget=spending.budget(deployment),
                limits=caps.limits(deployment),
                wallet=wallet,
                held=held,
            )
        )


@asynccontextmanager
async def network_control(
    folder: Path | None,
    deployment_file: Path | None,
    secret: Callable[[], str],
    rpc_url: str,
    caps: Caps,
    spending: SpendingOptions,
) -> AsyncIterator[NetworkControl | ProxyControl]:
    """Yield the commands of the network: a running proxy's, or this process's own.

    If exactly one proxy of a single node is running, that proxy is used. Raises InvalidRequest if a
    proxy is running and the caller gives options of its own.
    """
    from viz.buyer.network.control import NetworkControl

    deployment = trusted_deployment(deployment_file, folder)
    proxy = await _running_proxy(folder, deployment)
    if proxy is not None:
        if given_here(rpc_url) or (caps, spending) != (Caps(), SpendingOptions()):
            raise InvalidRequest(
                "a proxy runs, and its options apply: restart it with --rpc, the caps and the "
                "budget, or leave them out here"
            )
        yield proxy
        return
    async with network_at(folder, deployment_file, secret(), rpc_url, caps, spending) as buyer:
        yield NetworkControl(buyer)


async def _running_proxy(folder: Path | None, deployment: Deployment) -> ProxyControl | None:
    from viz.buyer.control.client import find_proxies
    from viz.buyer.ledger.folders import directories_in

    home = home_of(folder)
    for control in await find_proxies([home], deployment):
        if (control.node, control.url) == (ZERO_ADDRESS, NETWORK):
            return control
    single = await find_proxies(directories_in(home, deployment), deployment)
    return single[0] if len(single) == 1 else None


async def network_models(
    folder: Path | None, deployment: Deployment, rpc_url: str, words: tuple[str, ...]
) -> tuple[MarketModel, ...]:
    """Return the models whose description contains every word. Needs no password."""
    from viz.buyer.ledger.network_record import NetworkFile
    from viz.buyer.network.buyer import with_words
    from viz.buyer.network.finder import ASKED_AT_ONCE
    from viz.buyer.network.opening import node_finder
    from viz.clock import SystemClock
    from viz.outbound import Outbound

    async with AsyncExitStack() as ends:
        chain = await ends.enter_async_context(chain_if_given(rpc_url, deployment))
        sources = sources_of(deployment, chain)
        known, strangers = (
            Outbound(private_addresses=True),
            Outbound(private_addresses=sources.private_addresses, connections=ASKED_AT_ONCE),
        )
        for each in (known, strangers):
            ends.push_async_callback(each.close)
        finder = node_finder(
            deployment,
            NetworkFile(home_of(folder)),
            sources,
            known_http=known,
            strangers_http=strangers,
            clock=SystemClock(),
        )
        return with_words(await finder.models(), words)


def remember_node(folder: Path | None, url: str) -> None:
    """Store the URL of a node that the buyer named, so that later commands find it."""
    from viz.buyer.ledger.network_record import NetworkFile

    NetworkFile(home_of(folder)).change(lambda record: record.knowing(url))
