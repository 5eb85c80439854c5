"""`viz channel`: a buyer's deposit at a node."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viz.cli.buyer import NODE, DeploymentFile, RpcUrl, client_at
from viz.cli.console import (
    AsJson,
    DataDir,
    KeyFile,
    PasswordFile,
    data_dir,
    guarded,
    out,
    password,
    run,
    say,
    show,
    table,
)
from viz.cli.http import RPC_VARIABLE, NodeUrl, checked
from viz.domain.display import moment
from viz.domain.trust import WAY_BACK
from viz.domain.units import ZERO_ADDRESS, Address, format_units, hex_of, parse_address, parse_units
from viz.errors import ChannelUnknown, InvalidRequest

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

    from viz.buyer.client import BuyerClient
    from viz.domain.ports.chain import Deployment

app = typer.Typer(no_args_is_help=True, help="A buyer's deposit at a node.")

ChainUrl = Annotated[str, typer.Option("--rpc", envvar=RPC_VARIABLE, help="The chain's JSON-RPC.")]
GasKey = Annotated[
    Path | None,
    typer.Option(
        "--gas-key", help="Key file, of the same password, that pays the gas; else --key."
    ),
]
NodeAddress = Annotated[
    str, typer.Option("--node-address", help="Which channel to leave, where there are several.")
]
Signer = Annotated[
    str, typer.Option("--signer", help="The session key's address, where its file was lost.")
]


@app.command("open")
@guarded
def open_channel(
    deposit: Annotated[str, typer.Argument(help="Tokens to deposit, such as 2.50.")],
    key: KeyFile,
    node: NodeUrl = NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: RpcUrl = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Deposit into a channel to a node, without gas: the wallet signs, the node relays."""
    from viz.chain.keys import load_key_file

    secret = password(password_file)
    account = load_key_file(key, secret)

    async def work() -> dict[str, Any]:
        async with client_at(node, folder, deployment, secret, rpc) as client:
            units = parse_units(deposit, client.token_decimals)
            await client.open_channel(bytes(account.key), units)
            return _described(client)

    _print_channel(run(work()), as_json=as_json)


