"""What the claim tests share, and a node that kills itself at a given moment of a claim.

Run as ``python -m tests.integration.services.claiming MOMENT RPC_URL FOLDER``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from eth_account.signers.local import LocalAccount
from tests.integration.chain.testnet import Testnet, address

from viz.chain.contracts import Chain
from viz.chain.deployment import load_deployment
from viz.chain.keys import development_account
from viz.chain.rpc import Rpc
from viz.chain.sender import Sender
from viz.domain.ports.chain import Deployment
from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord
from viz.domain.ports.settlement_ledger import SignedTransaction, TransactionJournal
from viz.domain.ports.transactions import Call, Outcome, Transaction
from viz.domain.units import AdapterId, Address, Hash32, Units
from viz.domain.usage import lines_of
from viz.services.payments.channel_events import ChannelEvents
from viz.services.settlement.claim_loop import ClaimPolicy, ClaimService
from viz.store.ledger import SqlStore

NODE = 5


class SystemClock:
    """The wall clock, moved ahead as a test likes."""

    ahead_s = 0

    def now_s(self) -> int:
        return int(time.time()) + self.ahead_s


async def open_store(path: Path, deployment: Deployment) -> SqlStore:
    return await SqlStore.open(path, {"settlement": deployment.settlement})


def settlement_of(net: Testnet, store: SqlStore, node: Sender) -> ClaimService:
    policy = ClaimPolicy(claim_at_units=10**9, claim_age_s=10**6)
    return ClaimService(net.chain, node, store, SystemClock(), policy, events=ChannelEvents())


async def accept(
    store: SqlStore,
    net: Testnet,
    signer: LocalAccount,
    amounts: Mapping[AdapterId, Units],
    *,
    at_s: int | None = None,
) -> None:
    """Commit a voucher of ``signer`` for the amounts, on the channel's present base."""
    held = await store.channel(address(signer)) or ChannelRecord(address(signer))
    node = address(development_account(NODE))
    lines = dict(held.lines)
    for adapter_id, amount in amounts.items():
        base = lines.get(adapter_id, ChannelLineRecord()).base_units
        lines[adapter_id] = ChannelLineRecord(base, base + amount, base + amount)
    signature = net.voucher(signer, node, held.base_units, lines_of(amounts))
    await store.commit(
        "voucher",
        replace(held, lines=lines, signature=signature, voucher_at=at_s or int(time.time())),
    )


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


class DyingSender(Sender):
    """Dies with the row frozen, before a transaction exists."""

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        die()


class DyingJournal:
    """Dies with the transaction recorded, before it is broadcast."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store

    async def record(self, transaction: SignedTransaction) -> None:
        await self.store.record(transaction)
        die()

    async def resolve(self, transaction_hash: Hash32, outcome: Outcome) -> None:
        await self.store.resolve(transaction_hash, outcome)

    async def pending(self, sender: Address) -> Sequence[SignedTransaction]:
        return await self.store.pending(sender)

    async def described(self, sender: Address, description: str) -> Sequence[SignedTransaction]:
        return await self.store.described(sender, description)


class DyingRpc(Rpc):
    """Dies with the transaction broadcast, before its outcome is known."""

    async def receipt(self, transaction_hash: Hash32) -> NoReturn:
        die()


async def main(moment: str, url: str, folder: Path) -> None:
    """Claim, and die at ``moment``: frozen, recorded or broadcast."""
    deployment = load_deployment(folder / "deployment.json")
    store = await open_store(folder / "ledger.db", deployment)
    rpc = DyingRpc(url) if moment == "broadcast" else Rpc(url)
    kind = DyingSender if moment == "frozen" else Sender
    journal: TransactionJournal = DyingJournal(store) if moment == "recorded" else store
    sender = kind(rpc, development_account(NODE), deployment, journal=journal)
    policy = ClaimPolicy(claim_at_units=1, claim_age_s=0)
    await ClaimService(
        Chain(rpc, deployment), sender, store, SystemClock(), policy, events=ChannelEvents()
    ).step()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
