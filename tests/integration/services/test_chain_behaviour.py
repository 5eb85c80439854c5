"""One behaviour of Settlement's channels: the chain in memory, and the contracts on anvil.

What the API's tests rely on in ``tests.fakes.chain`` is what the contracts do: deposits by
signature, the judgement of claim rows, claims and closes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fakes.chain import FakeChain
from tests.integration.chain.testnet import Testnet

from viz.chain.keys import development_account
from viz.domain.claim_rows import RowStatus, SignedVoucher, pack_rows
from viz.domain.eip712 import Domain, public_address, settlement_domain, sign, sign_compact
from viz.domain.ports.chain import ChainReader, ChannelState
from viz.domain.ports.transactions import Call, ChainWriter, Outcome
from viz.domain.typed_data import (
    OPEN_KIND,
    TOP_UP_KIND,
    Close,
    OpenChannel,
    ReceiveWithAuthorization,
    authorization_nonce,
)
from viz.domain.units import BASE_MODEL, ZERO_HASH, Address, Hash32, Units
from viz.domain.usage import UsageLine
from viz.errors import TransactionFailed

NODE = development_account(5)
NODE_KEY = bytes(NODE.key)
SIGNER_KEY, POOR_KEY = b"\x33" * 32, b"\x34" * 32
SIGNER, POOR = public_address(SIGNER_KEY), public_address(POOR_KEY)
PAYER_KEY, OTHER_KEY = b"\x22" * 32, b"\x23" * 32


@dataclass
class Stage:
    """A chain with a node that writes and a way to give somebody coins."""

    reader: ChainReader
    writer: ChainWriter
    mint: Callable[[Address, Units], Awaitable[None]]

    @property
    def domain(self) -> Domain:
        deployment = self.reader.deployment
        return settlement_domain(deployment.chain_id, deployment.settlement)

    async def deposit(
        self,
        units: Units,
        *,
        opening: bool = True,
        signer_key: bytes = SIGNER_KEY,
        payer_key: bytes = PAYER_KEY,
        salt: int = 1,
        consent: bytes | None = None,
    ) -> None:
        """Relay a deposit that its payer, and for an opening its signer, signed."""
        deployment, node = self.reader.deployment, self.writer.address
        signer, payer = public_address(signer_key), public_address(payer_key)
        named = await self.reader.token_domain()
        token = Domain(*named, deployment.chain_id, deployment.token)
        salted, until = Hash32(salt.to_bytes(32, "big")), await self.reader.chain_time() + 600
        nonce = authorization_nonce(OPEN_KIND if opening else TOP_UP_KIND, signer, node, salted)
        said = ReceiveWithAuthorization(payer, deployment.settlement, units, 0, until, nonce)
        paid = sign(payer_key, token.digest(said))
        arguments = (payer, signer, node, units, salted, 0, until, paid)
        if opening:
            agreed = sign(signer_key, self.domain.digest(OpenChannel(payer, node)))
            call = Call("Settlement", "openWithAuthorization", (*arguments, consent or agreed))
        else:
            call = Call("Settlement", "topUpWithAuthorization", arguments)
        assert (await self.writer.submit(call)).outcome is Outcome.MINED

    def row(self, base: Units, units: Units, key: bytes = SIGNER_KEY) -> SignedVoucher:
        lines = (UsageLine(BASE_MODEL, units),)
        unsigned = SignedVoucher(base, ZERO_HASH, lines, b"")
        digest = self.domain.digest(unsigned.voucher(self.writer.address))
        return SignedVoucher(base, ZERO_HASH, lines, sign_compact(key, digest))

    async def state(self, signer: Address = SIGNER) -> ChannelState | None:
        return await self.reader.channel(signer, self.writer.address)


@pytest.fixture(params=["memory", "anvil"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    if request.param == "memory":
        chain = FakeChain(NODE_KEY)

        async def give(to: Address, units: Units) -> None:
            chain.balances[to] = chain.balances.get(to, 0) + units

        yield Stage(chain, chain, give)
        return
    async with Testnet.running(tmp_path) as net:
        yield Stage(net.chain, net.sender(5), net.mint)


async def test_a_deposit_needs_its_signatures_and_its_payer(stage: Stage) -> None:
    """Coins move only as payer and signer signed, once; another payer's top-up is refused."""
    payer, other = public_address(PAYER_KEY), public_address(OTHER_KEY)
    for account in (payer, other):
        await stage.mint(account, 1_000)
    with pytest.raises(TransactionFailed):
        await stage.deposit(600, consent=sign(OTHER_KEY, ZERO_HASH))
    with pytest.raises(TransactionFailed):
        await stage.deposit(100, opening=False)
    assert await stage.reader.token_balance(payer) == 1_000
    await stage.deposit(600)
    with pytest.raises(TransactionFailed):
        await stage.deposit(600)
    with pytest.raises(TransactionFailed):
        await stage.deposit(100, opening=False, payer_key=OTHER_KEY)
    with pytest.raises(TransactionFailed):
        await stage.deposit(401, opening=False, salt=2)
    await stage.deposit(400, opening=False, salt=3)
    node = stage.writer.address
    assert await stage.state() == ChannelState(SIGNER, node, payer, 1_000, 0, 0)
    assert await stage.reader.token_balance(payer) == 0
    for kind, salt, used in ((OPEN_KIND, 1, True), (TOP_UP_KIND, 2, False), (TOP_UP_KIND, 3, True)):
        nonce = authorization_nonce(kind, SIGNER, node, Hash32(salt.to_bytes(32, "big")))
        assert await stage.reader.authorization_used(payer, nonce) is used
        assert not await stage.reader.authorization_used(other, nonce)


