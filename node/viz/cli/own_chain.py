"""Define the options of the person's own chain endpoint, and check it against the deployment."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from viz.cli.console import data_dir
from viz.cli.http import RPC_VARIABLE
from viz.client.node_address import checked
from viz.errors import ChainUnreachable, ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from viz.chain.contracts import Chain
    from viz.chain.rpc import Rpc
    from viz.domain.ports.chain import Deployment

Direct = Annotated[
    bool, typer.Option("--direct", help="Send your own transaction; you pay its gas.")
]
CreatorRpcOption = Annotated[
    str,
    typer.Option(
        "--rpc",
        envvar=RPC_VARIABLE,
        help="JSON-RPC URL of a chain of your choice, to check the node, and for --direct.",
    ),
]
LicenseFileOption = Annotated[
    Path | None,
    typer.Option(
        "--license", help="License document made by `viz license new`; it sets all terms."
    ),
]
LOCAL_CHAIN: Final = "http://127.0.0.1:8545"
OTHER_CHAIN_REMEDY: Final = (
    f"correct --rpc ({RPC_VARIABLE}), or use the deployment file or the data folder (--data-dir) "
    "of that chain. Keep the present folder: what it holds is of its own chain"
)


def trusted_deployment(deployment: Path | None, folder: Path | None) -> Deployment:
    """Return the deployment that the person trusts; raise ConfigError that names `viz trust`."""
    from viz.chain.deployment import load_deployment

    return load_deployment(deployment or data_dir(folder) / "deployment.json")


def required_rpc(rpc: str, trusted: Deployment, what: str) -> str:
    """Return the chain's URL: as given, or the local one for a development chain.

    Raises ConfigError if there is none; the message says ``what`` needs it.
    """
    from viz.domain.ports.chain import DEVELOPMENT_CHAINS

    if rpc:
        return rpc
    if trusted.chain_id in DEVELOPMENT_CHAINS:
        return LOCAL_CHAIN
    raise ConfigError(
        f"{what} is read from the chain itself: give --rpc URL of a node of chain "
        f"{trusted.chain_id} that you believe, or set {RPC_VARIABLE}"
    )


@asynccontextmanager
async def checked_rpc(rpc_url: str, trusted: Deployment) -> AsyncIterator[Rpc]:
    """Yield the chain's endpoint, which has the deployment's contracts.

    If VIZ_RPC_URL named an endpoint that cannot be used, the error names the variable: the person
    may have forgotten it.
    """
    from viz.chain.rpc import Rpc

    async with AsyncExitStack() as ends:
        try:
            rpc = Rpc(checked(rpc_url, "a chain's address"))
            ends.push_async_callback(rpc.close)
            await rpc.check(trusted, OTHER_CHAIN_REMEDY)
        except (ConfigError, ChainUnreachable) as error:
            if given_here(rpc_url):
                raise
            raise type(error)(
                f"{error.detail}. {RPC_VARIABLE} names this endpoint: correct the variable, unset "
                "it, or name another endpoint with --rpc",
                **error.extensions,
            ) from error
        yield rpc


def given_here(rpc_url: str) -> bool:
    """Return whether a chain was named for this command alone, not for all by VIZ_RPC_URL."""
    return rpc_url not in ("", os.environ.get(RPC_VARIABLE))


@asynccontextmanager
async def own_chain(rpc_url: str, trusted: Deployment) -> AsyncIterator[Chain]:
    """Yield a reader of the chain, checked against the deployment."""
    from viz.chain.contracts import Chain
    from viz.chain.deploy import check_wiring

    async with checked_rpc(rpc_url, trusted) as rpc:
        await check_wiring(rpc, trusted)
        yield Chain(rpc, trusted)


@asynccontextmanager
async def chain_if_given(rpc_url: str, trusted: Deployment) -> AsyncIterator[Chain | None]:
    """Yield a reader of the chain as ``own_chain`` does; None without a URL."""
    if not rpc_url:
        yield None
        return
    async with own_chain(rpc_url, trusted) as chain:
        yield chain
