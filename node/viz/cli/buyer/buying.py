"""Define the shared options of the buyer's commands, and open the channel that they use.

If a proxy runs for the channel, the command sends its work to that proxy, and needs no password.
Otherwise the command opens the channel's files itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viz.cli.console import data_dir
from viz.cli.http import LOCAL_NODE, RPC_VARIABLE
from viz.cli.own_chain import checked_rpc, given_here, trusted_deployment
from viz.client.node_address import checked
from viz.domain.display import counted
from viz.domain.units import Address, parse_address, parse_units
from viz.errors import ChannelUnknown, InvalidRequest, VizError
from viz.written_file import write_new

if TYPE_CHECKING:
    from viz.buyer.client import BuyerClient
    from viz.buyer.control.client import ProxyControl
    from viz.buyer.control.commands import ChannelControl
    from viz.buyer.network.one_node import CountedNode
    from viz.buyer.terms.checks import Limits
    from viz.domain.ports.chain import Deployment
    from viz.protocol.messages import NodeInfo

BuyerRpcOption = Annotated[
    str,
    typer.Option(
        "--rpc",
        envvar=RPC_VARIABLE,
        help="JSON-RPC URL of a chain of your choice, to check the node's adapters.",
    ),
]
NodeAddress = Annotated[
    str, typer.Option("--node-address", help="The node's address, if you have several channels.")
]
ChainUrl = Annotated[
    str, typer.Option("--rpc", envvar=RPC_VARIABLE, help="The chain's JSON-RPC URL.")
]
MaxPrice = Annotated[
    str,
    typer.Option(help="Most to pay for a million tokens, prompt or completion, such as 1.25."),
]
MaxPromptPrice = Annotated[str, typer.Option(help="Most to pay for a million prompt tokens.")]
MaxCompletionPrice = Annotated[
    str, typer.Option(help="Most to pay for a million completion tokens.")
]
MaxCost = Annotated[
    str,
    typer.Option(
        "--max-per-request", "--max-cost", help="Most to pay for one answer, such as 0.05."
    ),
]


@dataclass(frozen=True, slots=True)
class Caps:
    """Cap the price of a million tokens and the cost of one answer; empty: no cap."""

    either: str = ""
    prompt: str = ""
    completion: str = ""
    answer: str = ""

    def limits(self, deployment: Deployment) -> Limits:
        """Return the limits in the token's units; raise InvalidRequest if a text is no amount."""
        from viz.buyer.terms.prices import limits_in

        def units(text: str) -> int | None:
            return parse_units(text, deployment.token_decimals) if text else None

        return limits_in(
            deployment,
            prompt_price_units=units(self.prompt or self.either),
            completion_price_units=units(self.completion or self.either),
            request_units=units(self.answer),
        )


Signer = Annotated[
    str, typer.Option("--signer", help="The session key's address, if its file is lost.")
]


def home_of(folder: Path | None) -> Path:
    """Return the folder of a buyer's session keys and ledgers: ``buyer`` in the data folder."""
    return data_dir(folder) / "buyer"


ChannelNode = Annotated[
    str,
    typer.Option(
        "--node",
        envvar="VIZ_NODE_URL",
        help=f"The node's URL. Default: the only one that you know, else {LOCAL_NODE}.",
        show_default=False,
    ),
]


def node_meant(node: str, folder: Path | None) -> str:
    """Return the URL of the node whose channel is meant: as given, or the only one known.

    Raises InvalidRequest if several are known and none is given.
    """
    from viz.buyer.ledger.network_record import NetworkFile

    known = () if node else NetworkFile(home_of(folder)).read().urls
    if len(known) > 1:
        raise InvalidRequest(
            f"you know {counted(len(known), 'node')} ({', '.join(known)}), and each has a channel "
            "of its own: name one with --node"
        )
    return node or (known[0] if known else LOCAL_NODE)


def channel_kept(
    folder: Path | None, here: Deployment, node_address: str, signer: str = ""
) -> tuple[Address, Address]:
    """Return signer and node of the channel that is meant; raise InvalidRequest, ChannelUnknown."""
    from viz.buyer.ledger.folders import channels_in

    home = home_of(folder)
    if signer:
        if not node_address:
            raise InvalidRequest("--signer needs --node-address too: add the node's address")
        return parse_address(signer), parse_address(node_address)
    # One that is named is read alone: what is damaged in another's folder does not hinder it.
    kept = channels_in(home, here, parse_address(node_address) if node_address else None)
    if not kept:
        raise ChannelUnknown(
            f"{home} has no session key of such a channel: name its folder with --data-dir, or the "
            "channel with --node-address and --signer"
        )
    if len(kept) > 1:
        raise InvalidRequest(
            f"you have channels to {', '.join(kept)}: name one with --node-address"
        )
    (node, key), *_ = kept.items()
    return key, node


