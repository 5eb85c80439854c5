"""Find the values of a creator's signature from trusted sources.

Owns the nonce and the deadline of everything that a creator signs for relaying. Chain, registry and
decimals come from the trusted deployment. The deadline comes from the creator's own clock (on a
development chain, whose time may be moved, from the chain). Only the nonce may come from a node,
and only if no chain is given: a signature with a wrong nonce is refused and does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from viz.client.exchange import exchange
from viz.domain.ports.chain import ChainReader, Deployment
from viz.domain.ports.clock import Clock
from viz.domain.trust import require_as_trusted
from viz.domain.units import Address
from viz.errors import ConfigError, NodeNotTrusted
from viz.protocol.registration import REGISTRATION_CONTEXT_PATH, RegistrationContext

VALID_S: Final = 3_600
# The most that the creator's clock and the chain's may differ: blocks are late, clocks drift.
CLOCKS_APART_S: Final = 900


@dataclass(frozen=True, slots=True)
class SigningValues:
    """The nonce and the deadline to sign with; ``now_s`` is when they were chosen."""

    nonce: int
    now_s: int

    @property
    def deadline_s(self) -> int:
        return self.now_s + VALID_S


async def signing_values(
    signer: Address,
    deployment: Deployment,
    node_url: str,
    clock: Clock,
    chain: ChainReader | None,
    *,
    development: bool,
) -> SigningValues:
    """Return the nonce and the deadline of the next signature of ``signer`` for a relay.

    Raises NodeNotTrusted if the node names another chain, registry, token scale or signer, or a
    time far from this machine's clock; ConfigError if the time of the own chain is far ahead of
    this clock.
    """
    context = await registration_context(signer, node_url)
    require_as_trusted(
        deployment,
        chain_id=context.chain_id,
        content_registry=context.content_registry,
        token_decimals=context.token_decimals,
    )
    if context.creator != signer:
        raise NodeNotTrusted(
            f"the node answers for the creator {context.creator}, not for {signer}: nothing was "
            "signed"
        )
    now_s = clock.now_s()
    if chain is None:
        if abs(now_s - context.chain_time_s) > CLOCKS_APART_S:
            raise NodeNotTrusted(
                f"the node says that the chain's time is {context.chain_time_s}, and this "
                f"machine's is {now_s}: correct the clock, or give --rpc URL to read the time there"
            )
        return SigningValues(context.nonce, now_s)
    return await chain_values(signer, clock, chain, development=development)


async def chain_values(
    signer: Address, clock: Clock, chain: ChainReader, *, development: bool
) -> SigningValues:
    """Return the same from the creator's own chain; raise ConfigError if its clock is far ahead."""
    now_s, head_s = clock.now_s(), await chain.chain_time()
    if head_s > now_s + CLOCKS_APART_S and not development:
        raise ConfigError(
            f"the chain's time is {head_s}, and this machine's is {now_s}: correct the clock, "
            "or name another --rpc"
        )
    nonce = await chain.registration_nonce(signer)
    return SigningValues(nonce, head_s if development else now_s)


async def registration_context(creator: Address, node_url: str) -> RegistrationContext:
    """Ask a node for the chain's values that a creator's signature needs."""
    path = REGISTRATION_CONTEXT_PATH.format(creator=creator)
    return await exchange(
        RegistrationContext.from_json, "GET", node_url, path, other_way="--direct"
    )
