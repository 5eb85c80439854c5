"""Follow a transaction from its broadcast until it is in a block.

Owns the wait for the receipt, the look-up after a restart, and the replacement of a transaction
that no block includes. ``viz.chain.sender`` decides what is sent, with which nonce. Invariants:

- A transaction with an unknown outcome is looked up by its hash. Only two things are broadcast
  again: the same bytes, or the same call with the same nonce at a higher fee. No chain executes
  both.
- The wait ends with the receipt of any transaction with the nonce, and reports that one.
- A transaction is in the journal before its broadcast, and stays open there until one with its
  nonce is in a block, the chain refuses it, or the sender gives it up.
- No fee above the operator's bound is signed.
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
    """Follows the transactions of one account until each is in a block."""

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
        """Create the tracker; events are not decoded if ``deployment`` is None."""
        self._rpc = rpc
        self._account = account
        self._address = Address(str(account.address))
        self._journal = journal
        self._deployment = deployment
        self._wait_s = wait_s
        self._max_fee_wei = max_fee_wei
        self._stuck = StuckPolicy(rpc, stuck_blocks)
        # Nonces that a call of `wait` follows: `recover` leaves their fees alone.
        self._awaited: set[int] = set()
        self.fees_raised = 0

    async def lookup(self, transaction_hash: Hash32) -> Transaction:
        """Return a transaction's state; UNKNOWN if the chain does not know its hash."""
        receipt = await self._rpc.receipt(transaction_hash)
        if receipt is not None:
            return await self._end(receipt)
        if await self._rpc.knows(transaction_hash):
            return Transaction(Outcome.PENDING, transaction_hash)
        return Transaction(Outcome.UNKNOWN, transaction_hash)

    async def wait(self, entry: SignedTransaction, *, urgent: bool) -> Transaction:
        """Wait for the block of a transaction that was broadcast, and return its result.

        Returns PENDING or UNKNOWN if there is none within ``wait_s``. If a replacement was mined
        instead, the result has the replacement's hash.
        """
        self._awaited.add(entry.nonce)
        try:
            return await self._wait(entry, urgent=urgent)
        finally:
            self._awaited.discard(entry.nonce)

    async def recover(self, *, urgent: bool = False) -> tuple[Transaction, ...]:
        """Look up every transaction without a known end, for example after a restart.

        If the chain does not know a transaction, the same bytes are broadcast again. If another
        transaction used its nonce, it can never be mined, and it is FAILED. If its fee is below
        the present base fee, or too many blocks left it out, it is replaced by the same call at a
        higher fee, within the bound (``urgent`` as in ``submit``). A transaction for which a call
        of ``wait`` still runs is not replaced here.
        """
        found = []
        last_nonce = -1
        pending = await self._journal.pending(self._address)
        # The highest fee of each nonce first: the others were already replaced by it.
        for entry in sorted(pending, key=lambda each: (each.nonce, -fees.max_fee_of(each.raw))):
            replaced, last_nonce = entry.nonce == last_nonce, entry.nonce
            same_nonce = [
                each for each in pending if each.nonce == entry.nonce and each is not entry
            ]
            state = await self._advance(entry, same_nonce, replaced=replaced, urgent=urgent)
            if state.outcome in (Outcome.MINED, Outcome.FAILED):
                # A nonce is used once: if another with this nonce was mined, this one failed.
                own = state.outcome if state.hash == entry.hash else Outcome.FAILED
                await self._journal.resolve(entry.hash, own)
                self._stuck.forget(entry.nonce)
            _log.info(
                "transaction recovered",
                transaction=hex_of(entry.hash),
                what=entry.description,
                outcome=state.outcome.value,
            )
            found.append(replace(state, what=entry.description))
        return tuple(found)

    async def earlier(self, description: str, part: bytes) -> tuple[Transaction, ...]:
        """Return the present states of the transactions whose signed bytes hold ``part``.

        ``description`` is that of the journal, which has ended ones too. Nothing is sent.
        """
        entries = await self._journal.described(self._address, description)
        return tuple([await self._state_of(each) for each in entries if part in each.raw])

    async def _state_of(self, entry: SignedTransaction) -> Transaction:
        """Return a transaction's state; FAILED if another transaction used its nonce."""
        state = await self.lookup(entry.hash)
        if state.outcome is not Outcome.UNKNOWN or (
            await self._rpc.mined_count(self._address) <= entry.nonce
        ):
            return state
        # The nonce is used. Perhaps by this transaction, mined since the look-up: look again.
        state = await self.lookup(entry.hash)
        if state.outcome is not Outcome.UNKNOWN:
            return state
        return Transaction(Outcome.FAILED, entry.hash, error="another transaction took its nonce")

    async def _advance(
        self,
        entry: SignedTransaction,
        same_nonce: Sequence[SignedTransaction],
        *,
        replaced: bool,
        urgent: bool,
    ) -> Transaction:
        """Return a transaction's state; broadcast it again or raise its fee first if needed."""
        state = await self._state_of(entry)
        if state.outcome in (Outcome.MINED, Outcome.FAILED):
            return state
        if replaced or entry.nonce in self._awaited:
            return state
        asked = await self._rpc.fees()
        too_low = fees.max_fee_of(entry.raw) < asked.base_fee_wei
        if too_low or await self._stuck.is_stuck(entry):
            replacement = await self._replacement(entry, asked, urgent=urgent)
            if replacement is None:
                return state
            return await self._broadcast(replacement, [entry, *same_nonce], urgent=urgent)
        if state.outcome is Outcome.PENDING:
            return state
        return await self._broadcast(entry, same_nonce, urgent=urgent)

    async def _broadcast(
        self, entry: SignedTransaction, same_nonce: Sequence[SignedTransaction], *, urgent: bool
    ) -> Transaction:
        """Send a recorded transaction, and wait for a receipt of any with its nonce.

        If it is refused, for example because the account cannot pay its fee, those that it was to
        replace are sent again: they may be out of the pool too, and the chain takes one of them.
        """
        refusal = ""
        for each in (entry, *sorted(same_nonce, key=lambda one: -fees.max_fee_of(one.raw))):
            try:
                await self._rpc.broadcast(each.raw)
            except ChainUnreachable:
                return Transaction(Outcome.UNKNOWN, entry.hash)
            except ChainError as error:
                _log.warning("the chain refuses a recorded transaction", reason=error.detail)
                refusal = refusal or error.detail
            else:
                return await self._wait(entry, same_nonce, urgent=urgent)
        return Transaction(Outcome.UNKNOWN, entry.hash, error=refusal)

    async def _replacement(
        self, entry: SignedTransaction, asked: Fees, *, urgent: bool
    ) -> SignedTransaction | None:
        """Sign and record the same call and nonce at a higher fee; None if the bound forbids it.

        The old transaction stays in the journal until one of the two is in a block, because
        either may still be mined.
        """
        higher, reason = None, "the operator's bound leaves no room for a higher fee"
        try:
            higher = fees.replacement(entry, self._account, asked, self._max_fee_wei, urgent=urgent)
        except FeeTooHigh as error:
            reason = error.detail
        if higher is None:
            _log.warning("a transaction waits", what=entry.description, reason=reason)
            return None
        await self._journal.record(higher)
        self.fees_raised += 1
        _log.info(
            "fee raised",
            what=entry.description,
            transaction=hex_of(higher.hash),
            instead_of=hex_of(entry.hash),
            max_fee_wei=fees.max_fee_of(higher.raw),
            raised=self.fees_raised,
        )
        return higher

    async def _wait(
        self,
        entry: SignedTransaction,
        same_nonce: Sequence[SignedTransaction] = (),
        *,
        urgent: bool,
    ) -> Transaction:
        """Wait for a receipt of ``entry``, of ``same_nonce`` or of a replacement made here.

        Returns PENDING or UNKNOWN, for the one with the highest fee, if there is none in time.
        """
        running = [entry, *same_nonce]  # the highest fee first
        pause_s = _FIRST_POLL_S
        try:
            async with asyncio.timeout(self._wait_s):
                while (receipt := await self._receipt_of(running)) is None:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LAST_POLL_S)
                    if pause_s == _LAST_POLL_S and await self._stuck.is_stuck(running[0]):
                        await self._raise_fee(running, urgent=urgent)
            end = await self._end(receipt)
        except TimeoutError:
            return Transaction(Outcome.PENDING, running[0].hash)
        except ChainError as error:
            return Transaction(Outcome.UNKNOWN, running[0].hash, error=error.detail)
        for each in running:
            own = end.outcome if each.hash == end.hash else Outcome.FAILED
            await self._journal.resolve(each.hash, own)
        self._stuck.forget(entry.nonce)
        return end

    async def _receipt_of(self, running: Sequence[SignedTransaction]) -> TransactionReceipt | None:
        for each in running:
            receipt = await self._rpc.receipt(each.hash)
            if receipt is not None:
                return receipt
        return None

    async def _raise_fee(self, running: list[SignedTransaction], *, urgent: bool) -> None:
        """Replace the first of ``running`` at a higher fee, and put the replacement before it."""
        replacement = await self._replacement(running[0], await self._rpc.fees(), urgent=urgent)
        if replacement is None:
            return
        running.insert(0, replacement)
        try:
            await self._rpc.broadcast(replacement.raw)
        except ChainError as error:
            # It was refused, or it arrived and the answer was lost. The older ones may still be
            # mined. So the wait for all of them goes on.
            _log.warning("a higher fee was not taken", reason=error.detail)

    async def _end(self, receipt: TransactionReceipt) -> Transaction:
        return Transaction(
            Outcome.MINED if receipt.succeeded else Outcome.FAILED,
            receipt.transaction_hash,
            receipt.block_number,
            receipt.gas_used,
            None if receipt.succeeded else "it reverted in its block; nothing changed but the fee",
            decode_logs(self._deployment, receipt.logs) if self._deployment else (),
        )
