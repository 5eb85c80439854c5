"""Send contract calls from one key: simulate, assign a nonce, sign, record, broadcast, wait.

Owns this order of steps. ``viz.chain.nonces`` chooses the nonce, and ``viz.chain.tracker`` follows
a transaction after its broadcast. Invariants: a transaction is in the journal before the chain can
see it; the lock is held from the choice of the nonce to the broadcast, never during the wait; no
fee above the operator's bound is signed (``viz.chain.fees``), and no more gas than the caller
allows, or than a block may use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import structlog
from eth_account.signers.local import LocalAccount

from viz.chain import abi, fees, fillers
from viz.chain.deployment import address_of
from viz.chain.fillers import FILLER
from viz.chain.memory_journal import MemoryJournal
from viz.chain.nonces import MOST_APART, AccountNonces, lowest_free
from viz.chain.refusals import lacks_funds, not_taken
from viz.chain.rpc import Fees, Rpc
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
    InsufficientFunds,
    TransactionFailed,
)

# A call with a bound on its gas is simulated with this many times the bound: enough to report how
# much it needs, and still little work for the endpoint if it burns all of it.
_TRIED_TIMES: Final = 2
# Calls whose repetition changes nothing: one that is out of reach is given up, and made again.
REPEATABLE: Final = frozenset({"Settlement.claim"})
_log = structlog.get_logger()


class Sender:
    """Sends contract calls from one account; at most one process may use a key."""

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
        """Create the sender; ``deployment`` may be None only to deploy contracts.

        ``max_fee_wei`` is the bound in wei per unit of gas; None for no bound. The fee of the
        transaction with the next nonce is raised after ``stuck_blocks`` blocks without it.
        """
        self._rpc = rpc
        self._account = account
        self._deployment = deployment
        self._journal: TransactionJournal = journal or MemoryJournal()
        self._gas_margin_bps = gas_margin_bps
        self._chain_id = deployment.chain_id if deployment else chain_id
        self._max_fee_wei = max_fee_wei
        self._lock = asyncio.Lock()
        self._nonces = AccountNonces(self.address)
        # Whether a transaction was refused for want of coin: the balance is asked from then on.
        self._lacked_funds = False
        self._tracker = TransactionTracker(
            rpc,
            account,
            self._journal,
            deployment,
            wait_s=wait_s,
            max_fee_wei=max_fee_wei,
            stuck_blocks=stuck_blocks,
            saw=self._nonces.saw,
        )

    @property
    def address(self) -> Address:
        """The account's address."""
        return Address(str(self._account.address))

    @property
    def fees_raised(self) -> int:
        """How many times this process signed a transaction again at a higher fee."""
        return self._tracker.fees_raised

    async def submit(
        self, call: Call, *, max_gas: int | None = None, urgent: bool = False
    ) -> Transaction:
        """Simulate, sign, record and broadcast a call, and wait up to ``wait_s`` for its block.

        If blocks leave it out, it is replaced at a higher fee meanwhile, within the bound. If an
        error is raised, nothing was sent: TransactionFailed with the decoded custom error if the
        simulation reverts, and if the call needs more gas than a block may use; TooMuchGas if it
        needs more than the endpoint, or the chain, allows one transaction, InsufficientFunds if the
        account cannot pay, GasAboveLimit if it needs more than ``max_gas``, FeeTooHigh as
        ``viz.chain.fees.bounded``, ChainUnreachable if the chain does not answer, ChainError if
        this sender has no deployment.
        """
        if self._deployment is None:
            raise ChainError("this sender has no deployment: it can only deploy contracts")
        to = address_of(self._deployment, call.contract)
        data = abi.encode_call(call.contract, call.function, call.args)
        return await self._send(to, data, _description(call), max_gas=max_gas, urgent=urgent)

    async def simulate(self, call: Call) -> Any:
        """Return what the call would return now from this account, without sending it.

        Raises TransactionFailed with the decoded custom error, ChainUnreachable, and ChainError if
        this sender has no deployment.
        """
        if self._deployment is None:
            raise ChainError("this sender has no deployment: it can only deploy contracts")
        to = address_of(self._deployment, call.contract)
        data = abi.encode_call(call.contract, call.function, call.args)
        answer = await self._rpc.call(to, data, sender=self.address)
        return abi.decode_result(call.contract, call.function, call.args, answer)

    async def deploy(self, contract: str, args: Sequence[Any] = ()) -> tuple[Address, Transaction]:
        """Create a contract and return its address; raise TransactionFailed if it was not mined.

        A creation without a known end raises too: look up its hash before you try again.
        """
        sent = await self._send(None, abi.deployment_code(contract, args), f"create {contract}")
        receipt = await self._rpc.receipt(sent.hash)
        if sent.outcome is not Outcome.MINED or receipt is None or receipt.contract is None:
            raise TransactionFailed(
                f"the creation of {contract} was not mined ({sent.outcome.value}): look up "
                f"{hex_of(sent.hash)}"
            )
        return receipt.contract, sent

    async def lookup(self, transaction_hash: Hash32) -> Transaction:
        """Return a transaction's state; UNKNOWN if the chain does not know its hash."""
        return await self._tracker.lookup(transaction_hash)

    async def earlier(self, call: Call, part: bytes) -> tuple[Transaction, ...]:
        """Return the states of this key's earlier calls of the same function that hold ``part``."""
        return await self._tracker.earlier(_description(call), part)

    async def recover(self, *, urgent: bool = False) -> tuple[Transaction, ...]:
        """Look up every transaction without a known end, for example after a restart.

        Sends again what the chain lost or leaves out, as ``TransactionTracker.recover`` says. Then
        fills a gap before an open transaction that has lasted, which else could never be mined,
        and gives up what is out of reach (``viz.chain.nonces``, N5 and N6).
        """
        found = await self._tracker.recover(urgent=urgent)
        try:
            async with self._lock:
                await self._fill_gap(urgent=urgent)
        except ChainError as error:
            _log.warning("a gap before a transaction is not filled", reason=error.detail)
        return found

    async def _fill_gap(self, *, urgent: bool) -> None:
        pending = await self._journal.pending(self.address)
        taken = {entry.nonce for entry in pending}
        start = await self._start(len(taken)) if taken else 0
        gap = self._nonces.gap(start, taken, asyncio.get_running_loop().time())
        if gap is None:
            return
        for entry in pending:
            if entry.nonce > gap.reach:
                _log.error(
                    "a transaction has a nonce out of reach", nonce=entry.nonce, reach=gap.reach
                )
                given_up = entry.description in REPEATABLE or entry.description == FILLER
                if given_up and not self._tracker.follows(entry.nonce):
                    with self._tracker.following(entry.nonce):
                        await self._journal.resolve(entry.hash, Outcome.FAILED)
        if gap.before is None:
            return
        _log.warning("filling a gap before a transaction", first=start, before=gap.before)
        for _ in range(MOST_APART):
            if start in taken or start >= gap.before:
                return
            paid = fees.bounded(await self._rpc.fees(), self._max_fee_wei, urgent=urgent)
            chain_id = await self._chain()
            await self._require_funds(fillers.EMPTY_GAS, paid, FILLER)
            entry = fillers.empty(self._account, start, chain_id=chain_id, paid=paid)
            with self._tracker.following(start):
                await self._journal.record(entry)
                try:
                    await self._rpc.broadcast(entry.raw)
                except ChainUnreachable:  # the next call looks for it, and sends it again
                    raise
                except ChainError as error:
                    await self._arrived(entry, error)
            taken.add(start)
            self._nonces.filled(start)
            start = await self._start(len(taken))

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
                f"{description} would use {gas} gas, and this node pays for at most {max_gas}: "
                "send the transaction yourself"
            )
        async with self._lock:
            taken = {entry.nonce for entry in await self._journal.pending(self.address)}
            nonce = lowest_free(await self._start(len(taken)), taken)
            entry = await self._sign(
                to, data, gas, description, max_gas=max_gas, nonce=nonce, urgent=urgent
            )
            # From before the journal has it: `recover` must not send what is refused here.
            with self._tracker.following(nonce):
                await self._journal.record(entry)
                try:
                    await self._rpc.broadcast(entry.raw)
                except ChainUnreachable as error:
                    _log.warning("broadcast unanswered", what=description, reason=error.detail)
                    return Transaction(Outcome.UNKNOWN, entry.hash, error=error.detail)
                except ChainError as error:
                    if not await self._arrived(entry, error):
                        return Transaction(Outcome.UNKNOWN, entry.hash, error=error.detail)
        return await self._tracker.wait(entry, urgent=urgent)

    async def _arrived(self, entry: SignedTransaction, refusal: ChainError) -> bool:
        """Return whether the chain has a transaction although it refused it; False if unclear.

        If the answer to a broadcast is lost, the connection repeats it. The chain then refuses
        the repetition, because the first copy arrived. A real refusal frees the nonce and raises
        TransactionFailed, which is InsufficientFunds where the account cannot pay.
        """
        try:
            if await self._rpc.knows(entry.hash):
                return True
        except ChainError:
            return False
        if not not_taken(refusal.detail):
            return False
        await self._journal.resolve(entry.hash, Outcome.FAILED)
        what = f"{entry.description} from {self.address}: {refusal.detail}"
        failed = TransactionFailed(what)
        if lacks_funds(refusal.detail):
            self._lacked_funds = True
            failed = InsufficientFunds(what)
        failed.quotes = refusal.quotes
        raise failed from refusal

    async def _require_funds(self, gas: int, paid: Fees, description: str) -> None:
        """Raise InsufficientFunds if the account, which lacked coin once, cannot pay for this now.

        What the chain is sure to refuse is not signed: the journal would keep each try.
        """
        if self._lacked_funds:
            has_wei = await self._rpc.balance_wei(self.address)
            costs_wei = gas * paid.max_fee_wei
            if has_wei < costs_wei:
                raise InsufficientFunds(
                    f"{self.address} has {has_wei} wei of the {costs_wei} wei that {description} "
                    "may cost: nothing was sent, send coin for gas to this account"
                )

    async def _start(self, open_count: int) -> int:
        """Ask for the account's counts, and return the lowest nonce that they leave.

        Raises ChainUnreachable if they cannot be believed (``viz.chain.nonces``).
        """
        pending, mined = await self._rpc.transaction_count(self.address), None
        missed = self._nonces.missed_by(pending)
        if missed and await self._rpc.receipt(missed):
            pending = self._nonces.up_to_seen
        if self._nonces.doubts(pending, open_count):
            mined = await self._rpc.mined_count(self.address)
        return self._nonces.start(pending, mined, open_count, asyncio.get_running_loop().time())

    async def _sign(
        self,
        to: Address | None,
        data: bytes,
        gas: int,
        description: str,
        *,
        max_gas: int | None,
        nonce: int,
        urgent: bool,
    ) -> SignedTransaction:
        """Sign a call that needs ``gas``, with a margin as far as the caller and a block allow."""
        paid = fees.bounded(await self._rpc.fees(), self._max_fee_wei, urgent=urgent)
        if paid.block_gas is not None and gas > paid.block_gas:
            raise TransactionFailed(
                f"{description} needs more gas than a block of this chain may use "
                f"({paid.block_gas}): nothing was sent"
            )
        margin = gas * self._gas_margin_bps // BPS
        bounds = [bound for bound in (max_gas, paid.block_gas) if bound is not None]
        limit = min([gas + margin, *bounds])
        await self._require_funds(limit, paid, description)
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": await self._chain(),
            "nonce": nonce,
            "gas": limit,
            "maxFeePerGas": paid.max_fee_wei,
            "maxPriorityFeePerGas": paid.priority_fee_wei,
            "value": 0,
            "data": data,
        }
        if to is not None:
            fields["to"] = to
        return fees.sign(self._account, fields, description)

    async def _chain(self) -> int:
        if self._chain_id is None:
            self._chain_id = await self._rpc.chain_id()
        return self._chain_id


def _description(call: Call) -> str:
    """Return under what a call's transactions stand in the journal."""
    return f"{call.contract}.{call.function}"
