"""Run `viz channel`: open, show and close a buyer's payment channel to a node."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viz.cli.buyer import receipts_out, renewing
from viz.cli.buyer.buying import (
    BuyerRpcOption,
    ChainUrl,
    ChannelNode,
    NodeAddress,
    Signer,
    channel_control,
    channel_kept,
    node_meant,
)
from viz.cli.buyer.networking import remember_node
from viz.cli.buyer.showing import print_channel, show_channel, with_unit
from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    KeyFile,
    PasswordFile,
    err,
    guarded,
    out,
    password,
    plain,
    run,
    show,
)
from viz.cli.own_chain import checked_rpc, trusted_deployment
from viz.client.node_address import checked
from viz.domain.display import amount, moment
from viz.domain.units import Address, hex_of, parse_address, parse_units
from viz.errors import ChainError, NodeNotTrusted, StoreError, VizError

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from viz.chain.contracts import Chain
    from viz.chain.sender import Sender
    from viz.domain.ports.chain import Deployment

app = typer.Typer(no_args_is_help=True, help="Open, show and close a payment channel to a node.")

GasKey = Annotated[
    Path | None,
    typer.Option(
        "--gas-key",
        help="Key file, with the same password, of the account that pays the gas. Default: --key.",
    ),
]

app.command("show")(show_channel)
app.command("receipts")(receipts_out.receipts)
app.command("renew")(renewing.renew)


@app.command("open")
@guarded
def open_channel(
    deposit: Annotated[str, typer.Argument(help="Tokens to deposit, such as 2.50.")],
    key: KeyFile,
    node: ChannelNode = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: BuyerRpcOption = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Open a channel to a node with a deposit, or add to it. The node pays the gas."""
    from viz.buyer.wallet.wallet import KeyWallet
    from viz.chain.keys import load_key_file

    node = node_meant(node, folder)
    secret = password(password_file)
    wallet = load_key_file(key, secret)
    here = trusted_deployment(deployment, folder)
    units = parse_units(deposit, here.token_decimals)

    async def work() -> dict[str, Any]:
        async with channel_control(node, folder, deployment, lambda: secret, rpc) as control:
            opened = await control.open(KeyWallet(bytes(wallet.key)), units)
        try:
            remember_node(folder, checked(node))
        except StoreError as error:  # as an error it would look like that of a failed deposit
            said = f"the deposit arrived; later commands do not remember the node: {error.detail}"
            err.print(plain(said), markup=False, soft_wrap=True)
        return opened

    print_channel(run(work()), here, as_json=as_json)