async def test_rows_are_judged_one_by_one_and_claimed_if_good(stage: Stage) -> None:
    """A run is good in order; a wrong base, a stranger and a short deposit harm no other row."""
    await stage.mint(public_address(PAYER_KEY), 1_010)
    await stage.deposit(1_000)
    await stage.deposit(10, signer_key=POOR_KEY)
    rows = pack_rows(
        (
            stage.row(0, 100),
            stage.row(7, 100),
            stage.row(100, 50),
            stage.row(0, 1, b"\x44" * 32),
            stage.row(0, 11, POOR_KEY),
        )
    )
    assert list(await stage.reader.preview_claim(stage.writer.address, rows)) == [
        RowStatus.GOOD,
        RowStatus.WRONG_BASE,
        RowStatus.GOOD,
        RowStatus.NO_CHANNEL,
        RowStatus.INSUFFICIENT_DEPOSIT,
    ]
    await stage.writer.submit(Call("Settlement", "claim", (rows,)))
    claimed, poor = await stage.state(), await stage.state(POOR)
    assert claimed is not None and poor is not None
    assert (claimed.settled_units, claimed.deposit_units) == (150, 850)
    assert (poor.settled_units, poor.deposit_units) == (0, 10)


async def test_a_close_needs_the_nodes_word_on_the_last_total(stage: Stage) -> None:
    """The rest goes back to the payer once node and chain name the same total."""
    payer, node = public_address(PAYER_KEY), stage.writer.address
    await stage.mint(payer, 1_000)
    await stage.deposit(1_000)
    await stage.writer.submit(Call("Settlement", "claim", (pack_rows((stage.row(0, 300),)),)))
    until = await stage.reader.chain_time() + 600

    def closing(settled: Units, key: bytes) -> Call:
        signature = sign(key, stage.domain.digest(Close(SIGNER, node, settled, until)))
        return Call("Settlement", "closeNow", (SIGNER, node, settled, until, signature))

    for refused in (closing(0, NODE_KEY), closing(300, PAYER_KEY)):
        with pytest.raises(TransactionFailed):
            await stage.writer.submit(refused)
    await stage.writer.submit(closing(300, NODE_KEY))
    assert await stage.state() == ChannelState(SIGNER, node, payer, 0, 300, 0)
    assert await stage.reader.token_balance(payer) == 700
