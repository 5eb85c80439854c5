"""Run `viz trust`: check a node's chain and contracts once, and keep them for later commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from viz.cli.buyer.networking import remember_node
from viz.cli.console import (
    AsJson,
    DataDir,
    Yes,
    agreed,
    data_dir,
    err,
    guarded,
    lines,
    out,
    run,
    say,
    show,
)
from viz.cli.http import RPC_VARIABLE, ask
from viz.client.node_address import checked
from viz.domain.display import NO_SYMBOL, counted
from viz.errors import ChainMismatch, ConfigError
from viz.protocol.answers import no_answer

if TYPE_CHECKING:
    from viz.domain.ports.chain import Deployment

_LOCAL = ("127.0.0.1", "localhost", "::1")


@guarded
def trust(
    url: Annotated[str, typer.Argument(help="URL of the node that you want to use.")],
    published: Annotated[
        str,
        typer.Option(help="Deployment file, or its https URL, from a source that you trust."),
    ] = "",
    rpc: Annotated[
        str,
        typer.Option(
            "--rpc",
            envvar=RPC_VARIABLE,
            help="JSON-RPC URL of a chain of your choice, to check on.",
        ),
    ] = "",
    folder: DataDir = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Show a node's chain, contracts and token, and keep them: you then pay and sign only on these.

    Run it once for a data folder. Later commands refuse a node that uses others. With --published
    and --rpc, the node's answer is compared with that file and checked on that chain.
    """
    place = data_dir(folder) / "deployment.json"
    found, notes, kept = run(_found(checked(url), published, rpc, place), logs=bool(rpc))
    said = _said(found)
    if not as_json or not (yes or kept):
        lines(f"The node at {url} works on", said, to=err if as_json else out)
        for note in notes:
            (err if as_json else out).print(f"  {note}", markup=False, soft_wrap=True)
    if not kept:
        agreed("Pay and sign on this chain, with these contracts and this token?", yes=yes)
    if found != kept:
        from viz.chain.deployment import save_deployment

        save_deployment(place, found)
    remember_node(folder, checked(url))
    if not show({**_json(found), "file": str(place), "notes": notes}, as_json=as_json):
        say(f"{'already trusted' if kept else 'kept'}  {place}")


async def _found(
    url: str, published: str, rpc_url: str, place: Path
) -> tuple[Deployment, list[str], Deployment | None]:
    """Return the deployment to trust, what to tell of it, and what ``place`` has already."""
    from viz.chain.deployment import differences, find_deployment, parse_deployment
    from viz.protocol.payment import DEPLOYMENT_PATH

    answer = await ask(
        "GET", url, DEPLOYMENT_PATH, remedy="check the URL, and whether its operator runs the node"
    )
    try:
        told = parse_deployment(answer, f"what {url} answers")
    except ConfigError as error:
        raise no_answer(error.detail) from error
    notes, symbols = [], {"this node says": told.token_symbol}
    if published:
        ours = await _published(published)
        if different := differences(ours, told):
            name, mine, theirs = different[0]
            raise ChainMismatch(
                f"the node's {name} is {theirs}, but {published} has {mine}: do not use this node "
                "with that deployment"
            )
        notes.append(f"compared with {published}: the same")
        told = ours
        symbols[f"{published} says"] = ours.token_symbol
    kept = find_deployment(place)
    if kept is not None:
        _require_same(place, kept, told)
        symbols[f"{place} said"] = kept.token_symbol
    if rpc_url:
        dated, symbol = await _checked(told, rpc_url)
        notes.append(f"checked on the chain of {rpc_url}: contracts, wiring and decimals are right")
        if symbol != NO_SYMBOL:
            symbols["it calls itself on that chain"] = symbol
        if not dated:
            notes.append(
                f"whether block {told.first_block} is before the contracts' first event was not "
                "checked: the endpoint keeps no states so old"
            )
    source, symbol = symbols.popitem()  # the last is the best source
    if not notes:
        notes.append(
            "only the node says so: compare it with what its operator or the project published "
            "(--published), or check it on a chain of your choice (--rpc)"
        )
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname not in _LOCAL:
            notes.append(
                "it came over plain HTTP: anyone on the network path could have changed it"
            )
    if others := {who: each for who, each in symbols.items() if each not in {NO_SYMBOL, symbol}}:
        other = ", ".join(f"{who} {each}" for who, each in others.items())
        notes.append(f"amounts are shown in {symbol}, as {source}; {other}")
    return replace(told, token_symbol=symbol), notes, kept


async def _published(where: str) -> Deployment:
    from viz.chain.deployment import load_deployment, parse_deployment

    if "://" not in where:
        return load_deployment(Path(where))
    if not where.startswith("https://"):
        raise ConfigError(
            f"{where} is not an https URL, so others could change it on the way: give an https "
            "URL, or a file"
        )
    parts = urlsplit(where)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    remedy = "check the URL that you gave with --published, or give a file"
    answer = await ask("GET", f"https://{parts.netloc}", target, remedy=remedy)
    return parse_deployment(answer, where)


async def _checked(told: Deployment, rpc_url: str) -> tuple[bool, str]:
    """Raise ChainMismatch if the chain has another deployment.

    Returns whether the first block was checked, and the token's symbol on the chain.
    """
    from viz.chain.deploy import check_first_block, check_wiring, symbol_on_chain
    from viz.chain.rpc import Rpc

    rpc = Rpc(checked(rpc_url, "a chain's address"))
    try:
        await rpc.check(
            told,
            f"correct --rpc ({RPC_VARIABLE}). If it is right, this deployment is not on that "
            "chain: do not use the node with it",
        )
        await check_wiring(rpc, told)
        return await check_first_block(rpc, told), await symbol_on_chain(rpc, told.token)
    finally:
        await rpc.close()


def _require_same(place: Path, kept: Deployment, told: Deployment) -> None:
    """Raise ChainMismatch if ``place`` has another deployment than the node tells."""
    from viz.chain.deployment import differences

    if different := differences(kept, told):
        name, ours, theirs = different[0]
        raise ChainMismatch(
            f"{place} is trusted already, with {ours} as its {name}, and this node says {theirs}: "
            "it is another deployment. Keep that file, and use another --data-dir for this node"
        )


def _said(found: Deployment) -> list[tuple[str, object]]:
    decimals = counted(found.token_decimals, "decimal")
    return [
        ("chain", found.chain_id),
        ("first block", _json(found)["genesis"]),
        ("token", f"{found.token}  ({found.token_symbol}, {decimals})"),
        ("contents", found.content_registry),
        ("adapters", found.adapter_registry),
        ("settlement", found.settlement),
        ("directory", found.node_directory),
    ]


def _json(found: Deployment) -> dict[str, Any]:
    from viz.chain.deployment import deployment_json

    return deployment_json(found)
