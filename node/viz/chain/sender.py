"""The one sender of one key: nonces, gas, and the way of a call to the chain.

Owns the account's nonces and the order simulate, assign, sign, record, broadcast, wait. Does not
know why a call is made, nor what becomes of it once it was sent (``viz.chain.tracker``).
Invariants: a transaction is in the journal before the chain can see it; the lock spans assignment
to broadcast, never the wait; no fee above the operator's bound is signed (``viz.chain.fees``), and
no more gas than the caller allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import structlog
from eth_account.signers.local import LocalAccount

from viz.chain import abi, fees
from viz.chain.deployment import address_of
from viz.chain.memory_journal import MemoryJournal
from viz.chain.rpc import Rpc
from viz.chain.stuck import STUCK_BLOCKS
from viz.chain.tracker import TransactionTracker
from viz.domain.ports.chain import Deployment
from viz.domain.ports.settlement_ledger import SignedTransaction, TransactionJournal
from viz.domain.ports.transactions import Call, Outcome, Transaction
from viz.domain.units import BPS, Address, Hash32, hex_of
from viz.errors import (
    ChainError,
    ChainUnreachable,
    GasAboveLimit,
    TransactionFailed,
)

# A bounded call is tried with this many times its gas: enough to say what it needs, and little of
# the chain's time for one that burns all it gets.
_TRIED_TIMES: Final = 2
# What a node says of a transaction that it will not take; anything else leaves its fate open. So
# does a used nonce: perhaps this very transaction used it, and the look-up went to a laggard.
_REFUSALS: Final = (
    "insufficient funds",
    "underpriced",
    "fee",
    "gas",
    "invalid sender",
    "size",
)
_log = structlog.get_logger()


class Sender:
    """Sends contract calls from one account, at most one process a key."""

    def __init__(
        self,
        rpc: Rpc,
        account: LocalAccount,
        deployment: Deployment | None = None,
        *,
        journal: TransactionJournal | None = None,
        wait_s: float = 60.0,
        gas_margin_bps: int = 2_000,
        chain_id: int | None = None,
        max_fee_wei: int | None = None,
        stuck_blocks: int = STUCK_BLOCKS,
    ) -> None:
        """Make the sender; ``deployment`` may be None only to deploy contracts.

        ``max_fee_wei`` is the most that it pays for a unit of gas; None for no bound. After
        ``stuck_blocks`` blocks without a transaction whose turn it is, its fee is raised.
        """
        self._rpc = rpc
        self._account = account
        self._deployment = deployment
        self._journal: TransactionJournal = journal or MemoryJournal()
        self._gas_margin_bps = gas_margin_bps
        self._chain_id = deployment.chain_id if deployment else chain_id
        self._max_fee_wei = max_fee_wei
        self._lock = asyncio.Lock()
        self._follower = TransactionTracker(
            rpc,
            account,
            self._journal,
            deployment,
            wait_s=wait_s,
            max_fee_wei=max_fee_wei,
            stuck_blocks=stuck_blocks,
        )

    @property
    def address(self) -> Address:
        """The account's address."""
        return Address(str(self._account.address))

    @property
    def fees_raised(self) -> int:
        """How often a transaction was signed again at a higher fee, in this process."""
        return self._follower.fees_raised

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        """Simulate, sign, record, broadcast and wait for a block, ``wait_s`` at most.

        One that blocks pass over is replaced at a higher fee meanwhile, within the bound.
        Whatever it raises, nothing was sent: TransactionFailed with the decoded custom error when
        the simulation reverts, GasAboveLimit where the call needs more than ``max_gas``,
        FeeTooHigh as ``viz.chain.fees.bounded``, ChainUnreachable when the chain cannot be asked.
        """
        if self._deployment is None:
            raise ChainError("this sender knows no deployment: it can only deploy")
        to = address_of(self._deployment, call.contract)
        data = abi.encode_call(call.contract, call.function, call.args)
        what = f"{call.contract}.{call.function}"
        return await self._send(to, data, what, max_gas=max_gas, urgent=urgent)

    async def simulate(self, call: Call) -> Any:
        """Return what the call would return now, from this account; send nothing.

        Raises TransactionFailed with the decoded custom error.
        """
        if self._deployment is None:
            raise ChainError("this sender knows no deployment: it can only deploy")
        to = address_of(self._deployment, call.contract)
        data = abi.encode_call(call.contract, call.function, call.args)
        answer = await self._rpc.call(to, data, sender=self.address)
        return abi.decode_result(call.contract, call.function, call.args, answer)

    async def deploy(self, contract: str, args: Sequence[Any] = ()) -> tuple[Address, Transaction]:
        """Create a contract and return its address; raise TransactionFailed unless it settled."""
        sent = await self._send(None, abi.deployment_code(contract, args), f"create {contract}")
        receipt = await self._rpc.receipt(sent.hash)
        if sent.outcome is not Outcome.SETTLED or receipt is None or receipt.contract is None:
            raise TransactionFailed(
                f"creating {contract} did not settle ({sent.outcome.value}): look up "
                f"{hex_of(sent.hash)}"
            )
        return receipt.contract, sent

    async def lookup(self, transaction_hash: Hash32) -> Transaction:
        """Return what became of a transaction; UNKNOWN when the chain does not know its hash."""
        return await self._follower.lookup(transaction_hash)

    async def recover(self, *, urgent: bool = False) -> tuple[Transaction, ...]:
        """Look up every transaction without a known end, as after a restart; return them.

        What the chain forgot or passes over is sent again, as ``TransactionTracker.recover`` says.
        """
        return await self._follower.recover(urgent=urgent)

    async def _send(
        self,
        to: Address | None,
        data: bytes,
        description: str,
        *,
        max_gas: int | None = None,
        urgent: bool = False,
    ) -> Transaction:
        tried = None if max_gas is None else _TRIED_TIMES * max_gas
        if to is not None:
            await self._rpc.call(to, data, sender=self.address, gas=tried)
        gas = await self._rpc.estimate_gas(to, data, self.address, gas=tried)
        if max_gas is not None and gas > max_gas:
            raise GasAboveLimit(
                f"{description} would use {gas} gas, and this node pays for {max_gas}: send it "
                "yourself"
            )
        gas += gas * self._gas_margin_bps // BPS
        async with self._lock:
            entry = await self._sign(
                to, data, gas if max_gas is None else min(gas, max_gas), description, urgent=urgent
            )
            await self._journal.record(entry)
            try:
                await self._rpc.broadcast(entry.raw)
            except ChainUnreachable as error:
                _log.warning("broadcast unanswered", what=description, reason=error.detail)
                return Transaction(Outcome.UNKNOWN, entry.hash, error=error.detail)
            except ChainError as error:
                if not await self._arrived(entry, error):
                    return Transaction(Outcome.UNKNOWN, entry.hash, error=error.detail)
        return await self._follower.wait(entry, urgent=urgent)

    async def _arrived(self, entry: SignedTransaction, refusal: ChainError) -> bool:
        """Return whether the chain has a transaction that it refused; False when unclear.

        A broadcast whose answer was lost is repeated by the connection, and the repetition refused
        since the first arrived. A refusal that is one frees the nonce and raises TransactionFailed.
        """
        try:
            if await self._rpc.knows(entry.hash):
                return True
        except ChainError:
            return False
        if not any(word in refusal.detail.lower() for word in _REFUSALS):
            return False
        await self._journal.resolve(entry.hash, Outcome.FAILED)
        raise TransactionFailed(
            f"{entry.description} from {self.address}: {refusal.detail}"
        ) from refusal

    async def _sign(
        self, to: Address | None, data: bytes, gas: int, description: str, *, urgent: bool
    ) -> SignedTransaction:
        if self._chain_id is None:
            self._chain_id = await self._rpc.chain_id()
        nonce = await self._rpc.transaction_count(self.address)
        for entry in await self._journal.pending(self.address):
            nonce = max(nonce, entry.nonce + 1)
        paid = fees.bounded(await self._rpc.fees(), self._max_fee_wei, urgent=urgent)
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": self._chain_id,
            "nonce": nonce,
            "gas": gas,
            "maxFeePerGas": paid.max_fee_wei,
            "maxPriorityFeePerGas": paid.priority_fee_wei,
            "value": 0,
            "data": data,
        }
        if to is not None:
            fields["to"] = to
        return fees.sign(self._account, fields, description)
