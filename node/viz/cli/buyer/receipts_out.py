"""Run `viz channel receipts`: write a channel's receipts into a file, for `viz audit receipts`."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import typer

from viz.cli.buyer.buying import ChannelNode, channel_control, home_of, node_meant
from viz.cli.console import (
    AsJson,
    DataDir,
    DeploymentFile,
    PasswordFile,
    err,
    guarded,
    password,
    plain,
    run,
    say,
    show,
)
from viz.domain.display import counted
from viz.errors import InvalidRequest, NodeNotTrusted
from viz.written_file import require_new, write_new


@guarded
def receipts(
    file: Annotated[Path, typer.Argument(help="New file to write; it is for you alone.")],
    node: ChannelNode = "",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Write all receipts of your channels to a node into a file: `viz audit receipts` checks them.

    Those of channels that `viz channel renew` set aside are among them. They come from the node,
    which signed them, and are counted against your own ledger. The file has salts, by which whoever
    knows a question can prove that you asked it.
    """
    require_new(file)
    node = node_meant(node, folder)
    secret = cache(partial(password, password_file))

    async def work() -> dict[str, Any]:
        from viz.buyer.control.commands import ChannelControl

        async with channel_control(node, folder, deployment, secret) as control:
            if not isinstance(control, ChannelControl):
                raise InvalidRequest(
                    "a proxy runs for this channel and holds its files: stop it, then run this "
                    "command again"
                )
            return await control.receipts(home_of(folder), secret())

    found = run(work())
    write_new(file, json.dumps({"receipts": found["receipts"]}, indent=1).encode() + b"\n")
    told = {name: found[name] for name in ("node", "signer", "known", "former")}
    told |= {"file": str(file), "count": len(found["receipts"])}
    if not show(told, as_json=as_json):
        say(
            f"{counted(told['count'], 'receipt')} in {file}: check them with "
            f"`viz audit receipts {file} --node {found['node']} --rpc URL`"
        )
    for former in found["former"]:
        if former["count"] < former["known"]:
            why = former["fault"] or "the node's ledger is older, or the node hides some"
            err.print(
                plain(
                    f"of the former channel of {former['signer']} the file has "
                    f"{counted(former['count'], 'receipt')}, and its folder has verified "
                    f"{former['known']}: {why}"
                ),
                markup=False,
                soft_wrap=True,
            )
    if found["present"] < found["known"]:
        raise NodeNotTrusted(
            f"the node hands out {counted(found['present'], 'receipt')}, and your ledger has "
            f"verified {found['known']}: keep your data folder, which has the head that was "
            "signed, and do not use this node any more"
        )