@asynccontextmanager
async def client_at(
    node: str,
    folder: Path | None,
    deployment_file: Path | None,
    secret: str,
    rpc_url: str,
    caps: Caps | None = None,
) -> AsyncIterator[BuyerClient]:
    """Yield a client that has opened the files of the channel to the node."""
    import aiohttp

    from viz.buyer.client import BuyerClient

    deployment = trusted_deployment(deployment_file, folder)
    async with AsyncExitStack() as ends:
        http = await ends.enter_async_context(aiohttp.ClientSession())
        chain = None
        if rpc_url:
            # Imported here, because web3 takes a second to import and is needed with --rpc only.
            from viz.chain.contracts import Chain

            rpc = await ends.enter_async_context(checked_rpc(rpc_url, deployment))
            chain = Chain(rpc, deployment)
        client = await BuyerClient.connect(
            http,
            node,
            home=home_of(folder),
            password=secret,
            expected=deployment,
            chain=chain,
            limits=(caps or Caps()).limits(deployment),
        )
        ends.push_async_callback(client.aclose)
        yield client


@asynccontextmanager
async def channel_control(
    node: str,
    folder: Path | None,
    deployment_file: Path | None,
    secret: Callable[[], str],
    rpc_url: str = "",
    caps: Caps | None = None,
    *,
    uses_rpc: bool = False,
) -> AsyncIterator[ChannelControl | ProxyControl]:
    """Yield the commands of the channel to the node: a running proxy's, or this process's own.

    ``uses_rpc``: beside a proxy the caller uses ``rpc_url`` itself, to read or to send. Raises
    InvalidRequest if a proxy is running and the caller gives caps or a chain endpoint of its own.
    """
    proxy = await _proxy_control(node, folder, trusted_deployment(deployment_file, folder))
    if proxy is not None:
        if (given_here(rpc_url) and not uses_rpc) or (caps or Caps()) != Caps():
            raise InvalidRequest(
                "a proxy runs for this channel, and its options apply: restart it with --rpc and "
                "the caps, or leave them out here"
            )
        yield proxy
        return
    from viz.buyer.control.commands import ChannelControl

    async with client_at(node, folder, deployment_file, secret(), rpc_url, caps) as client:
        with counted_node(client, folder) as side:
            yield ChannelControl(client, side=side)


@contextmanager
def counted_node(client: BuyerClient, folder: Path | None) -> Iterator[CountedNode]:
    """Yield the side that asks a client's node; the day's sum of the data folder has what it pays.

    The commands with --node have no limit by day of their own.
    """
    from viz.buyer.ledger.network_record import NetworkFile
    from viz.buyer.network.budget import Budget, DayBudget
    from viz.buyer.network.one_node import CountedNode
    from viz.clock import SystemClock

    day = DayBudget(Budget(0), NetworkFile(home_of(folder)), SystemClock(), client.deployment)
    try:
        yield CountedNode(client, day)
    finally:
        day.close()


def recorder_of(control: object) -> ChannelControl:
    """Return the control if its process holds the channel; raise InvalidRequest for a proxy's."""
    from viz.buyer.control.commands import ChannelControl

    if not isinstance(control, ChannelControl):
        raise InvalidRequest(
            "a proxy runs for this channel and keeps no record of answers: stop it, then ask again"
        )
    return control


def write_record(control: ChannelControl, file: Path) -> None:
    """Write the record of the last answer, which has the words of both sides: for its owner."""
    if control.record is None:
        raise InvalidRequest("this answer has no receipt, so there is no record of it")
    write_new(file, json.dumps(control.record.to_json(), indent=2).encode() + b"\n", "--record")


async def _proxy_control(
    node: str, folder: Path | None, deployment: Deployment
) -> ProxyControl | None:
    channels = home_of(folder) / "channels"
    if not any(each.is_socket() for each in channels.glob("*/desk.sock")):
        return None
    from viz.buyer.control.client import find_proxies
    from viz.buyer.ledger.folders import directories_in

    proxies = await find_proxies(directories_in(home_of(folder), deployment), deployment)
    url = checked(node)
    for control in proxies:
        if control.url == url:
            return control
    if not proxies:
        return None
    try:
        info = await node_info(node, deployment)  # the proxy may use another name of this node
    except VizError:
        return None
    return next((control for control in proxies if control.node == info.node), None)


async def node_info(node: str, deployment: Deployment) -> NodeInfo:
    """Return a node's own description; raise NodeNotTrusted, NodeUnreachable."""
    import aiohttp

    from viz.client.node_client import NodeClient
    from viz.services.market.node_claims import check_node

    async with aiohttp.ClientSession() as http:
        info = await NodeClient(http, node).info()
    check_node(info, deployment)
    return info
