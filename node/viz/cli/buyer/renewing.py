"""Run `viz channel renew`: let the next channel to a node begin with a new session key."""

from __future__ import annotations

from typing import Any

from viz.cli.buyer.buying import ChainUrl, NodeAddress, channel_kept, home_of
from viz.cli.console import AsJson, DataDir, DeploymentFile, guarded, out, run, show
from viz.cli.own_chain import own_chain, trusted_deployment


@guarded
def renew(
    node_address: NodeAddress = "",
    rpc: ChainUrl = "http://127.0.0.1:8545",
    folder: DataDir = None,
    deployment: DeploymentFile = None,
    as_json: AsJson = False,
) -> None:
    """Begin anew at a node, with a new session key, once the old channel is empty.

    For a channel that can pay no more, because your ledger or the node's was lost or restored from
    an old copy. Its files are set aside, not deleted. Next: `viz channel open`.
    """
    from viz.buyer.channels import renewal

    here = trusted_deployment(deployment, folder)
    signer, node = channel_kept(folder, here, node_address)

    async def work() -> dict[str, Any]:
        async with own_chain(rpc, here) as chain:
            aside = await renewal.renew(home_of(folder), here, chain, signer, node)
        return {"node": node, "signer": signer, "aside": str(aside)}

    found = run(work())
    if not show(found, as_json=as_json):
        out.print(
            f"the files of the old channel are in {found['aside']}; open a new one with `viz "
            "channel open`",
            soft_wrap=True,
        )
