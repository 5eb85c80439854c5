"""Run `viz node announce` and `viz node withdraw`: the node's entry in the directory on chain."""

from __future__ import annotations

from typing import Annotated

import typer

from viz.cli.console import AsJson, DataDir, guarded, run, say, show
from viz.cli.http import OperatedNode
from viz.cli.operator.running_node import OperatorClient

_PATH = "/announcement"


@guarded
def announce(
    url: Annotated[
        str, typer.Option(help="URL by which others reach the node. Default: api.public_url.")
    ] = "",
    node: OperatedNode = "",
    folder: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the running node's URL into the directory of nodes on the chain. Costs gas once."""
    asked = {"url": url} if url else {}
    found = run(OperatorClient(node, folder).ask("POST", _PATH, asked), logs=False)
    if not show(found, as_json=as_json):
        sent = found["transaction"]
        what = f"by transaction {sent}" if sent else "which it was already: nothing was sent"
        say(f"announced {found['url']} as {found['node']}, {what}")


@guarded
def withdraw(node: OperatedNode = "", folder: DataDir = None, as_json: AsJson = False) -> None:
    """Remove the running node from the directory of nodes; its channels stay as they are."""
    found = run(OperatorClient(node, folder).ask("DELETE", _PATH), logs=False)
    if not show(found, as_json=as_json):
        say(f"{found['node']} is no longer in the directory; transaction {found['transaction']}")
