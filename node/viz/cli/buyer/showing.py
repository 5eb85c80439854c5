"""Run `viz channel show`: the node's answer, the buyer's files, and with --rpc the chain."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viz.cli.buyer.buying import (
    BuyerRpcOption,
    ChannelNode,
    NodeAddress,
    channel_control,
    channel_kept,
    home_of,
    node_meant,
)
from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    PasswordFile,
    guarded,
    password,
    run,
    say,
    show,
    table,
)
from viz.cli.http import LOCAL_NODE
from viz.cli.own_chain import given_here, own_chain, trusted_deployment
from viz.clock import SystemClock
from viz.domain.display import amount, moment
from viz.domain.trust import way_back
from viz.domain.units import parse_address
from viz.errors import BooksMismatch, InvalidRequest, NodeRefused, NodeUnreachable

if TYPE_CHECKING:
    from viz.domain.ports.chain import Deployment


@guarded
def show_channel(
    node: ChannelNode = "",
    node_address: NodeAddress = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: BuyerRpcOption = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the deposit, what was signed and what was billed; with --rpc as the chain has it.

    With --rpc the node need not answer. If you have channels to several nodes, --node-address names
    the one that is meant.
    """
    here = trusted_deployment(deployment, folder)
    node = node or (LOCAL_NODE if node_address else node_meant(node, folder))

    async def work() -> dict[str, Any]:
        secret = partial(password, password_file)
        try:
            async with channel_control(
                node, folder, deployment, secret, rpc, uses_rpc=True
            ) as control:
                found = await control.show()
        except (NodeRefused, NodeUnreachable) as error:
            if not rpc:
                raise
            return await _without_node(folder, here, rpc, node_address, error.detail)
        if given_here(rpc) and not found.get("onChain"):  # by a proxy that reads no chain
            found |= {"onChain": await _on_chain(rpc, here, found)}
        return found

    found = run(work())
    if node_address and found["node"] != parse_address(node_address):
        raise InvalidRequest(
            f"the node at {node} is {found['node']}: leave out --node-address, or give its --node"
        )
    print_channel(found, here, as_json=as_json)


async def _on_chain(rpc: str, here: Deployment, found: dict[str, Any]) -> dict[str, Any] | None:
    """Return the channel as the chain's newest block has it; None if it has no such channel."""
    from viz.buyer.control.commands import on_chain

    signer, node = parse_address(found["signer"]), parse_address(found["node"])
    async with own_chain(rpc, here) as chain:
        seen = await chain.channel(signer, node, confirmed=False)
    return on_chain(seen) if seen is not None else None


async def _without_node(
    folder: Path | None, here: Deployment, rpc: str, node_address: str, fault: str
) -> dict[str, Any]:
    """Return what the chain and the channel's files say; ``fault`` is why the node does not."""
    from dataclasses import replace

    from viz.buyer.control.commands import describe, on_chain
    from viz.buyer.ledger.folders import directory_of
    from viz.buyer.ledger.on_disk import channel_on_disk, standing_on_disk
    from viz.domain.buyer_channel import BuyerChannel, observe

    signer, node = channel_kept(folder, here, node_address)
    directory = directory_of(home_of(folder), here, node)
    channel = channel_on_disk(directory, BuyerChannel(signer, node))
    async with own_chain(rpc, here) as chain:
        seen = await chain.channel(signer, node, confirmed=False)
    mismatch = ""
    if seen is not None:
        try:
            observe(channel, seen)
        except BooksMismatch as error:
            mismatch = error.detail
        channel = replace(
            channel,
            payer=seen.payer,
            deposit_units=seen.deposit_units,
            settled_units=seen.settled_units,
            close_at_s=seen.close_at,
        )
    return describe(channel, standing_on_disk(directory, channel).fault) | {
        "mismatch": mismatch,
        "onChain": on_chain(seen) if seen is not None else None,
        "notAnswered": fault,
    }


def with_unit(found: dict[str, Any], here: Deployment) -> dict[str, Any]:
    """Return what was found with the token's decimals and symbol."""
    return {**found, "decimals": here.token_decimals, "symbol": here.token_symbol}


def print_channel(found: dict[str, Any], here: Deployment, *, as_json: bool) -> None:
    """Print a channel's state."""
    if show(with_unit(found, here), as_json=as_json):
        return
    money = (
        ("deposit", "deposit"),
        ("settled", "settled"),
        ("signed", "signed"),
        ("billed", "billed"),
    )
    seen = found.get("onChain") or {}
    rows: list[tuple[str, object]] = [
        ("state", _state(found)),
        ("payer", found["payer"] if found["open"] else "none yet"),
        ("signer", found["signer"]),
        *((name, amount(int(found[key]), here)) for name, key in money),
        ("receipts", found["receipts"]),
        *(
            (f"{key}, newest block", amount(int(seen[key]), here))
            for key in ("deposit", "settled")
            if key in seen and seen[key] != found[key]
        ),
    ]
    table(f"Channel to {found['node']}", ("what", "#value"), rows)
    if found.get("notAnswered"):
        say(
            f"the node did not answer: {found['notAnswered']}. Deposit and settled are the chain's "
            "word; signed, billed and receipts are what your folder knows"
        )
    if found.get("mismatch"):
        say(f"this channel cannot be used: {found['mismatch']}")
        say("signed, billed and receipts are what your folder knows: an older copy knows less")
    if found["distrusted"]:
        fault = found["distrusted"]
        say(f"this node is not used any more: {fault}. {way_back(fault)}")


def _state(found: dict[str, Any]) -> str:
    if not found["open"]:
        return "not open"
    if found["closeAt"]:
        return f"closing; withdraw after {moment(found['closeAt'])} (`viz channel leave`)"
    state = "open" if int(found["deposit"]) else "empty"
    if (until_s := found.get("closedUntil", 0)) and until_s >= SystemClock().now_s():
        state += f"; closed by agreement: no sale and no deposit until {moment(until_s)}"
    return state
