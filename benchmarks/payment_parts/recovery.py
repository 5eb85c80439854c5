"""A start with very many receipts in the ledger, and a claim of very many channels."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.payment_parts.load import DOMAIN, NODE
from benchmarks.payment_parts.server import DEPOSIT, key_of
from tests.fakes.chain import DEPLOYMENT, FakeChain
from tests.integration.api.harness import ADAPTER, NODE_KEY, running_node

from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import keccak, public_address, sign_compact
from viz.domain.node_channel import PresentedVoucher
from viz.domain.ports.chain import ChannelState
from viz.domain.units import ZERO_HASH, Address
from viz.domain.usage import UsageLine

OWNERS = 100
BODY = b"{" + b'"receipt":' * 90 + b"}"  # as long as a receipt


async def measure(folder: Path, receipts: int, channels: int) -> None:
    """Print how long a start with ``receipts``, and a claim of ``channels``, take."""
    if receipts:
        await _start(folder / "start", receipts)
    if channels:
        await _claim(folder / "claim", channels)


async def _start(folder: Path, receipts: int) -> None:
    signers = [public_address(key_of(index)) for index in range(OWNERS)]
    chain = _chain(OWNERS)
    async with running_node(folder, chain=chain) as node:
        for index in range(OWNERS):
            await node.parts.vouchers.accept(_presented(index))
    book = sqlite3.connect(folder / "ledger.db")
    each = receipts // OWNERS
    with book:
        book.executemany("INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?)", _rows(signers, each))
        head = keccak(f"{signers[0]} {each}".encode())
        book.execute("UPDATE channels SET seq = ?, head = ?", (each, head))
    book.close()
    size = (folder / "ledger.db").stat().st_size
    started, used = time.perf_counter(), time.process_time()
    async with running_node(folder, chain=chain) as node:
        took, busy = time.perf_counter() - started, time.process_time() - used
        first = time.perf_counter()
        await node.parts.vouchers.view(signers[0], private=True)
        first = time.perf_counter() - first
        print(f"start with {each * OWNERS} receipts ({size >> 20} MB): {took:.2f} s "
              f"({busy:.2f} s CPU), then a channel's first use {first:.3f} s")  # fmt: skip


def _rows(signers: list[Address], each: int) -> Iterator[tuple[Any, ...]]:
    for signer in signers:
        for seq in range(1, each + 1):
            head = keccak(f"{signer} {seq}".encode())
            yield signer, seq, head, head, BODY, 0


async def _claim(folder: Path, channels: int) -> None:
    async with running_node(folder, chain=_chain(channels)) as node:
        for index in range(channels):
            await node.parts.vouchers.accept(_presented(index))
        started, used = time.perf_counter(), time.process_time()
        await node.parts.settlement.step(force=True)
        took, busy = time.perf_counter() - started, time.process_time() - used
        left = len(await node.store.frozen())
        print(f"claim of {channels} channels: {took:.2f} s ({busy:.2f} s CPU), the chain in "
              f"memory; {len(node.chain.sent)} transactions, {left} rows left")  # fmt: skip


def _chain(channels: int) -> FakeChain:
    chain = FakeChain(NODE_KEY)
    for index in range(channels):
        signer = public_address(key_of(index))
        chain.channels[signer, NODE] = ChannelState(signer, NODE, signer, DEPOSIT, 0, 0)
    return chain


def _presented(index: int) -> PresentedVoucher:
    lines, key = (UsageLine(ADAPTER, 1_000),), key_of(index)
    draft = SignedVoucher(0, ZERO_HASH, lines, b"")
    row = SignedVoucher(0, ZERO_HASH, lines, sign_compact(key, DOMAIN.digest(draft.voucher(NODE))))
    where = DEPLOYMENT
    return PresentedVoucher(where.chain_id, where.settlement, public_address(key), NODE, row)