@app.command("show")
@guarded
def show_channel(
    node: NodeUrl = NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: RpcUrl = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what was deposited, signed and received; with --rpc the deposit as the chain has it."""
    secret = password(password_file)

    async def work() -> dict[str, Any]:
        async with client_at(node, folder, deployment, secret, rpc) as client:
            await client.look()
            return _described(client)

    _print_channel(run(work()), as_json=as_json)


@app.command()
@guarded
def forgive(
    allow: Annotated[
        str, typer.Option(help="Tokens that bills may exceed what arrived by, in all.")
    ] = "0",
    node: NodeUrl = NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask a node again that broke off answers, or that billed something else than it sent."""
    secret = password(password_file)

    async def work() -> dict[str, Any]:
        async with client_at(node, folder, deployment, secret, "") as client:
            client.forgive(parse_units(allow, client.token_decimals))
            await client.look()
            return _described(client)

    _print_channel(run(work()), as_json=as_json)


@app.command("close")
@guarded
def close_channel(
    key: KeyFile,
    node: NodeUrl = NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: RpcUrl = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Close the channel at once, with the node's consent; the rest goes back to the wallet."""
    from viz.chain.keys import load_key_file

    secret = password(password_file)
    account = load_key_file(key, secret)

    async def work() -> dict[str, Any]:
        async with client_at(node, folder, deployment, secret, rpc) as client:
            await client.look()
            answer = await client.close_channel(bytes(account.key))
            return {
                "signer": client.signer,
                "settled": str(answer.close.settled_units),
                "transaction": "0x" + answer.transaction_hash.hex(),
                "decimals": client.token_decimals,
            }

    found = run(work())
    if not show(found, as_json=as_json):
        settled = format_units(int(found["settled"]), found["decimals"])
        out.print(f"closed at {settled} in all; the rest went back to {account.address}")


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
    """Get the deposit back without the node: request the close, and after a day withdraw.

    Run it again when it says so; each run takes the step that the chain allows. It needs no node.
    Where the wallet has no gas, another key relays what it signs: --gas-key.
    """
    from viz.chain.deployment import load_deployment
    from viz.chain.keys import load_key_file

    trusted = load_deployment(deployment or data_dir(folder) / "deployment.json")
    place = _channel(folder, trusted, node_address, signer)
    secret = password(password_file)
    payer = load_key_file(key, secret)
    relayer = load_key_file(gas_key, secret) if gas_key else payer
    found = run(_leave(rpc, trusted, place, payer, relayer))
    if not show(found, as_json=as_json):
        _say_left(found)


def _channel(
    folder: Path | None, trusted: Deployment, node_address: str, signer: str
) -> tuple[Address, Address]:
    """Return signer and node of the channel to leave; raise InvalidRequest, ChannelUnknown."""
    from viz.buyer.ledger import channels_in

    home = data_dir(folder) / "buyer"
    if signer:
        if not node_address:
            raise InvalidRequest("--signer needs --node-address beside it")
        return parse_address(signer), parse_address(node_address)
    kept = channels_in(home, trusted)
    if node_address:
        wanted = parse_address(node_address)
        kept = {node: key for node, key in kept.items() if node == wanted}
    if not kept:
        raise ChannelUnknown(
            f"no session key of such a channel is in {home}: name its folder with --data-dir, or "
            "the channel with --node-address and --signer"
        )
    if len(kept) > 1:
        raise InvalidRequest(
            f"there are channels to {', '.join(kept)}: name one with --node-address"
        )
    (node, key), *_ = kept.items()
    return key, node


async def _leave(
    rpc_url: str,
    trusted: Deployment,
    place: tuple[Address, Address],
    payer: LocalAccount,
    relayer: LocalAccount,
) -> dict[str, Any]:
    from viz.buyer.leave import leave as step
    from viz.chain.contracts import Chain
    from viz.chain.rpc import Rpc
    from viz.chain.sender import Sender

    rpc = Rpc(checked(rpc_url, "a chain's address"))
    try:
        await rpc.check(trusted)
        sender = Sender(rpc, relayer, trusted)
        done = await step(Chain(rpc, trusted), sender, bytes(payer.key), *place)
    finally:
        await rpc.close()
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
        "decimals": trusted.token_decimals,
    }


def _say_left(found: dict[str, Any]) -> None:
    decimals = found["decimals"]
    if found["state"] == "withdrawn":
        returned = format_units(int(found["returned"]), decimals)
        out.print(f"withdrawn: {returned} went back to {found['payer']}")
    elif found["state"] == "empty":
        out.print("nothing is deposited in this channel")
    else:
        said = "the close is requested" if found["state"] == "requested" else "the close is running"
        deposit = format_units(int(found["deposit"]), decimals)
        after = datetime.fromtimestamp(found["withdrawableAt"], UTC)
        out.print(
            f"{said}; until then the node may claim what was signed, of a deposit of {deposit}",
            soft_wrap=True,
        )
        out.print(f"run this again after {after:%Y-%m-%d %H:%M:%S} UTC to withdraw")


def _described(client: BuyerClient) -> dict[str, Any]:
    curve = client.curve
    return {
        "signer": curve.signer,
        "node": curve.node,
        "payer": curve.payer,
        "open": curve.payer != ZERO_ADDRESS,
        "closeAt": curve.close_at_s,
        "distrusted": client.purse.fault,
        "deposit": str(curve.deposit_units),
        "settled": str(curve.settled_units),
        "signed": str(curve.total_units),
        "received": str(sum(curve.spent.values())),
        "receipts": curve.seq,
        "decimals": client.token_decimals,
    }


def _print_channel(found: dict[str, Any], *, as_json: bool) -> None:
    if show(found, as_json=as_json):
        return
    decimals = found["decimals"]
    money = ("deposit", "settled", "signed", "received")
    rows: list[tuple[str, object]] = [
        ("state", _state(found)),
        ("payer", found["payer"]),
        ("signer", found["signer"]),
        *((name, format_units(int(found[name]), decimals)) for name in money),
        ("receipts", found["receipts"]),
    ]
    table(f"Channel to {found['node']}", ("what", "#value"), rows)
    if found["distrusted"]:
        say(f"nothing more is asked of this node: {found['distrusted']}. {WAY_BACK}")


def _state(found: dict[str, Any]) -> str:
    if found["closeAt"]:
        return f"closing; it can be withdrawn from {moment(found['closeAt'])} on"
    return "open" if found["open"] else "not open"
