"""The one sender of one key: nonces, fees, and the outcome of every transaction.

Owns the account's nonces and the order simulate, assign, sign, record, broadcast, wait. Does not
know why a call is made. Invariants: a transaction is in the journal before the chain can see it;
one whose outcome is unknown is looked up by its hash, and only the very same bytes, or the same
call with the same nonce at a higher fee, are ever broadcast again (no chain executes both); the
lock spans assignment to broadcast, never the wait; no fee above the operator's bound is signed
(``viz.chain.fees``), and no more gas than the caller allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import structlog
from eth_account.signers.local import LocalAccount

from viz.chain import abi, fees
from viz.chain.deployment import address_of
from viz.chain.journal import MemoryJournal
from viz.chain.logs import decode_logs
from viz.chain.rpc import Fees, Receipt, Rpc
from viz.domain.outbox import SignedTransaction, TransactionJournal
from viz.domain.ports.chain import Deployment
from viz.domain.ports.transactions import Call, Outcome, Transaction
from viz.domain.units import BPS, Address, Hash32, hex_of
from viz.errors import (
    ChainError,
    ChainUnreachable,
    FeeTooHigh,
    GasAboveLimit,
    TransactionFailed,
)

_FIRST_POLL_S: Final = 0.02
_LAST_POLL_S: Final = 1.0
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
    ) -> None:
        """Make the sender; ``deployment`` may be None only to deploy contracts.

        ``max_fee_wei`` is the most that it pays for a unit of gas; None for no bound.
        """
        self._rpc = rpc
        self._account = account
        self._deployment = deployment
        self._journal: TransactionJournal = journal or MemoryJournal()
        self._wait_s = wait_s
        self._gas_margin_bps = gas_margin_bps
        self._chain_id = deployment.chain_id if deployment else chain_id
        self._max_fee_wei = max_fee_wei
        self._lock = asyncio.Lock()
        self._awaited: set[int] = set()

    @property
    def address(self) -> Address:
        """The account's address."""
        return Address(str(self._account.address))

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        """Simulate, sign, record, broadcast and wait for a block, ``wait_s`` at most.

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
        receipt = await self._rpc.receipt(transaction_hash)
        if receipt is not None:
            return await self._end(receipt)
        if await self._rpc.knows(transaction_hash):
            return Transaction(Outcome.PENDING, transaction_hash)
        return Transaction(Outcome.UNKNOWN, transaction_hash)

    async def recover(self, *, urgent: bool = False) -> tuple[Transaction, ...]:
        """Look up every transaction without a known end, as after a restart; return them.

        One that the chain does not know is broadcast again, byte for byte, unless its nonce was
        used by another: then it can never happen, and it is FAILED. One whose fee is below what
        blocks take now is replaced by the same call at a higher fee, within the bound (``urgent``
        as in ``submit``), unless somebody still waits for it.
        """
        found = []
        dearest = -1
        pending = await self._journal.pending(self.address)
        for entry in sorted(pending, key=lambda each: (each.nonce, -fees.max_fee_of(each.raw))):
            replaced, dearest = entry.nonce == dearest, entry.nonce
            state = await self._progress(entry, replaced=replaced, urgent=urgent)
            if state.outcome in (Outcome.SETTLED, Outcome.FAILED):
                # Of two with one nonce only one happens: where its successor did, this one cannot.
                own = state.outcome if state.hash == entry.hash else Outcome.FAILED
                await self._journal.resolve(entry.hash, own)
            _log.info(
                "transaction recovered",
                transaction=hex_of(entry.hash),
                what=entry.description,
                outcome=state.outcome.value,
            )
            found.append(replace(state, what=entry.description))
        return tuple(found)

    async def _progress(
        self, entry: SignedTransaction, *, replaced: bool, urgent: bool
    ) -> Transaction:
        """Return what became of a transaction, after a push where it is stuck."""
        state = await self.lookup(entry.hash)
        if state.outcome in (Outcome.SETTLED, Outcome.FAILED):
            return state
        if state.outcome is Outcome.UNKNOWN and (
            await self._rpc.mined_count(self.address) > entry.nonce
        ):
            # The nonce is used. By this very transaction, if it was mined since the look-up.
            state = await self.lookup(entry.hash)
            if state.outcome is not Outcome.UNKNOWN:
                return state
            return Transaction(
                Outcome.FAILED, entry.hash, error="another transaction took its nonce"
            )
        if replaced or entry.nonce in self._awaited:
            return state
        asked = await self._rpc.fees()
        if fees.max_fee_of(entry.raw) < asked.base_fee_wei:
            return await self._replace(entry, state, asked, urgent=urgent)
        return state if state.outcome is Outcome.PENDING else await self._again(entry)

    async def _again(self, entry: SignedTransaction) -> Transaction:
        try:
            await self._rpc.broadcast(entry.raw)
        except ChainUnreachable:
            return Transaction(Outcome.UNKNOWN, entry.hash)
        except ChainError as error:
            _log.warning("the chain refuses a recorded transaction", reason=error.detail)
            return Transaction(Outcome.UNKNOWN, entry.hash, error=error.detail)
        return await self._wait(entry.hash)

    async def _replace(
        self, entry: SignedTransaction, state: Transaction, asked: Fees, *, urgent: bool
    ) -> Transaction:
        """Send the call again with its nonce at a fee that blocks take; return the new one's state.

        The old one stays in the journal until one of the two is in a block.
        """
        try:
            dearer = fees.replacement(entry, self._account, asked, self._max_fee_wei, urgent=urgent)
        except FeeTooHigh as error:
            _log.warning("a transaction waits", what=entry.description, reason=error.detail)
            return state
        if dearer is None:
            return state
        await self._journal.record(dearer)
        _log.info("fee raised", what=entry.description, transaction=hex_of(dearer.hash))
        return await self._again(dearer)

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
            self._awaited.add(entry.nonce)
        try:
            return await self._wait(entry.hash)
        finally:
            self._awaited.discard(entry.nonce)

    async def _arrived(self, entry: SignedTransaction, refusal: ChainError) -> bool:
        """Return whether the chain has a transaction that it refused; False when unclear.

        A broadcast whose answer was lost is repeated by the connection, and the repetition refused
        since the first arrived. A refusal that is one frees the nonce and raises TransactionFailed.
        """
        try:
            if await self._rpc.knows(entry.hash):
                return True
        except ChainUnreachable:
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

    async def _wait(self, transaction_hash: Hash32) -> Transaction:
        """Return the end, or PENDING or UNKNOWN when there is none in time."""
        pause_s = _FIRST_POLL_S
        try:
            async with asyncio.timeout(self._wait_s):
                while True:
                    receipt = await self._rpc.receipt(transaction_hash)
                    if receipt is not None:
                        break
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LAST_POLL_S)
        except TimeoutError:
            return Transaction(Outcome.PENDING, transaction_hash)
        except ChainUnreachable as error:
            return Transaction(Outcome.UNKNOWN, transaction_hash, error=error.detail)
        end = await self._end(receipt)
        await self._journal.resolve(transaction_hash, end.outcome)
        return end

    async def _end(self, receipt: Receipt) -> Transaction:
        return Transaction(
            Outcome.SETTLED if receipt.succeeded else Outcome.FAILED,
            receipt.transaction_hash,
            receipt.block_number,
            receipt.gas_used,
            None if receipt.succeeded else "it reverted in its block; nothing changed but the fee",
            decode_logs(self._deployment, receipt.logs) if self._deployment else (),
        )
