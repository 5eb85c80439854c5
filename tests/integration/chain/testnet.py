"""A real anvil with the real contracts, and the few moves that many tests begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from eth_account.signers.local import LocalAccount

from viz.chain.contracts import Chain
from viz.chain.deploy import ensure_deployed
from viz.chain.devnet import Devnet
from viz.chain.endpoint import NotSupported, TooMuchAsked
from viz.chain.keys import development_account
from viz.chain.rpc import Log, Rpc
from viz.chain.sender import Sender
from viz.domain.eip712 import settlement_domain, sign, sign_compact
from viz.domain.license import Terms
from viz.domain.ports.chain import Deployment
from viz.domain.ports.settlement_ledger import TransactionJournal
from viz.domain.ports.transactions import Call, Outcome, Transaction
from viz.domain.typed_data import OpenChannel, Voucher
from viz.domain.units import ZERO_HASH, Address, ContentId, Hash32, Units, parse_address
from viz.domain.usage import Lines, usage_hash

LICENSE = Hash32(b"\x11" * 32)
CLOSE_DELAY_S = 3_600


def terms(**changes: int | bool) -> Terms:
    """A perpetual license for everything at a fee of 100 units and 10 % of revenue."""
    values = {
        "training_fee_units": 100,
        "min_royalty_bps": 1_000,
        "grant_duration_s": 0,
        "notice_s": 0,
        "revocation_class": 0,
        "uses": 7,
        "approval_required": False,
    }
    return Terms(**(values | changes))  # type: ignore[arg-type]


def address(account: LocalAccount) -> Address:
    return parse_address(str(account.address))


class Narrow(Rpc):
    """An endpoint that serves logs of few blocks at once, and of none below a block."""

    widest, below = 10**6, 0

    async def logs(
        self,
        addresses: Sequence[Address],
        first: int,
        last: int,
        topics: Sequence[bytes | None] | None = None,
    ) -> tuple[Log, ...]:
        if last - first >= self.widest:
            raise TooMuchAsked("refused: query exceeds max block range")
        if first < self.below:
            raise NotSupported("refused: missing historical state")
        return await super().logs(addresses, first, last, topics)


@dataclass
class Testnet:
    """anvil, the deployment on it, and a reader. Account 0 deployed; the others are the tests'."""

    __test__ = False
    anvil: Devnet
    rpc: Rpc
    deployment: Deployment
    chain: Chain

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path) -> AsyncIterator[Testnet]:
        anvil = await Devnet.start()
        rpc = Rpc(anvil.url)
        try:
            deployment = await ensure_deployed(
                rpc, development_account(0), folder / "deployment.json", close_delay_s=CLOSE_DELAY_S
            )
            yield cls(anvil, rpc, deployment, Chain(rpc, deployment))
        finally:
            await rpc.close()
            await anvil.stop()

    def sender(
        self, index: int, journal: TransactionJournal | None = None, wait_s: float = 30.0
    ) -> Sender:
        account = development_account(index)
        return Sender(self.rpc, account, self.deployment, journal=journal, wait_s=wait_s)

    async def done(
        self, sender: Sender, contract: str, function: str, *args: object
    ) -> Transaction:
        """Submit a call that must settle."""
        sent = await sender.submit(Call(contract, function, args))
        assert sent.outcome is Outcome.MINED
        return sent

    async def mint(self, to: Address, units: Units) -> None:
        await self.done(self.sender(0), "Token", "mint", to, units)

    async def register_work(self, creator: Sender, offered: Terms | None = None) -> ContentId:
        commitment = (await self.chain.contents.count() + 1).to_bytes(32, "big")
        offered = offered or terms()
        sent = await self.done(
            creator, "ContentRegistry", "register", commitment, LICENSE, offered.abi()
        )
        return ContentId(sent.event("ContentRegistered").args["contentId"])

    async def register_adapter(self, trainer: Sender, works: Sequence[ContentId]) -> int:
        """Acquire what is missing and register an adapter: 30 % royalty, 10 % to the trainer."""
        for work in works:
            state = await self.chain.content(work)
            assert state is not None
            await self.mint(trainer.address, 100)
            registry = self.deployment.content_registry
            await self.done(trainer, "Token", "approve", registry, 100)
            await self.done(trainer, "ContentRegistry", "acquireGrant", work, state.terms_hash)
        parts = [10_000 // len(works)] * len(works)
        parts[0] += 10_000 - sum(parts)
        words = [work << 16 | bps for work, bps in zip(works, parts, strict=True)]
        arguments = (b"\1" * 32, b"\2" * 32, "bafkrei", b"\3" * 32, 3_000, 1_000, words)
        sent = await self.done(trainer, "AdapterRegistry", "register", *arguments)
        return int(sent.event("AdapterRegistered").args["adapterId"])

    async def open_channel(
        self, payer: Sender, signer: LocalAccount, node: Address, units: Units
    ) -> None:
        await self.mint(payer.address, units)
        settlement = self.deployment.settlement
        await self.done(payer, "Token", "approve", settlement, units)
        consent = settlement_domain(self.deployment.chain_id, settlement).digest(
            OpenChannel(payer.address, node)
        )
        signature = sign(bytes(signer.key), consent)
        await self.done(payer, "Settlement", "open", address(signer), node, units, signature)

    def voucher(
        self, signer: LocalAccount, node: Address, base_units: Units, lines: Lines
    ) -> bytes:
        domain = settlement_domain(self.deployment.chain_id, self.deployment.settlement)
        signed = Voucher(node, base_units, usage_hash(lines), ZERO_HASH)
        return sign_compact(bytes(signer.key), domain.digest(signed))
