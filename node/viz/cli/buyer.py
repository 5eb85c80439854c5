"""`viz channel` and `viz buyer`: a buyer's money at one node, and what it buys."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    show,
    table,
    until_signal,
)
from viz.cli.http import NodeUrl
from viz.domain.units import ZERO_ADDRESS, format_units, parse_units

if TYPE_CHECKING:
    from viz.buyer.client import BuyerClient

app = typer.Typer(no_args_is_help=True, help="Ask a node's models, paying by signed vouchers.")
channel_app = typer.Typer(no_args_is_help=True, help="A buyer's deposit at a node.")

NODE = "http://127.0.0.1:8402"
DeploymentFile = Annotated[
    Path | None,
    typer.Option("--deployment", help="The contracts you trust; else deployment.json."),
]
RpcUrl = Annotated[
    str, typer.Option("--rpc", help="A chain of your own choice, to check adapters against.")
]


@asynccontextmanager
async def _client(
    node: str, folder: Path | None, deployment_file: Path | None, secret: str, rpc_url: str
) -> AsyncIterator[BuyerClient]:
    """Yield a client; its session keys and ledgers are below ``buyer`` in the data folder."""
    import aiohttp

    from viz.buyer.client import BuyerClient
    from viz.chain.contracts import Chain
    from viz.chain.deployment import load_deployment
    from viz.chain.rpc import Rpc

    deployment = load_deployment(deployment_file or data_dir(folder) / "deployment.json")
    async with AsyncExitStack() as ends:
        http = await ends.enter_async_context(aiohttp.ClientSession())
        chain = None
        if rpc_url:
            rpc = Rpc(rpc_url)
            ends.push_async_callback(rpc.close)
            await rpc.check(deployment)
            chain = Chain(rpc, deployment)
        client = await BuyerClient.connect(
            http,
            node,
            home=data_dir(folder) / "buyer",
            password=secret,
            expected=deployment,
            chain=chain,
        )
        ends.push_async_callback(client.aclose)
        yield client


# channels


@channel_app.command("open")
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
        async with _client(node, folder, deployment, secret, rpc) as client:
            units = parse_units(deposit, client.info.token_decimals)
            await client.open_channel(bytes(account.key), units)
            return _described(client)

    _print_channel(run(work()), as_json=as_json)


@channel_app.command("show")
@guarded
def show_channel(
    node: NodeUrl = NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what was deposited, signed and received."""
    secret = password(password_file)

    async def work() -> dict[str, Any]:
        async with _client(node, folder, deployment, secret, "") as client:
            await client.sync()
            return _described(client)

    _print_channel(run(work()), as_json=as_json)


@channel_app.command("close")
@guarded
def close_channel(
    key: KeyFile,
    node: NodeUrl = NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Close the channel at once, with the node's consent; the rest goes back to the wallet."""
    from viz.chain.keys import load_key_file

    secret = password(password_file)
    account = load_key_file(key, secret)

    async def work() -> dict[str, Any]:
        async with _client(node, folder, deployment, secret, "") as client:
            await client.sync()
            answer = await client.close_channel(bytes(account.key))
            return {
                "signer": client.signer,
                "settled": str(answer.close.settled_units),
                "transaction": "0x" + answer.transaction_hash.hex(),
                "decimals": client.info.token_decimals,
            }

    found = run(work())
    if not show(found, as_json=as_json):
        settled = format_units(int(found["settled"]), found["decimals"])
        out.print(f"closed at {settled} in all; the rest went back to {account.address}")


def _described(client: BuyerClient) -> dict[str, Any]:
    curve = client.curve
    return {
        "signer": curve.signer,
        "node": curve.node,
        "payer": curve.payer,
        "open": curve.payer != ZERO_ADDRESS,
        "deposit": str(curve.deposit_units),
        "settled": str(curve.settled_units),
        "signed": str(curve.total_units),
        "received": str(sum(curve.spent.values())),
        "receipts": curve.seq,
        "decimals": client.info.token_decimals,
    }


def _print_channel(found: dict[str, Any], *, as_json: bool) -> None:
    if show(found, as_json=as_json):
        return
    decimals = found["decimals"]
    money = ("deposit", "settled", "signed", "received")
    rows: list[tuple[str, object]] = [
        ("payer", found["payer"]),
        ("signer", found["signer"]),
        *((name, format_units(int(found[name]), decimals)) for name in money),
        ("receipts", found["receipts"]),
    ]
    table(f"Channel to {found['node']}", ("what", "#value"), rows)


# asking


@app.command()
@guarded
def ask(
    prompt: str,
    model: Annotated[str, typer.Option(help="viz-adapter-N, or the base model's name.")] = "",
    max_tokens: Annotated[int, typer.Option(help="The longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    node: NodeUrl = NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: RpcUrl = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question and pay for the answer while it streams."""
    secret = password(password_file)

    async def work() -> dict[str, Any]:
        async with _client(node, folder, deployment, secret, rpc) as client:
            body = {
                "model": model or client.info.adapters[-1].model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": max_tokens,
                "temperature": temperature,
            }
            async with client.ask(body) as answer:
                async for chunk in answer:
                    if not as_json:
                        _write(chunk)
            cost = format_units(answer.cost_units or 0, client.info.token_decimals)
            return {"model": body["model"], "text": answer.text, "cost": cost}

    found = run(work())
    if not show(found, as_json=as_json):
        out.print(f"\n[dim]{found['model']}, paid {found['cost']}[/dim]")


def _write(chunk: dict[str, Any]) -> None:
    for choice in chunk.get("choices", ()):
        sys.stdout.write(choice.get("delta", {}).get("content") or "")
        sys.stdout.flush()


@app.command()
@guarded
def proxy(
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8403,
    host: Annotated[str, typer.Option(help="Leave it: whoever reaches it spends.")] = "127.0.0.1",
    node: NodeUrl = NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: RpcUrl = "",
    password_file: PasswordFile = None,
) -> None:
    """Run a local OpenAI-compatible server that pays the node for every answer."""
    secret = password(password_file)

    async def work() -> None:
        import asyncio

        from viz.buyer.proxy import running_proxy

        async with (
            _client(node, folder, deployment, secret, rpc) as client,
            running_proxy(client, host=host, port=port) as url,
        ):
            out.print(f"OPENAI_BASE_URL={url}  (any OPENAI_API_KEY; it pays {client.info.node})")
            await asyncio.Event().wait()

    run(until_signal(work()))
