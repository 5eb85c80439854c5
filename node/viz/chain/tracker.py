"""What becomes of a transaction that was sent, until a block has it.

Owns the wait, the look-up after a restart, and the replacement of what no block takes. Does not
know what is sent, nor which nonce is next (``viz.chain.sender``). Invariants: one whose outcome is
unknown is looked up by its hash, and only the very same bytes, or the same call with the same nonce
at a higher fee, are ever broadcast again (no chain executes both); of those with one nonce, the
receipt of any ends the wait, and is what is told; what is broadcast was recorded before, and stays
so until one of its nonce is in a block; no fee above the operator's bound is signed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog
from eth_account.signers.local import LocalAccount

from viz.chain import fees
from viz.chain.event_decoding import decode_logs
from viz.chain.rpc import Fees, Rpc, TransactionReceipt
from viz.chain.stuck import StuckPolicy
from viz.domain.ports.chain import Deployment
from viz.domain.ports.settlement_ledger import SignedTransaction, TransactionJournal
from viz.domain.ports.transactions import Outcome, Transaction
from viz.domain.units import Address, Hash32, hex_of
from viz.errors import ChainError, ChainUnreachable, FeeTooHigh

_FIRST_POLL_S: Final = 0.02
_LAST_POLL_S: Final = 1.0
_log = structlog.get_logger()


class TransactionTracker:
    """Follows the transactions of one account to their ends."""

    def __init__(
        self,
        rpc: Rpc,
        account: LocalAccount,
        journal: TransactionJournal,
        deployment: Deployment | None,
        *,
        wait_s: float,
        max_fee_wei: int | None,
        stuck_blocks: int,
    ) -> None:
        """Make the follower; without ``deployment`` events are not decoded."""
        self._rpc = rpc
        self._account = account
        self._address = Address(str(account.address))
        self._journal = journal
        self._deployment = deployment
        self._wait_s = wait_s
        self._max_fee_wei = max_fee_wei
        self._patience = StuckPolicy(rpc, stuck_blocks)
        self._awaited: set[int] = set()
        self.fees_raised = 0

    async def lookup(self, transaction_hash: Hash32) -> Transaction:
        """Return what became of a transaction; UNKNOWN when the chain does not know its hash."""
        receipt = await self._rpc.receipt(transaction_hash)
        if receipt is not None:
            return await self._end(receipt)
        if await self._rpc.knows(transaction_hash):
            return Transaction(Outcome.PENDING, transaction_hash)
        return Transaction(Outcome.UNKNOWN, transaction_hash)

    async def wait(self, entry: SignedTransaction, *, urgent: bool) -> Transaction:
        """Return the end of a call that was broadcast; PENDING or UNKNOWN without one in time.

        What replaced it meanwhile is told by its own hash, where that is what was mined.
        """
        self._awaited.add(entry.nonce)
        try:
            return await self._wait(entry, urgent=urgent)
        finally:
            self._awaited.discard(entry.nonce)

    async def recover(self, *, urgent: bool = False) -> tuple[Transaction, ...]:
        """Look up every transaction without a known end, as after a restart; return them.

        One that the chain does not know is broadcast again, byte for byte, unless its nonce was
        used by another: then it can never happen, and it is FAILED. One whose fee is below what
        blocks take now, or which too many of them passed over, is replaced by the same call at a
        higher fee, within the bound (``urgent`` as in ``submit``), unless somebody still waits for
        it.
        """
        found = []
        dearest = -1
        pending = await self._journal.pending(self._address)
        for entry in sorted(pending, key=lambda each: (each.nonce, -fees.max_fee_of(each.raw))):
            replaced, dearest = entry.nonce == dearest, entry.nonce
            rivals = [each for each in pending if each.nonce == entry.nonce and each is not entry]
            state = await self._progress(entry, rivals, replaced=replaced, urgent=urgent)
            if state.outcome in (Outcome.SETTLED, Outcome.FAILED):
                # Of two with one nonce only one happens: where its successor did, this one cannot.
                own = state.outcome if state.hash == entry.hash else Outcome.FAILED
                await self._journal.resolve(entry.hash, own)
                self._patience.forget(entry.nonce)
            _log.info(
                "transaction recovered",
                transaction=hex_of(entry.hash),
                what=entry.description,
                outcome=state.outcome.value,
            )
            found.append(replace(state, what=entry.description))
        return tuple(found)

    async def _progress(
        self,
        entry: SignedTransaction,
        rivals: Sequence[SignedTransaction],
        *,
        replaced: bool,
        urgent: bool,
    ) -> Transaction:
        """Return what became of a transaction, after a push where it is stuck."""
        state = await self.lookup(entry.hash)
        if state.outcome in (Outcome.SETTLED, Outcome.FAILED):
            return state
        if state.outcome is Outcome.UNKNOWN and (
            await self._rpc.mined_count(self._address) > entry.nonce
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
        too_low = fees.max_fee_of(entry.raw) < asked.base_fee_wei
        if too_low or await self._patience.is_over(entry):
            dearer = await self._dearer(entry, asked, urgent=urgent)
            if dearer is None:
                return state
            return await self._again(dearer, [entry, *rivals], urgent=urgent)
        if state.outcome is Outcome.PENDING:
            return state
        return await self._again(entry, rivals, urgent=urgent)

    async def _again(
        self, entry: SignedTransaction, rivals: Sequence[SignedTransaction], *, urgent: bool
    ) -> Transaction:
        try:
            await self._rpc.broadcast(entry.raw)
        except ChainUnreachable:
            return Transaction(Outcome.UNKNOWN, entry.hash)
        except ChainError as error:
            _log.warning("the chain refuses a recorded transaction", reason=error.detail)
            return Transaction(Outcome.UNKNOWN, entry.hash, error=error.detail)
        return await self._wait(entry, rivals, urgent=urgent)

    async def _dearer(
        self, entry: SignedTransaction, asked: Fees, *, urgent: bool
    ) -> SignedTransaction | None:
        """Return the call with its nonce at a higher fee, recorded; None where the bound forbids.

        The old one stays in the journal until one of the two is in a block.
        """
        dearer, reason = None, "the operator's bound leaves no room for a higher fee"
        try:
            dearer = fees.replacement(entry, self._account, asked, self._max_fee_wei, urgent=urgent)
        except FeeTooHigh as error:
            reason = error.detail
        if dearer is None:
            _log.warning("a transaction waits", what=entry.description, reason=reason)
            return None
        await self._journal.record(dearer)
        self.fees_raised += 1
        _log.info(
            "fee raised",
            what=entry.description,
            transaction=hex_of(dearer.hash),
            instead_of=hex_of(entry.hash),
            max_fee_wei=fees.max_fee_of(dearer.raw),
            raised=self.fees_raised,
        )
        return dearer

    async def _wait(
        self,
        entry: SignedTransaction,
        rivals: Sequence[SignedTransaction] = (),
        *,
        urgent: bool,
    ) -> Transaction:
        """Return the end of the call, by ``entry``, one of its rivals or what replaces them here.

        PENDING or UNKNOWN, of the dearest, when there is none in time.
        """
        running = [entry, *rivals]
        pause_s = _FIRST_POLL_S
        try:
            async with asyncio.timeout(self._wait_s):
                while (receipt := await self._receipt_of(running)) is None:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LAST_POLL_S)
                    if pause_s == _LAST_POLL_S and await self._patience.is_over(running[0]):
                        await self._raise(running, urgent=urgent)
            end = await self._end(receipt)
        except TimeoutError:
            return Transaction(Outcome.PENDING, running[0].hash)
        except ChainError as error:
            return Transaction(Outcome.UNKNOWN, running[0].hash, error=error.detail)
        for each in running:
            own = end.outcome if each.hash == end.hash else Outcome.FAILED
            await self._journal.resolve(each.hash, own)
        self._patience.forget(entry.nonce)
        return end

    async def _receipt_of(self, running: Sequence[SignedTransaction]) -> TransactionReceipt | None:
        for each in running:
            receipt = await self._rpc.receipt(each.hash)
            if receipt is not None:
                return receipt
        return None

    async def _raise(self, running: list[SignedTransaction], *, urgent: bool) -> None:
        """Offer more for the dearest, and put what does so before it, whatever becomes of it."""
        dearer = await self._dearer(running[0], await self._rpc.fees(), urgent=urgent)
        if dearer is None:
            return
        running.insert(0, dearer)
        try:
            await self._rpc.broadcast(dearer.raw)
        except ChainError as error:
            # Refused, or perhaps arrived: those before it may be mined all the same.
            _log.warning("a higher fee was not taken", reason=error.detail)

    async def _end(self, receipt: TransactionReceipt) -> Transaction:
        return Transaction(
            Outcome.SETTLED if receipt.succeeded else Outcome.FAILED,
            receipt.transaction_hash,
            receipt.block_number,
            receipt.gas_used,
            None if receipt.succeeded else "it reverted in its block; nothing changed but the fee",
            decode_logs(self._deployment, receipt.logs) if self._deployment else (),
        )
