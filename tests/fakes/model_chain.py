"""One account on a model chain: its blocks, its pool, and an endpoint that can be told to fail.

``tests/integration/chain/test_model_chain.py`` holds counts and refusals against anvil.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random

from viz.chain import fees
from viz.chain.rpc import Fees, Rpc, TransactionReceipt
from viz.domain.eip712 import keccak
from viz.domain.units import Address, Hash32
from viz.errors import ChainError, ChainUnreachable

GWEI = 10**9
ASKED = Fees(GWEI, 3 * GWEI, GWEI)
BLOCK_S = 2.0
# A pool takes another transaction with the same nonce only if it pays so much more.
_BUMP = 1.1


@dataclass
class ModelChain:
    """What is true: ``mined`` is in blocks, by nonce; ``pool`` waits, by nonce."""

    mined: list[Hash32] = field(default_factory=list)
    pool: dict[int, bytes] = field(default_factory=dict)
    mining: bool = True
    # When each block came, and how many transactions were in blocks then.
    blocks: list[tuple[float, int]] = field(default_factory=list)
    _block_of: dict[Hash32, int] = field(default_factory=dict)
    _due_s: float = BLOCK_S

    def pending_count(self, mined: int | None = None) -> int:
        """Return the next nonce after those that wait in line."""
        count = len(self.mined) if mined is None else mined
        while count in self.pool or count < len(self.mined):
            count += 1
        return count

    def send(self, raw: bytes) -> None:
        """Take a transaction into the pool; raise ChainError with a chain's words."""
        nonce = int(fees._fields(raw)["nonce"])
        if nonce < len(self.mined):
            raise ChainError("nonce too low")
        there = self.pool.get(nonce)
        if there == raw:
            return
        if there is not None and fees.max_fee_of(raw) < _BUMP * fees.max_fee_of(there):
            raise ChainError("replacement transaction underpriced")
        self.pool[nonce] = raw

    def until(self, now_s: float) -> None:
        """Make the blocks that are due."""
        while self._due_s <= now_s:
            if self.mining:
                self.mine(self._due_s)
            self._due_s += BLOCK_S

    def mine(self, now_s: float) -> None:
        """Make one block of everything that waits in line."""
        while (raw := self.pool.pop(len(self.mined), None)) is not None:
            self._block_of[Hash32(keccak(raw))] = len(self.blocks)
            self.mined.append(Hash32(keccak(raw)))
        self.blocks.append((now_s, len(self.mined)))

    def seen_at(self, time_s: float) -> tuple[int, int]:
        """Return how many blocks there were at a time, and how many transactions in them."""
        number = sum(1 for made_s, _ in self.blocks if made_s <= time_s)
        return number, self.blocks[number - 1][1] if number else 0

    def block_of(self, transaction_hash: Hash32) -> int | None:
        """Return the block of a transaction; None if it is in none."""
        return self._block_of.get(transaction_hash)


class ModelRpc(Rpc):
    """An endpoint of the model chain: honest, until it is told otherwise.

    ``more`` is added to its two counts. ``lags_s`` are the machines behind it, and how far behind
    each is; every request reaches any of them. Those that lag do not have the pool.
    """

    def __init__(self, chain: ModelChain, seed: int = 0) -> None:
        self.chain = chain
        self.more = {"pending": 0, "mined": 0}
        self.lags_s: tuple[float, ...] = (0.0,)
        self.hides = False
        # What becomes of broadcasts: "" arrives, "lost", "unanswered", or "killed".
        self.fault = ""
        self.broadcasts: list[tuple[float, bytes]] = []
        self._random = Random(seed)

    def _now(self) -> float:
        now_s = asyncio.get_running_loop().time()
        self.chain.until(now_s)
        return now_s

    def _seen(self) -> tuple[int, int, bool]:
        lag_s = self._random.choice(self.lags_s)
        return *self.chain.seen_at(self._now() - lag_s), lag_s == 0

    async def chain_id(self) -> int:
        return 31337

    async def call(self, *_: object, **__: object) -> bytes:
        return b""

    async def balance_wei(self, address: Address) -> int:
        return 10**20

    async def estimate_gas(self, *_: object, **__: object) -> int:
        return 50_000

    async def fees(self) -> Fees:
        return ASKED

    async def block_number(self) -> int:
        return self._seen()[0]

    async def transaction_count(self, address: Address) -> int:
        _, mined, fresh = self._seen()
        true = self.chain.pending_count(mined) if fresh else mined
        return max(0, true + self.more["pending"])

    async def mined_count(self, address: Address) -> int:
        return max(0, self._seen()[1] + self.more["mined"])

    async def knows(self, transaction_hash: Hash32) -> bool:
        blocks, _, fresh = self._seen()
        number = self.chain.block_of(transaction_hash)
        waits = any(keccak(raw) == transaction_hash for raw in self.chain.pool.values())
        return not self.hides and ((fresh and waits) or (number is not None and number < blocks))

    async def receipt(self, transaction_hash: Hash32) -> TransactionReceipt | None:
        blocks, _, _ = self._seen()
        number = self.chain.block_of(transaction_hash)
        if self.hides or number is None or number >= blocks:
            return None
        return TransactionReceipt(transaction_hash, True, number, 21_000, None, ())

    async def broadcast(self, raw: bytes) -> None:
        now_s = self._now()
        if self.fault == "lost":
            raise ChainUnreachable("the connection broke")
        self.broadcasts.append((now_s, raw))
        if self.fault == "killed":
            raise asyncio.CancelledError
        self.chain.send(raw)
        if self.fault == "unanswered":
            raise ChainUnreachable("the answer was lost")