@app.command()
@guarded
def forgive(
    allow: Annotated[
        str,
        typer.Option(
            help="How much the node may bill beyond what arrived, in total, such as 0.01."
        ),
    ] = "0",
    node: ChannelNode = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: BuyerRpcOption = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Use a node again that broke off answers, or billed something else than it sent."""
    node = node_meant(node, folder)
    here = trusted_deployment(deployment, folder)
    units = parse_units(allow, here.token_decimals)

    async def work() -> dict[str, Any]:
        secret = partial(password, password_file)
        async with channel_control(node, folder, deployment, secret, rpc) as control:
            return await control.forgive(units)

    found = run(work())
    print_channel(found, here, as_json=as_json)
    if found["distrusted"]:
        raise NodeNotTrusted(f"it was forgiven, and its next answer was: {found['distrusted']}")


@app.command("close")
@guarded
def close_channel(
    key: KeyFile,
    node: ChannelNode = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: BuyerRpcOption = "",
    gas_key: GasKey = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Close the channel at once, with the node's signature; the rest goes back to the wallet.

    If the node signs the close but does not send it, the command sends it to the chain of --rpc.
    """
    from viz.buyer.wallet.wallet import KeyWallet
    from viz.chain.keys import load_key_file

    node = node_meant(node, folder)
    secret = password(password_file)
    wallet = load_key_file(key, secret)
    here = trusted_deployment(deployment, folder)

    relayer = load_key_file(gas_key, secret) if gas_key else wallet

    async def work() -> dict[str, Any]:
        async with channel_control(
            node, folder, deployment, lambda: secret, rpc, uses_rpc=True
        ) as control:
            found = await control.close(KeyWallet(bytes(wallet.key)))
        if rpc and not _sent(found):
            found |= await _send_close(rpc, here, found["close"], relayer)
        elif rpc and found.get("seenClosed") is None:  # by a proxy that reads no chain
            try:
                found |= {"seenClosed": await _shown_closed(rpc, here, found, relayer)}
            except ChainError as error:  # the close stands, whatever this endpoint says
                found |= {"notSeen": error.detail}
        return found

    found = run(work())
    if not show(with_unit(found, here), as_json=as_json):
        again = _again(key, node, folder, deployment, password_file)
        out.print(_closed(found, here, wallet.address, again), soft_wrap=True)


def _sent(found: dict[str, Any]) -> bool:
    return found["transaction"] not in (None, "", "0x")


def _again(
    key: Path, node: str, folder: Path | None, deployment: Path | None, secret: Path | None
) -> str:
    """Return the command line that requests the close again and sends it."""
    options = {
        "--key": key,
        "--node": node,
        "--data-dir": folder,
        "--deployment": deployment,
        "--password-file": secret,
    }
    given = [str(word) for option in options.items() if option[1] for word in option]
    return f"{shlex.join(['viz', 'channel', 'close', *given])} --rpc URL"


def _closed(found: dict[str, Any], here: Deployment, payer: str, again: str) -> str:
    """Say how a close ended, and whether the chain or only the node says so."""
    settled = amount(int(found["settled"]), here)
    if not _sent(found):
        said = (
            f"the node agreed to close at {settled} and does not pay for the transaction, since "
            "the channel earned less than that costs. To send it yourself, run "
            f"`{again}`, where URL is the JSON-RPC URL of your chain. The wallet pays the gas, or "
            "the key of --gas-key"
        )
    elif found.get("seenClosed") is False:
        said = (
            f"the node says that it closed at {settled}, but your chain does not show it: look "
            "again with `viz channel show`; if that does not change, run `viz channel leave`"
        )
    else:
        said = f"closed at {settled} in all; the rest went back to {payer}"
        if found.get("seenClosed") is None:
            said += ". Only the node says so: look at the wallet, or " + (
                f"name another endpoint of your chain with --rpc ({fault})"
                if (fault := found.get("notSeen"))
                else "name your chain with --rpc"
            )
    billed, signed = (amount(int(found[name]), here) for name in ("billed", "signed"))
    if int(found["settled"]) < int(found["billed"]):
        said += ". That is less than was billed: the node's ledger lost the rest, which you keep"
    if int(found["settled"]) > int(found["signed"]):  # the buyer's own chain shows this total
        return (
            f"{said}. Your folder is an older copy: it knows only of {billed} billed and {signed} "
            "signed, and the total is what your chain shows"
        )
    return f"{said}. Billed were {billed}; signed, {signed}"


async def _send_close(
    rpc_url: str, here: Deployment, answer: dict[str, Any], relayer: LocalAccount
) -> dict[str, Any]:
    """Send the Close that the node signed; return its transaction hash for the report."""
    from viz.buyer.channels.unilateral_close import send_close
    from viz.protocol.messages import CloseAnswer

    signed = CloseAnswer.from_json(answer)
    try:
        async with _chain_of(rpc_url, here, relayer) as (chain, sender):
            done = await send_close(chain, sender, signed)
    except VizError as error:
        settled = amount(signed.close.settled_units, here)
        told = type(error)(
            f"{error.detail}. The node agreed to close at {settled}, which is not known to be on "
            "your chain: end this cause, and then run this command again. Or do nothing: until "
            f"{moment(signed.close.deadline_s)} by the chain's time the node sells nothing on this "
            "channel and takes no deposit, and after it the channel can be used as before",
            **error.extensions,
        )
        told.answered = error.answered
        raise told from error
    return {"transaction": hex_of(done.hash), "seenClosed": True}


async def _shown_closed(
    rpc_url: str, here: Deployment, found: dict[str, Any], relayer: LocalAccount
) -> bool:
    """Return whether the chain shows the close, waiting as long as a transaction takes."""
    from viz.buyer.channels.closing import shows_closed

    signer, node = parse_address(found["signer"]), parse_address(found["node"])
    async with _chain_of(rpc_url, here, relayer) as (chain, _):
        return await shows_closed(chain, signer, node)


@asynccontextmanager
async def _chain_of(
    rpc_url: str, here: Deployment, relayer: LocalAccount
) -> AsyncIterator[tuple[Chain, Sender]]:
    """Yield the chain at ``rpc_url``, and a sender of the relayer's transactions there."""
    from viz.chain.contracts import Chain
    from viz.chain.sender import Sender

    async with checked_rpc(rpc_url, here) as rpc:
        yield Chain(rpc, here), Sender(rpc, relayer, here)


@app.command()
@guarded
def leave(
    key: KeyFile,
    node_address: NodeAddress = "",
    signer: Signer = "",
    gas_key: GasKey = None,
    rpc: ChainUrl = "http://127.0.0.1:8545",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Get the deposit back without the node: request the close, and withdraw a day later.

    Each run takes the next step that the chain allows, and says when to run the command again. If
    the wallet has no gas, --gas-key names a key that sends what the wallet signs.
    """
    from viz.chain.keys import load_key_file

    here = trusted_deployment(deployment, folder)
    place = channel_kept(folder, here, node_address, signer)
    secret = password(password_file)
    payer = load_key_file(key, secret)
    relayer = load_key_file(gas_key, secret) if gas_key else payer
    found = run(_leave(rpc, here, place, payer, relayer))
    if not show(with_unit(found, here), as_json=as_json):
        _say_left(found, here)


async def _leave(
    rpc_url: str,
    here: Deployment,
    place: tuple[Address, Address],
    payer: LocalAccount,
    relayer: LocalAccount,
) -> dict[str, Any]:
    from viz.buyer.channels.unilateral_close import leave as step

    async with _chain_of(rpc_url, here, relayer) as (chain, sender):
        done = await step(chain, sender, bytes(payer.key), *place)
    return {
        "state": done.state,
        "signer": place[0],
        "node": place[1],
        "payer": done.payer,
        "deposit": str(done.deposit_units),
        "returned": str(done.returned_units),
        "withdrawableAt": done.withdrawable_at_s,
        "chainTime": done.chain_time_s,
        "transaction": hex_of(done.transaction_hash) if done.transaction_hash else None,
    }


def _say_left(found: dict[str, Any], here: Deployment) -> None:
    if found["state"] == "withdrawn":
        returned = amount(int(found["returned"]), here)
        out.print(f"withdrawn: {returned} went back to {found['payer']}", soft_wrap=True)
    elif found["state"] == "empty":
        out.print("this channel has no deposit: there is nothing to withdraw")
    else:
        said = (
            "close requested" if found["state"] == "requested" else "the close was requested before"
        )
        deposit = amount(int(found["deposit"]), here)
        out.print(
            f"{said}; run this command again after {moment(found['withdrawableAt'])} to withdraw",
            soft_wrap=True,
        )
        out.print(
            f"until then the node may claim what you signed, of a deposit of {deposit}",
            soft_wrap=True,
        )
