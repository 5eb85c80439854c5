"""`viz content`: a creator's works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from viz.cli.console import (
    AsJson,
    KeyFile,
    PasswordFile,
    guarded,
    out,
    password,
    run,
    show,
    table,
)
from viz.cli.http import RPC_VARIABLE, NodeUrl, checked, get_json
from viz.cli.operator import license_work
from viz.domain.units import format_units, parse_address

app = typer.Typer(no_args_is_help=True, help="Register works, license them, look at them.")
app.command("license")(license_work)

Direct = Annotated[bool, typer.Option("--direct", help="Register by an own transaction (gas).")]
RpcUrl = Annotated[
    str, typer.Option("--rpc", envvar=RPC_VARIABLE, help="With --direct: the chain's JSON-RPC.")
]
DeploymentFile = Annotated[
    Path, typer.Option("--deployment", help="With --direct: where the contracts are.")
]


@app.command()
@guarded
def register(
    work: Annotated[Path, typer.Argument(help="A folder with a terms.toml, or a terms file.")],
    key: KeyFile,
    node: NodeUrl = "http://127.0.0.1:8402",
    direct: Direct = False,
    rpc: RpcUrl = "http://127.0.0.1:8545",
    deployment: DeploymentFile = Path(".viz/deployment.json"),
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Register a work and its license on chain: signed and relayed by a node, or --direct.

    The relayed way costs no gas. The record with the salt is written beside the work, as
    <work>.registration.json: keep it; a trainer needs it to check the work.
    """
    from viz.chain.keys import load_key_file
    from viz.services.registration import record_path

    terms = work / "terms.toml" if work.is_dir() else work
    account = load_key_file(key, password(password_file))
    way = (
        _direct(terms, account, rpc, deployment)
        if direct
        else _relayed(terms, account, checked(node))
    )
    done, decimals = run(way)
    if show({k: v for k, v in done.to_json().items() if k != "salt"}, as_json=as_json):
        return
    fee = format_units(done.terms.training_fee_units, decimals)
    out.print(f"registered  work {done.content_id}: {done.title}")
    out.print(f"creator     {done.creator}")
    out.print(f"terms       fee {fee}, at least {done.terms.min_royalty_bps} bps of revenue")
    out.print(
        f"record      {record_path(terms.parent / done.file)} (holds the salt: keep it)",
        soft_wrap=True,
    )


async def _relayed(terms: Path, account: Any, node: str) -> tuple[Any, int]:
    from viz.services import registration as creator

    address = parse_address(account.address)
    context = await creator.registration_context(address, node)
    description = creator.read_description(terms, token_decimals=context.token_decimals)
    path = terms.parent / description.file
    made = creator.draft(path, description, address)
    done = await creator.register_through_node(path, made, bytes(account.key), node)
    return done, context.token_decimals


async def _direct(terms: Path, account: Any, rpc_url: str, where: Path) -> tuple[Any, int]:
    from viz.chain.deployment import load_deployment
    from viz.chain.rpc import Rpc
    from viz.chain.sender import Sender
    from viz.services import registration as creator

    deployment = load_deployment(where)
    description = creator.read_description(terms, token_decimals=deployment.token_decimals)
    path = terms.parent / description.file
    rpc = Rpc(checked(rpc_url, "a chain's address"))
    try:
        await rpc.check(deployment)
        made = creator.draft(path, description, parse_address(account.address))
        done = await creator.register_directly(path, made, Sender(rpc, account, deployment))
    finally:
        await rpc.close()
    return done, deployment.token_decimals


@app.command("show")
@guarded
def show_work(
    content_id: Annotated[int, typer.Argument(min=1, help="The work's id on the chain.")],
    node: NodeUrl = "http://127.0.0.1:8402",
    as_json: AsJson = False,
) -> None:
    """Show a work as the chain has it: its owner, terms and withdrawal."""
    found = run(get_json(node, f"/viz/v1/contents/{content_id}"))
    if not show(found, as_json=as_json):
        table(f"Work {content_id}", ("what", "value"), found.items())
