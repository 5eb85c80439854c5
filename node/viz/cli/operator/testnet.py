"""Run `viz testnet`: a local chain with the contracts of Viz, and play money."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viz.cli.console import (
    AsJson,
    DataDir,
    data_dir,
    guarded,
    out,
    run,
    show,
    table,
    until_signal,
)
from viz.cli.http import RPC_VARIABLE
from viz.client.node_address import checked
from viz.domain.display import amount, duration, moment
from viz.domain.units import hex_of, parse_address, parse_units
from viz.errors import InvalidRequest

if TYPE_CHECKING:
    from viz.localnet import Localnet

LocalChain = Annotated[
    str,
    typer.Option("--rpc", "--rpc-url", envvar=RPC_VARIABLE, help="The local chain's JSON-RPC URL."),
]
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MAX_S = 366 * 86_400

app = typer.Typer(no_args_is_help=True, help="Run a local chain with play money, to try Viz.")


@app.command("run")
@guarded
def serve(
    folder: DataDir = None,
    rpc_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of the chain; 0: any free port.")
    ] = 8545,
    kubo: Annotated[bool, typer.Option("--kubo", help="Also run an IPFS daemon.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a local chain with the contracts, until interrupted; its state stays on disk."""
    run(until_signal(_serve(data_dir(folder), rpc_port, kubo, as_json)), serves=True)


async def _serve(folder: Path, rpc_port: int, kubo: bool, as_json: bool) -> None:
    from viz.localnet import Localnet

    net = await Localnet.start(folder, rpc_port=rpc_port, kubo=kubo)
    try:
        said = described(net)
        if not show(said, as_json=as_json, runs_on=True):
            out.print(f"chain {net.deployment.chain_id} at {net.devnet.url}, state in {folder}")
            rows = [(k, v) for k, v in said["deployment"].items() if str(v).startswith("0x")]
            table("Contracts", ("contract", "address"), rows)
        await net.devnet.wait()
    finally:
        await net.stop()


def described(net: Localnet) -> dict[str, Any]:
    """Describe a local chain: its URL, its folder and its contracts."""
    deployment = net.deployment
    return {
        "rpc": net.devnet.url,
        "kubo": net.kubo.api if net.kubo else None,
        "operator": net.operator.address,
        "dataDir": str(net.folder),
        "deployment": {
            name: hex_of(value) if isinstance(value, bytes) else value
            for name in deployment.__slots__
            for value in (getattr(deployment, name),)
        },
    }


@app.command()
@guarded
def fund(
    account: Annotated[str, typer.Argument(help="Address of the account.")],
    tokens: Annotated[
        str, typer.Option(help="Amount of the payment token to mint, such as 10.")
    ] = "0",
    gas: Annotated[
        str, typer.Option(help="Amount of the chain's coin to add, for gas, such as 1.")
    ] = "0",
    rpc_url: LocalChain = "http://127.0.0.1:8545",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Give an account play money on the local chain."""
    from viz.chain.deployment import load_deployment
    from viz.localnet import fund as give

    deployment = load_deployment(data_dir(folder) / "deployment.json")
    address = parse_address(account)
    units, wei = parse_units(tokens, deployment.token_decimals), parse_units(gas, 18)
    if not (units or wei):
        raise InvalidRequest("say what to give: --tokens 10 to pay with, --gas 1 to send with")
    run(give(checked(rpc_url, "a chain's address"), deployment, address, wei=wei, units=units))
    given = {"account": address, "tokens": tokens, "gas": gas}
    if not show(given, as_json=as_json):
        out.print(f"{address} received {amount(units, deployment)}, and {gas} for gas")


@app.command("pass")
@guarded
def pass_time(
    length: Annotated[str, typer.Argument(help="Duration: 90s, 30m, 25h or 2d.")],
    rpc_url: LocalChain = "http://127.0.0.1:8545",
    as_json: AsJson = False,
) -> None:
    """Move the local chain's time forward, to try things at once that take a day.

    The time never goes back: the chain stays ahead of this machine's clock.
    """
    from viz.localnet import pass_time as let_pass

    seconds = _seconds(length)
    time_s = run(let_pass(checked(rpc_url, "a chain's address"), seconds))
    if not show({"passed": seconds, "chainTime": time_s}, as_json=as_json):
        out.print(f"{duration(seconds)} passed: the chain's time is {moment(time_s)}")


def _seconds(length: str) -> int:
    """Parse a duration: a number and s, m, h or d."""
    number, unit = length[:-1], _UNITS.get(length[-1:])
    short = number.isascii() and number.isdecimal() and len(number) < 10
    if not (short and unit and 0 < int(number) * unit <= _MAX_S):
        raise InvalidRequest(f"{length!r} is not a duration of at most a year: write it like 25h")
    return int(number) * unit
