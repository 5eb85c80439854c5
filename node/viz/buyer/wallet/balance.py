"""Compare a deposit with the wallet's balance before it is signed.

A deposit that the wallet cannot pay is refused by the chain, but its signature stays good for about
an hour: it is paid if the balance arrives in that time, so another deposit must wait for its end.

Invariant: the node's word on a balance can only prevent a signature.
"""

from __future__ import annotations

from contextlib import suppress

from viz.client.node_client import NodeClient
from viz.domain.display import amount
from viz.domain.ports.chain import ChainReader, Deployment
from viz.domain.units import Address, Units
from viz.errors import BalanceTooLow, NodeRefused, NodeUnreachable, TooManyQuestions


async def require_balance(
    payer: Address,
    deposit_units: Units,
    trusted: Deployment,
    *,
    api: NodeClient,
    chain: ChainReader | None,
) -> None:
    """Raise BalanceTooLow if the wallet has less of the token than the deposit.

    The balance is read from ``chain``, the buyer's own, at its newest block. Without one the node
    is asked: one that understates the balance gets no deposit, and one that overstates it, or says
    nothing, gets the same signature as if nobody had asked. Raises ChainError, NodeNotTrusted.
    """
    has_units: Units | None = None
    if chain is not None:
        has_units = await chain.token_balance(payer)
        source, doubt = "the chain at --rpc", ""
    else:
        # Strangers can use up the node's looks at the chain, and must not prevent deposits by that.
        with suppress(TooManyQuestions, NodeRefused, NodeUnreachable):
            has_units = (await api.account(payer)).token_units
        source = "the node"
        doubt = (
            ". If the wallet got its tokens a moment ago, ask again in a minute; if the node is "
            "wrong, name a chain of your choice with --rpc"
        )
    if has_units is not None and has_units < deposit_units:
        raise BalanceTooLow(
            f"{source} says that the wallet {payer} has {amount(has_units, trusted)}, and the "
            f"deposit is {amount(deposit_units, trusted)}: add to that wallet, deposit less, or "
            f"give the key of another wallet{doubt}. Nothing was signed"
        )
