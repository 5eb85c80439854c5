"""Run a node: `viz node` on an existing chain, `viz up` with a local chain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from viz.cli.console import AsJson, DataDir, guarded, out, run, show, until_signal
from viz.cli.operator.announcing import announce, withdraw
from viz.cli.operator.preparing import preparing
from viz.cli.operator.testnet import described

if TYPE_CHECKING:
    from viz.localnet import Localnet
    from viz.settings.config import Config

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings file (see viz.example.toml).")
]
_STOPPING: Final = (
    "Stopping: running answers end and are billed, a training run saves its step, the ledger is "
    "closed. This takes some seconds."
)
NewLedger = Annotated[
    bool,
    typer.Option(
        "--new-ledger", help="Begin an empty ledger, even if the chain has channels of this node."
    ),
]
ApiPort = Annotated[int | None, typer.Option("--port", help="Port of the node's HTTP interface.")]


node_app = typer.Typer(
    invoke_without_command=True, help="Run a node, and announce it in the directory of nodes."
)
node_app.command("announce")(announce)
node_app.command("withdraw")(withdraw)


@node_app.callback()
@guarded
def node(
    context: typer.Context,
    config: ConfigFile = None,
    folder: DataDir = None,
    port: ApiPort = None,
    new_ledger: NewLedger = False,
    as_json: AsJson = False,
) -> None:
    """Run a node on an existing chain: serve, train and settle, until interrupted.

    A subcommand (see below) is done by the node that is already running.
    """
    if context.invoked_subcommand is not None:
        return
    from viz.settings.config import load

    settings = load(config, **_given(folder, port))
    run(until_signal(_run(settings, as_json, new_ledger), _STOPPING), serves=True)


@guarded
def up(
    folder: DataDir = None,
    port: ApiPort = None,
    rpc_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of the local chain.")
    ] = 8545,
    kubo: Annotated[
        bool, typer.Option("--kubo", help="Also run an IPFS daemon, and store blobs in it.")
    ] = False,
    config: ConfigFile = None,
    new_ledger: NewLedger = False,
    as_json: AsJson = False,
) -> None:
    """Run a local chain with the contracts and a node; their state stays on disk."""
    from viz.settings.config import load

    settings = load(config, **_given(folder, port))
    run(until_signal(_up(settings, rpc_port, kubo, as_json, new_ledger), _STOPPING), serves=True)


def _given(folder: Path | None, port: int | None) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if folder is not None:
        given["data_dir"] = str(folder)
    if port is not None:
        given["api"] = {"port": port}
    return given


async def _run(config: Config, as_json: bool, new_ledger: bool) -> None:
    from viz import log
    from viz.node import Node, run_node

    log.configure(config.log.level, config.log.format)

    async def ready(started: Node) -> None:
        said = {"node": started.address, "url": started.url, "dataDir": str(config.data_dir)}
        if show(said, as_json=as_json, runs_on=True):
            return
        out.print(f"node    {started.address}")
        out.print(f"serves  {started.url}")
        out.print(f"ledger  {config.data_dir}", soft_wrap=True)

    with preparing() as report:
        await run_node(config, ready, new_ledger=new_ledger, report=report)


async def _up(config: Config, rpc_port: int, kubo: bool, as_json: bool, new_ledger: bool) -> None:
    from viz import log
    from viz.localnet import Localnet
    from viz.node import Node, run_node

    log.configure(config.log.level, config.log.format)
    net = await Localnet.start(config.data_dir, rpc_port=rpc_port, kubo=kubo)
    try:
        settings = _on_localnet(config, net)

        async def ready(started: Node) -> None:
            said = {"node": started.address, "url": started.url, **described(net)}
            if not show(said, as_json=as_json, runs_on=True):
                _say_up(net, started)

        with preparing() as report:
            await run_node(settings, ready, new_ledger=new_ledger, report=report)
    finally:
        await net.stop()


def _on_localnet(config: Config, net: Localnet) -> Config:
    """Return the settings with the local chain and storage; all others stay as they are."""
    storage = {"backend": "kubo", "kubo_api": net.kubo.api} if net.kubo else {}
    return config.model_validate(
        config.model_dump()
        | {
            "key_password": net.password,
            "chain": config.chain.model_dump() | {"rpc_url": net.devnet.url},
            "storage": config.storage.model_dump() | storage,
            # People try a market of several nodes on one machine first.
            "network": config.network.model_dump() | {"private_addresses": True},
        }
    )


def _say_up(net: Any, started: Any) -> None:
    lines = [
        ("chain", f"{net.devnet.url}  (id {net.deployment.chain_id}, play money)"),
        ("token", net.deployment.token),
        ("contents", net.deployment.content_registry),
        ("adapters", net.deployment.adapter_registry),
        ("settlement", net.deployment.settlement),
        ("directory", net.deployment.node_directory),
        ("node", f"{started.address}  at {started.url}"),
        ("state", str(net.folder)),
    ]
    if net.kubo is not None:
        lines.insert(-1, ("ipfs", net.kubo.api))
    for name, value in lines:
        out.print(f"{name:<11} {value}", soft_wrap=True)
    out.print("\nTry it:")
    out.print(f"  curl -s {started.url}/viz/v1/node", soft_wrap=True)
    out.print(f"  viz buyer proxy --node {started.url}", soft_wrap=True)
    out.print("Stop with Ctrl-C; the state stays.")
