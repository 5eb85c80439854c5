"""Follow a transaction from its broadcast until it is in a block.

Owns the wait for the receipt, the look-up after a restart, and the replacement of a transaction
that no block includes. ``viz.chain.sender`` decides what is sent, with which nonce. Invariants:

- A transaction with an unknown outcome is looked up by its hash. Only three things are broadcast
  again: the same bytes, the same call with the same nonce at a higher fee, or an empty transaction
  with that nonce. No chain executes two of them.
- A call that the chain refuses for good is FAILED once an empty transaction with its nonce is mined
  (``viz.chain.fillers``): else all later ones would wait for ever.
- The wait ends with the receipt of any transaction with the nonce, and reports that one.
- All that the chain lost are broadcast at once, the lowest nonce first, and share one wait. After
  a broadcast without an answer the others wait for the next call.
- A transaction is FAILED by its own receipt, by that of another one of ours with its nonce, or if
  the nonce stays used, and the transaction unknown, for ``LASTS_S``: several machines may answer
  at one address, and the one that is asked for the receipt may be behind the one that counted.
- A transaction is in the journal before its broadcast, and stays open there until one with its
  nonce is in a block, the chain refuses it, or the sender gives it up.
- No fee above the operator's bound is signed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import structlog
from eth_account.signers.local import LocalAccount

from viz.chain import fees, nonces
from viz.chain.endpoint import EndpointRefused
from viz.chain.event_decoding import decode_logs
from viz.chain.fillers import FILLER, RefusedForGood, to_send
from viz.chain.refusals import too_cheap
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


@dataclass(slots=True)
class _Pass:
    """What one call of ``recover`` knows: the fees, how many transactions are mined, and whether a
    broadcast had no answer."""

    asked: Fees | None = None
    mined: int | None = None
    silent: bool = False


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
        saw: Callable[[Hash32, int], None],
    ) -> None:
        """Create the tracker; events are not decoded if ``deployment`` is None.

        ``saw`` is called with the hash and nonce of each transaction whose receipt is found.
        """
        self._rpc = rpc
        self._account = account
        self._address = Address(str(account.address))
        self._journal = journal
        self._deployment = deployment
        self._wait_s = wait_s
        self._max_fee_wei = max_fee_wei
        self._stuck = StuckPolicy(rpc, stuck_blocks)
        self._saw = saw
        # How many follow each nonce: `recover` leaves alone what another call follows.
        self._awaited: Counter[int] = Counter()
        self._refused = RefusedForGood(rpc, account, journal, max_fee_wei)
        # Transactions that the chain refused for their fee.
        self._cheap: set[Hash32] = set()
        # Transactions that nobody knows although their nonces are used, and since when.
        self._absent: dict[Hash32, float] = {}
        self.fees_raised = 0

    def follows(self, nonce: int) -> bool:
        """Return whether somebody follows the transactions with this nonce."""
        return nonce in self._awaited

    @contextmanager
    def following(self, nonce: int) -> Iterator[None]:
        """Keep `recover` from this nonce: what it decides, somebody else decides meanwhile."""
        self._awaited[nonce] += 1
        try:
            yield
        finally:
            self._awaited[nonce] -= 1
            if not self._awaited[nonce]:
                del self._awaited[nonce]

    async def lookup(self, transaction_hash: Hash32) -> Transaction:
        """Return a transaction's state; UNKNOWN if the chain does not know its hash."""
        if (receipt := await self._rpc.receipt(transaction_hash)) is not None:
            return await self._end(receipt)
        known = await self._rpc.knows(transaction_hash)
        return Transaction(Outcome.PENDING if known else Outcome.UNKNOWN, transaction_hash)

    async def wait(self, entry: SignedTransaction, *, urgent: bool) -> Transaction:
        """Wait for the block of a transaction that was broadcast, and return its result.

        Returns PENDING or UNKNOWN if there is none within ``wait_s``. If a replacement was mined
        instead, the result has the replacement's hash.
        """
        with self.following(entry.nonce):
            return await self._wait([entry], self._deadline_s(), urgent=urgent)

    async def recover(self, *, urgent: bool = False) -> tuple[Transaction, ...]:
        """Look up every transaction without a known end, for example after a restart.

        If the chain does not know a transaction, the same bytes are broadcast again. If another
        transaction used its nonce, it can never be mined, and it is FAILED. If its fee is below
        the present base fee, or was too low for too many blocks, it is replaced by the same call at
        a higher fee, within the bound (``urgent`` as in ``submit``). If the chain refuses it for
        good, an empty one takes its nonce. What was broadcast is awaited then, ``wait_s`` for all
        together. A transaction that another call sends or still waits for is only looked up.
        """
        states: dict[Hash32, Transaction] = {}
        sent: list[tuple[list[SignedTransaction], list[SignedTransaction]]] = []
        now = _Pass()
        groups = _by_nonce(await self._journal.pending(self._address))
        with ExitStack() as followed:
            for same in groups:
                found, used = await self._states(same)
                states |= found
                ended = any(not each.outcome.undecided for each in found.values())
                if ended:
                    await self._resolve(same, {key: each.outcome for key, each in found.items()})
                if ended or used:
                    continue
                if not now.silent and not self.follows(same[0].nonce):
                    followed.enter_context(self.following(same[0].nonce))
                    if await self._still_open(same):
                        sent.append((same, []))
                        states[same[0].hash] = await self._send_again(
                            same, found, sent[-1][1], now, urgent=urgent
                        )
            deadline_s = self._deadline_s()
            for same, running in sent:
                if running:
                    end = await self._wait(running, deadline_s, urgent=urgent)
                    if not end.outcome.undecided:
                        states |= {each.hash: _end_of(each, end) for each in same}
                    took = next(each for each in running if each.hash == end.hash)
                    if end.outcome.undecided or took.description == same[0].description:
                        states[same[0].hash] = end
        told = []
        for entry in [each for same in groups for each in same]:
            state = states[entry.hash]
            _log.info(
                "transaction recovered",
                transaction=hex_of(entry.hash),
                what=entry.description,
                outcome=state.outcome.value,
            )
            told.append(replace(state, what=entry.description))
        return tuple(told)

    async def earlier(self, description: str, part: bytes) -> tuple[Transaction, ...]:
        """Return the present states of the transactions whose signed bytes hold ``part``.

        ``description`` is the journal's, which has ended and refused ones too. One that the chain
        refused and does not know is FAILED while nothing has its nonce. Nothing is sent.
        """
        entries = await self._journal.described(self._address, description)
        states: list[Transaction] = []
        for same in _by_nonce([each for each in entries if part in each.raw]):
            found, used = await self._states(same)
            refused = {each.hash for each in same if each.failed and not used}
            if refused and await self._rpc.transaction_count(self._address) > same[0].nonce:
                refused.clear()
            for each in same:
                lost = each.hash in refused and found[each.hash].outcome is Outcome.UNKNOWN
                states.append(_failed(each, "it was refused") if lost else found[each.hash])
        return tuple(states)

    async def _states(
        self, same: Sequence[SignedTransaction]
    ) -> tuple[dict[Hash32, Transaction], bool]:
        """Return the states of transactions with one nonce, by their hashes.

        Also whether the nonce is used although none of them is known: it must last (see above).
        """
        now_s = asyncio.get_running_loop().time()
        for _ in range(2):  # the second time after the count: one may be mined in between
            found = {each.hash: await self.lookup(each.hash) for each in same}
            end = next((each for each in found.values() if not each.outcome.undecided), None)
            if end is not None:
                self._saw(end.hash, same[0].nonce)
                found = {each.hash: _end_of(each, end) for each in same}
            unknown = all(each.outcome is Outcome.UNKNOWN for each in found.values())
            if not unknown or await self._rpc.mined_count(self._address) <= same[0].nonce:
                for each in same:
                    self._absent.pop(each.hash, None)
                return found, False
        since_s = max(self._absent.setdefault(each.hash, now_s) for each in same)
        if now_s >= since_s + nonces.LASTS_S:
            found = {each.hash: _failed(each) for each in same}
        return found, True

    async def _still_open(self, same: Sequence[SignedTransaction]) -> bool:
        """Return whether these are still open: they may have ended while they were looked up."""
        still = {each.hash for each in await self._journal.pending(self._address)}
        return all(each.hash in still for each in same)

    async def _send_again(
        self,
        same: Sequence[SignedTransaction],
        found: Mapping[Hash32, Transaction],
        running: list[SignedTransaction],
        now: _Pass,
        *,
        urgent: bool,
    ) -> Transaction:
        """Broadcast the first of these, which have one nonce, or raise its fee, if needed.

        Returns its state. Those that are to be awaited then are put into ``running``. If what is
        sent is refused, for example because the account cannot pay its fee, those that it was to
        replace are sent again: they may be out of the pool too, and the chain takes one of them.
        """
        tried = to_send(same, found)
        entry, others = tried[0], [each for each in same if each not in tried]
        state = found[entry.hash]
        asked = now.asked = now.asked or await self._rpc.fees()
        too_low = fees.max_fee_of(entry.raw) < asked.base_fee_wei
        # A higher fee does not help what was never accepted, for another reason than its fee.
        known = any(found[each.hash].outcome is Outcome.PENDING for each in tried)
        helps = known or any(each.hash in self._cheap for each in tried)
        # Asked once a pass: so one answer names at most one transaction as the first in line.
        if helps and not too_low and now.mined is None:
            now.mined = await self._rpc.mined_count(self._address)
        if too_low or (helps and await self._stuck.is_stuck(entry, now.mined)):
            replacement = await self._replacement(entry, asked, urgent=urgent)
            if replacement is None:
                return state
            tried.insert(0, replacement)
        elif state.outcome is Outcome.PENDING:
            return state
        refused: list[str] = []
        clear = True
        for each in tried:
            try:
                await self._rpc.broadcast(each.raw)
            except ChainError as error:
                unclear = isinstance(error, ChainUnreachable)
                clear = clear and not unclear
                if unclear and not isinstance(error, EndpointRefused):
                    now.silent = True
                    return Transaction(Outcome.UNKNOWN, tried[0].hash)
                _log.warning("the chain refuses a recorded transaction", reason=error.detail)
                refused.append(error.detail)
                note = self._cheap.add if too_cheap(error.detail) else self._cheap.discard
                note(each.hash)
            else:
                self._refused.forget(entry.nonce)
                running += [*tried, *others]
                return Transaction(Outcome.PENDING, tried[0].hash)
        lost = clear and all(each.outcome is Outcome.UNKNOWN for each in found.values())
        if self._refused.lasts(same, lost=lost, refusals=refused):
            await self._refused.give_up(entry, asked, urgent=urgent)
        return Transaction(Outcome.UNKNOWN, tried[0].hash, error=refused[0])

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

    def _deadline_s(self) -> float:
        return asyncio.get_running_loop().time() + self._wait_s

    async def _wait(
        self, running: list[SignedTransaction], deadline_s: float, *, urgent: bool
    ) -> Transaction:
        """Wait for a receipt of any of ``running``, which have one nonce, the highest fee first.

        A replacement made meanwhile is put before them. Returns PENDING or UNKNOWN, for the first
        of them, if there is none in time.
        """
        pause_s = _FIRST_POLL_S
        try:
            async with asyncio.timeout_at(deadline_s):
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
        self._saw(end.hash, running[0].nonce)
        await self._resolve(running, {each.hash: _end_of(each, end).outcome for each in running})
        return end

    async def _resolve(
        self, same: Sequence[SignedTransaction], ends: Mapping[Hash32, Outcome]
    ) -> None:
        """Save how transactions with one nonce ended; the mined one last, which proves the rest."""
        for each in sorted(same, key=lambda one: ends[one.hash] is Outcome.MINED):
            await self._journal.resolve(each.hash, ends[each.hash])
        self._stuck.forget(same[0].nonce)
        self._refused.forget(same[0].nonce)
        self._cheap.difference_update(each.hash for each in same)

    async def _receipt_of(self, running: Sequence[SignedTransaction]) -> TransactionReceipt | None:
        for each in running:
            if (receipt := await self._rpc.receipt(each.hash)) is not None:
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


def _by_nonce(entries: Sequence[SignedTransaction]) -> list[list[SignedTransaction]]:
    """Return the transactions of each nonce, the lowest nonce first.

    Of one nonce calls come before empty ones, which they may have, and the highest fee first.
    """
    ordered = sorted(
        entries,
        key=lambda each: (each.nonce, each.description == FILLER, -fees.max_fee_of(each.raw)),
    )
    return [list(same) for _, same in groupby(ordered, key=lambda each: each.nonce)]


def _end_of(entry: SignedTransaction, end: Transaction) -> Transaction:
    """Return how a transaction ended if ``end`` is that of one with its nonce."""
    return end if entry.hash == end.hash else _failed(entry)


def _failed(entry: SignedTransaction, why: str = "another took its nonce") -> Transaction:
    return Transaction(Outcome.FAILED, entry.hash, error=why)
