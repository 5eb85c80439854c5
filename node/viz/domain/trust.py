"""Compare what a node says about its chain and contracts with the trusted deployment.

Buyers and creators make this comparison before they sign anything: the chain, the contracts, the
token and its decimals come from the deployment file that its owner chose. A node that says
otherwise is not trusted. Does no I/O.
"""

from __future__ import annotations

from typing import Final

from viz.domain.ports.chain import Deployment
from viz.domain.units import Address
from viz.errors import NodeNotTrusted

# What to do about a node that contradicts itself from one answer to the next.
REPLICAS: Final = (
    "If several servers answer at its address, each with a ledger of its own, its operator must "
    "give them one; ask again later, or `viz channel leave` brings the rest of the deposit back"
)
# What to do about a channel that its ledger, or its node's, can no longer pay from.
LEAVE_AND_RENEW: Final = (
    "`viz channel close`, with --rpc, brings the rest of the deposit back, and if the node refuses "
    "that, `viz channel leave` does; `viz channel renew` then lets you open another channel here, "
    "with a new session key"
)
PAYER_LEAVES: Final = (
    "Its payer gets the rest of the deposit back with `viz channel leave`, and can open another "
    "channel after `viz channel renew`"
)
# Ends the text of a fault that no amount makes good: a bill for a request that nobody made.
UNACCOUNTED: Final = "no request of this channel accounts for it"


def require_as_trusted(
    trusted: Deployment,
    *,
    chain_id: int | None = None,
    settlement: Address | None = None,
    content_registry: Address | None = None,
    adapter_registry: Address | None = None,
    token: Address | None = None,
    token_decimals: int | None = None,
) -> None:
    """Raise NodeNotTrusted that names the first differing field; None means the node gave none.

    Amounts and signatures are made from ``trusted`` in any case: this comparison only shows early
    that the node uses another deployment.
    """
    said: tuple[tuple[str, int | Address | None, int | Address], ...] = (
        ("chain id", chain_id, trusted.chain_id),
        ("Settlement", settlement, trusted.settlement),
        ("ContentRegistry", content_registry, trusted.content_registry),
        ("AdapterRegistry", adapter_registry, trusted.adapter_registry),
        ("token", token, trusted.token),
        ("token decimals", token_decimals, trusted.token_decimals),
    )
    for field, theirs, ours in said:
        if theirs is not None and theirs != ours:
            raise NodeNotTrusted(
                f"the node gives {theirs} as its {field}, and the deployment you trust gives "
                f"{ours}: nothing was signed. Name another node, or the deployment file of this one"
            )


def way_back(fault: str) -> str:
    """Return what to do about a node that is no longer trusted, one sentence without its end."""
    rest = "`viz channel close` or `viz channel leave` brings the rest of the deposit back"
    if UNACCOUNTED in fault:
        return (
            f"{rest}. `viz channel forgive` does not help: such a bill is never paid. If another "
            "copy of this buyer's folder made the request (a second process, or before a backup "
            "was restored), the node is honest: go on with that copy alone"
        )
    return (
        f"{rest}, and `viz channel forgive` lets the node be asked again (with --allow if it "
        "billed too much)"
    )
