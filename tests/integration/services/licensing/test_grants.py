"""Grants on a real chain: what is paid for them, and what is refused."""

from __future__ import annotations

import pytest
from tests.integration.chain.testnet import Testnet, terms

from viz.domain.units import ContentId, Hash32
from viz.errors import LicenseError, TransactionFailed
from viz.services.licensing.grants import Grants


def grants_of(net: Testnet) -> Grants:
    return Grants(net.chain, net.sender(5))


async def test_the_fee_reaches_the_owner_and_no_approval_is_left(net: Testnet) -> None:
    """Acquiring pays exactly the fee, and a live grant is not bought twice."""
    creator, grants = net.sender(1), grants_of(net)
    work = await net.register_work(creator, terms(training_fee_units=250))
    await net.mint(net.sender(5).address, 1_000)
    assert await net.chain.grant(work, net.sender(5).address) is None
    grant = await grants.acquire(work)
    assert grant.live
    assert await net.chain.token_balance(creator.address) == 250
    assert await grants.acquire(work) == grant
    assert await net.chain.token_balance(net.sender(5).address) == 750
    owner, spender = net.sender(5).address, net.deployment.content_registry
    assert await net.chain.token.allowance(owner, spender) == 0


async def test_nothing_is_agreed_to_unseen(net: Testnet) -> None:
    """Other terms than expected, a fee above the limit, a withdrawn or unknown work: refused."""
    creator, grants = net.sender(1), grants_of(net)
    work = await net.register_work(creator, terms(training_fee_units=250))
    with pytest.raises(LicenseError, match="other terms"):
        await grants.acquire(work, expected_terms=Hash32(b"\1" * 32))
    with pytest.raises(LicenseError, match="above the limit"):
        await grants.acquire(work, max_fee_units=249)
    with pytest.raises(LicenseError, match="no work 9"):
        await grants.acquire(ContentId(9))
    await net.done(creator, "ContentRegistry", "withdraw", work)
    with pytest.raises(LicenseError, match="withdrawn"):
        await grants.acquire(work)


async def test_a_refused_grant_leaves_no_approval(net: Testnet) -> None:
    """The owner approves each trainer: without it the fee's allowance is taken back."""
    grants = grants_of(net)
    work = await net.register_work(net.sender(1), terms(approval_required=True))
    await net.mint(net.sender(5).address, 1_000)
    with pytest.raises(TransactionFailed, match="has not approved this one"):
        await grants.acquire(work)
    owner, spender = net.sender(5).address, net.deployment.content_registry
    assert await net.chain.token.allowance(owner, spender) == 0


async def test_an_expired_grant_is_not_live(net: Testnet) -> None:
    """Training asks for live grants by the chain's clock."""
    grants = grants_of(net)
    work = await net.register_work(net.sender(1), terms(grant_duration_s=1_000))
    await net.mint(net.sender(5).address, 1_000)
    await grants.acquire(work)
    await net.anvil.advance_time(1_001)
    held = await net.chain.grant(work, net.sender(5).address)
    assert held is not None and not held.live
