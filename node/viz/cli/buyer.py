"""`viz buyer`: a node's models, asked and paid for."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viz.cli.console import (
    AsJson,
    DataDir,
    PasswordFile,
    data_dir,
    guarded,
    out,
    password,
    plain,
    run,
    say,
    show,
    until_signal,
)
from viz.cli.http import NodeUrl, checked
from viz.domain.units import format_units, parse_units
from viz.errors import ConfigError, UnknownModel

if TYPE_CHECKING:
    from viz.buyer.client import BuyerClient
    from viz.buyer.verify import Limits
    from viz.domain.ports.chain import Deployment

app = typer.Typer(no_args_is_help=True, help="Ask a node's models, paying by signed vouchers.")

NODE = "http://127.0.0.1:8402"
DeploymentFile = Annotated[
    Path | None,
    typer.Option("--deployment", help="The contracts you trust; else deployment.json."),
]
RpcUrl = Annotated[
    str, typer.Option("--rpc", help="A chain of your own choice, to check adapters against.")
]
MaxPrice = Annotated[
    str,
    typer.Option(help="Pay at most this, in whole tokens, for a million tokens of either kind."),
]
MaxPromptPrice = Annotated[str, typer.Option(help="The same, for a million prompt tokens.")]
MaxCompletionPrice = Annotated[str, typer.Option(help="The same, for a million completion tokens.")]


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that the buyer says a million tokens may cost; empty where nothing is said."""

    either: str = ""
    prompt: str = ""
    completion: str = ""

    def limits(self, deployment: Deployment) -> Limits:
        """Return the limits in the token's units; raise InvalidRequest for what is no amount."""
        from viz.buyer.prices import limits_in

        def units(text: str) -> int | None:
            return parse_units(text, deployment.token_decimals) if text else None

        return limits_in(
            deployment,
            prompt_price_units=units(self.prompt or self.either),
            completion_price_units=units(self.completion or self.either),
        )


@asynccontextmanager
async def client_at(
    node: str,
    folder: Path | None,
    deployment_file: Path | None,
    secret: str,
    rpc_url: str,
    caps: Caps | None = None,
) -> AsyncIterator[BuyerClient]:
    """Yield a client; its session keys and ledgers are below ``buyer`` in the data folder."""
    import aiohttp

    from viz.buyer.client import BuyerClient
    from viz.chain.deployment import load_deployment

    deployment = load_deployment(deployment_file or data_dir(folder) / "deployment.json")
    async with AsyncExitStack() as ends:
        http = await ends.enter_async_context(aiohttp.ClientSession())
        chain = None
        if rpc_url:
            # web3 takes a second of CPU to import: whoever names no chain does without it.
            from viz.chain.contracts import Chain
            from viz.chain.rpc import Rpc

            rpc = Rpc(checked(rpc_url, "a chain's address"))
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
            limits=(caps or Caps()).limits(deployment),
        )
        ends.push_async_callback(client.aclose)
        yield client


@app.command()
@guarded
def ask(
    prompt: Annotated[str, typer.Argument(help="The question.")],
    model: Annotated[str, typer.Option(help="viz-adapter-N, or the base model's name.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_price: MaxPrice = "",
    max_prompt_price: MaxPromptPrice = "",
    max_completion_price: MaxCompletionPrice = "",
    node: NodeUrl = NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: RpcUrl = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question and pay for the answer while it streams."""
    secret = password(password_file)
    caps = Caps(max_price, max_prompt_price, max_completion_price)

    async def work() -> dict[str, Any]:
        async with client_at(node, folder, deployment, secret, rpc, caps) as client:
            if not (model or client.info.adapters):
                raise UnknownModel(f"the node at {node} has nothing on offer now")
            body = {
                "model": model or client.info.adapters[-1].model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": max_tokens,
                "temperature": temperature,
            }
            async with client.ask(body) as answer:
                shown = 0
                async for _ in answer:
                    if not as_json:
                        _write(answer.text[shown:])
                        shown = len(answer.text)
            cost = format_units(answer.cost_units or 0, client.token_decimals)
            return {"model": body["model"], "text": answer.text, "cost": cost}

    found = run(work())
    if not show(found, as_json=as_json):
        out.print()
        say(f"{found['model']}, paid {found['cost']}", style="dim")


def _write(text: str) -> None:
    sys.stdout.write(plain(text, keep="\n\t"))
    sys.stdout.flush()


@app.command()
@guarded
def proxy(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port to listen on.")] = 8403,
    host: Annotated[str, typer.Option(help="Leave it: whoever reaches it spends.")] = "127.0.0.1",
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="Holds what programs give as OPENAI_API_KEY."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name besides this machine's by which programs reach the proxy."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="A web page that may spend, by its origin: https://app.example."),
    ] = None,
    max_price: MaxPrice = "",
    max_prompt_price: MaxPromptPrice = "",
    max_completion_price: MaxCompletionPrice = "",
    node: NodeUrl = NODE,
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    rpc: RpcUrl = "",
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Run a local OpenAI-compatible server that pays the node for every answer."""
    secret = password(password_file)
    key = _api_key(api_key_file)
    caps = Caps(max_price, max_prompt_price, max_completion_price)

    async def work() -> None:
        import asyncio

        from viz.buyer.proxy import running_proxy

        async with (
            client_at(node, folder, deployment, secret, rpc, caps) as client,
            running_proxy(
                client,
                host=host,
                port=port,
                key=key,
                hosts=allow_host or (),
                origins=allow_origin or (),
            ) as url,
        ):
            said = {"url": url, "node": client.info.node, "signer": client.signer}
            if not show(said, as_json=as_json, runs_on=True):
                which = f"the OPENAI_API_KEY in {api_key_file}" if key else "any OPENAI_API_KEY"
                out.print(f"OPENAI_BASE_URL={url}  ({which}; it pays {said['node']})")
            await asyncio.Event().wait()

    run(until_signal(work()))


def _api_key(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the key file {file} cannot be read: {error}") from error
    if not key:
        raise ConfigError(f"the key file {file} is empty: write a long random word into it")
    return key
