"""Show what an owner has: `viz content list` and `show`, and `viz wallet balance`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    PasswordFile,
    WorkId,
    data_dir,
    guarded,
    password,
    run,
    show,
    table,
)
from viz.cli.creator.terms import terms_in_words
from viz.cli.http import LOCAL_NODE, NodeUrl, get_as
from viz.cli.noticed import notices_rows
from viz.cli.own_chain import CreatorRpcOption, chain_if_given, own_chain, trusted_deployment
from viz.client.node_address import checked
from viz.domain.display import amount, coin, moment, percent
from viz.errors import InvalidRequest

if TYPE_CHECKING:
    from viz.creator.work_view import WorkView
    from viz.creator.works import WorkReader
    from viz.domain.ports.chain import Deployment
    from viz.domain.units import Address
    from viz.protocol.owner_actions import AccountView

app = typer.Typer(no_args_is_help=True, help="Show what an account has.")

Account = Annotated[
    str, typer.Argument(help="Address. Default: that of --key.", show_default=False)
]
SomeKey = Annotated[Path | None, typer.Option("--key", help="Encrypted key file, for its address.")]


def account_of(text: str, key: Path | None, password_file: Path | None) -> Address:
    """Return the address that a command is about; raise InvalidRequest if none is given."""
    from viz.domain.units import parse_address

    if text:
        return parse_address(text)
    if key is None:
        raise InvalidRequest("no account is named: give an address, or a key file with --key")
    from viz.chain.keys import load_key_file

    return parse_address(str(load_key_file(key, password(password_file)).address))


@guarded
def list_works(
    account: Account = "",
    key: SomeKey = None,
    node: NodeUrl = LOCAL_NODE,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """List the works that an account owns, with their terms, from a node or the chain (--rpc)."""
    trusted = trusted_deployment(deployment, folder)
    owner = account_of(account, key, password_file)
    found = run(_owned(owner, checked(node), rpc, trusted))
    if show([_work_json(view) for view in found], as_json=as_json):
        return
    rows = [
        (
            view.content.content_id,
            _state(view),
            amount(view.offered.terms.training_fee_units, trusted) if view.offered else "",
            percent(view.offered.terms.min_royalty_bps) if view.offered else "",
            view.offered.terms.revocation_class if view.offered else "",
            "approval" if view.offered and view.offered.terms.approval_required else "",
        )
        for view in found
    ]
    columns = ("#work", "state", "#training fee", "#royalty, at least", "#class", "asks for")
    table(f"Works of {owner}, {_source(node, rpc)}", columns, rows)


@guarded
def show_work(
    content_id: WorkId,
    node: NodeUrl = LOCAL_NODE,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Show a work, its owner, terms and withdrawal: from a node, or from the chain with --rpc."""
    from viz.chain.deployment import find_deployment, load_deployment

    file = deployment or data_dir(folder) / "deployment.json"
    trusted = load_deployment(file) if rpc or deployment else find_deployment(file)
    found = run(_work(content_id, checked(node), rpc, trusted), logs=bool(rpc))
    if show(_work_json(found), as_json=as_json):
        return
    from viz.domain.units import hex_of

    content, offered = found.content, found.offered
    rows: list[tuple[str, object]] = [
        ("owner", content.owner),
        ("creator", content.creator),
        ("commitment", hex_of(content.commitment)),
        ("withdrawn", moment(content.withdrawn_at) if content.withdrawn_at else "no"),
        ("terms hash", hex_of(content.terms_hash)),
    ]
    if offered is not None:
        rows += terms_in_words(offered.terms, trusted)
        rows.append(("license text", hex_of(offered.license_hash)))
    if found.notices is not None:
        rows += notices_rows({"notices": found.notices})
    rows.append(_read_from(node, rpc))
    table(f"Work {content_id}", ("what", "value"), rows)


async def _work(content_id: int, node: str, rpc: str, trusted: Deployment | None) -> WorkView:
    from viz.creator.work_view import work_from_json
    from viz.domain.units import ContentId

    if not rpc or trusted is None:
        read = partial(work_from_json, ContentId(content_id))
        return await get_as(read, node, f"/viz/v1/contents/{content_id}")
    async with own_chain(rpc, trusted) as chain:
        return await _works(chain, node).work(ContentId(content_id))


def _read_from(node: str, rpc: str) -> tuple[str, str]:
    return "read from", "the chain" if rpc else f"{node}, unchecked: --rpc URL reads the chain"


async def _owned(owner: Address, node: str, rpc: str, trusted: Deployment) -> list[WorkView]:
    async with chain_if_given(rpc, trusted) as chain:
        works = _works(chain, node)
        return [await works.work(each) for each in await works.owned(owner)]


def _works(chain: Any, node: str) -> WorkReader:
    from viz.creator.works import ChainWorks, NodeWorks

    return ChainWorks(chain) if chain is not None else NodeWorks(node)


def _state(view: WorkView) -> str:
    withdrawn = view.content.withdrawn_at
    return f"withdrawn {moment(withdrawn)}" if withdrawn else "on offer"


def _source(node: str, rpc: str) -> str:
    return "as the chain has them" if rpc else f"as {node} says"


def _work_json(view: WorkView) -> dict[str, Any]:
    from viz.domain.units import hex_of

    content, offered = view.content, view.offered
    found: dict[str, Any] = {
        "contentId": int(content.content_id),
        "owner": content.owner,
        "creator": content.creator,
        "commitment": hex_of(content.commitment),
        "termsHash": hex_of(content.terms_hash),
        "withdrawnAt": content.withdrawn_at,
    }
    if offered is not None:
        terms = {name: getattr(offered.terms, name) for name in offered.terms.__slots__}
        found |= {"terms": terms, "licenseHash": hex_of(offered.license_hash)}
    return found if view.notices is None else found | {"notices": view.notices}


@app.command()
@guarded
def balance(
    account: Account = "",
    key: SomeKey = None,
    node: NodeUrl = LOCAL_NODE,
    rpc: CreatorRpcOption = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Show an account's tokens, its balance in Settlement, and its coin for gas."""
    trusted = trusted_deployment(deployment, folder)
    asked = account_of(account, key, password_file)
    found = run(_account(asked, checked(node), rpc, trusted))
    if show({**found.to_json(), "onChain": bool(rpc)}, as_json=as_json):
        return
    rows: list[tuple[str, object]] = [
        ("in the wallet", amount(found.token_units, trusted)),
        ("to collect from Settlement", amount(found.collectable_units, trusted)),
        ("for gas", coin(found.coin_wei)),
        _read_from(node, rpc),
    ]
    if found.collected_to != asked:
        rows.insert(2, ("collected to", found.collected_to))
    table(str(asked), ("what", "#value"), rows)


async def _account(asked: Address, node: str, rpc: str, trusted: Deployment) -> AccountView:
    async with chain_if_given(rpc, trusted) as chain:
        return await _works(chain, node).account(asked)
