"""Permit other nodes to serve an adapter that this node trained, or end the permission."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from viz.cli.console import AsJson, DataDir, guarded, run, say, show
from viz.cli.http import OperatedNode
from viz.cli.operator.running_node import AdapterArgument, OperatorClient, adapter_app
from viz.domain.display import moment
from viz.domain.units import Address, parse_address

NodeArgument = Annotated[
    str, typer.Argument(help="Address of the other node's key.", metavar="ADDRESS")
]


@adapter_app.command("permit")
@guarded
def permit(
    adapter_id: AdapterArgument,
    other: NodeArgument,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Permit another node to fetch, open and serve an adapter that this node trained.

    The permission is written on the chain. The other node's operator then puts the adapter on offer
    with `viz adapter activate`. That node finds this one by its entry in the directory.
    """
    _permit(adapter_id, parse_address(other), True, OperatorClient(node, folder), as_json=as_json)


@adapter_app.command("revoke")
@guarded
def revoke(
    adapter_id: AdapterArgument,
    other: NodeArgument,
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """End another node's permission to serve an adapter, after the contract's notice period.

    Until then it may fetch, open and serve the adapter. Afterwards it gets the key no longer, and
    the chain rejects its claims; what it opened before is on its disk.
    """
    _permit(adapter_id, parse_address(other), False, OperatorClient(node, folder), as_json=as_json)


def _permit(
    adapter_id: int, other: Address, allowed: bool, operator: OperatorClient, *, as_json: bool
) -> None:
    body: dict[str, Any] = {
        "adapterId": adapter_id,
        "node": other,
        "allowed": allowed,
    }
    sent = run(operator.ask("POST", "/adapters/permissions", body), logs=False)
    told = {name: sent[name] for name in ("serves", "servesUntil")}
    if not show(body | told | {"transaction": sent["hash"]}, as_json=as_json):
        said = "may serve" if allowed or sent["serves"] else "may no longer serve"
        said += f" adapter {adapter_id}{_end(allowed, sent)}"
        how = f"transaction {sent['hash']}" if sent["hash"] else "already so: nothing was sent"
        say(f"{other} {said}  ({how})")


def _end(allowed: bool, sent: dict[str, Any]) -> str:
    if allowed or not sent["serves"]:
        return ""
    if sent["servesUntil"]:
        return f" until {moment(sent['servesUntil'])}, and gets its key until then"
    return " until the contract's notice period has passed"
