"""Run `viz channel renew`: let the next channel to a node begin with a new session key."""

from __future__ import annotations

from typing import Any

from viz.cli.buyer.buying import ChainUrl, NodeAddress, Signer, channel_kept, home_of
from viz.cli.console import AsJson, DataDir, DeploymentFile, guarded, out, run, show
from viz.cli.own_chain import own_chain, trusted_deployment


@guarded
def renew(
    node_address: NodeAddress = "",
    signer: Signer = "",
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
    key, node = channel_kept(folder, here, node_address, signer)

    async def work() -> dict[str, Any]:
        async with own_chain(rpc, here) as chain:
            done = await renewal.renew(home_of(folder), here, chain, key, node)
        return {"node": node, "signer": key, "aside": str(done.aside), "onChain": done.on_chain}

    found = run(work())
    if not show(found, as_json=as_json):
        if not found["onChain"]:
            out.print(
                f"the chain at --rpc shows no channel of {key} to {node}. If it is on another "
                f"chain, `viz channel leave --node-address {node} --signer {key}` with that "
                "chain's --rpc brings its deposit back",
                soft_wrap=True,
            )
        out.print(
            f"the files of the old channel are in {found['aside']}; open a new one with `viz "
            "channel open`",
            soft_wrap=True,
        )
