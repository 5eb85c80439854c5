"""What a trusted deployment says, held against what a node says of itself.

Owns the one comparison that buyers and creators make before they sign anything: the chain, the
contracts, the token and its decimals come from the deployment file that its owner chose, and a node
that says otherwise is not believed. Does no I/O.
"""

from __future__ import annotations

from typing import Final

from viz.domain.ports.chain import Deployment
from viz.domain.units import Address
from viz.errors import NodeNotTrusted

# How a buyer goes on after it caught its node.
WAY_BACK: Final = (
    "`viz channel close` or `viz channel leave` brings the rest of the deposit back, and "
    "`viz channel forgive` lets the node be asked again"
)


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
    """Raise NodeNotTrusted naming the first field that differs; what a node left out is None.

    Amounts and signatures are made from ``trusted`` all the same: this comparison only tells early
    that the node works elsewhere.
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
