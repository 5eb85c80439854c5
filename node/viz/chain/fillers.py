"""Sign empty transactions, which only use a nonce.

One fills a gap before an open transaction (``viz.chain.sender``), or takes the nonce of a call that
the chain refuses for good, behind which all later transactions would wait for ever. Such a call is
one whose nonce is the account's next, of which the chain knows no version, and of which it refused
every version in every answer for ``LASTS_S``, in words that no fee cures.

Invariants: an empty transaction may use no more gas than ``EMPTY_GAS``, whatever an endpoint says;
it is in the journal before the chain can see it, beside the call, because either may be mined; at
most one is signed instead of a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from eth_account.signers.local import LocalAccount

from viz.chain import fees, nonces
from viz.chain.refusals import for_good
from viz.chain.rpc import Fees, Rpc
from viz.domain.ports.settlement_ledger import SignedTransaction, TransactionJournal
from viz.domain.ports.transactions import Outcome, Transaction
from viz.domain.units import Hash32, hex_of
from viz.errors import ChainError

# What they are called in the journal.
FILLER: Final = "nothing, to use a nonce"
# Ten times what most chains take for nothing. What is not used is not paid.
EMPTY_GAS: Final = 210_000
_log = structlog.get_logger()


def empty(account: LocalAccount, nonce: int, *, chain_id: int, paid: Fees) -> SignedTransaction:
    """Sign an empty transaction from the account to itself with this nonce."""
    fields = {
        "type": 2,
        "chainId": chain_id,
        "nonce": nonce,
        "gas": EMPTY_GAS,
        "maxFeePerGas": paid.max_fee_wei,
        "maxPriorityFeePerGas": paid.priority_fee_wei,
        "value": 0,
        "data": b"",
        "to": str(account.address),
    }
    return fees.sign(account, fields, FILLER)


def to_send(
    same: Sequence[SignedTransaction], found: Mapping[Hash32, Transaction]
) -> list[SignedTransaction]:
    """Return the empty ones if there are any, unless the chain knows the call after all."""
    empty = [each for each in same if each.description == FILLER]
    calls = [each for each in same if each.description != FILLER]
    known = any(found[each.hash].outcome is Outcome.PENDING for each in calls)
    return calls if known or not empty else empty


class RefusedForGood:
    """The calls of one account that its chain refuses for good."""

    def __init__(
        self,
        rpc: Rpc,
        account: LocalAccount,
        journal: TransactionJournal,
        max_fee_wei: int | None,
    ) -> None:
        self._rpc = rpc
        self._account = account
        self._journal = journal
        self._max_fee_wei = max_fee_wei
        # By nonce: the call, and since when every answer refuses it.
        self._since: dict[int, tuple[Hash32, float]] = {}

    def lasts(
        self, same: Sequence[SignedTransaction], *, lost: bool, refusals: Sequence[str]
    ) -> bool:
        """Return whether a call has been refused for good for ``LASTS_S``.

        ``same`` are the transactions with its nonce, empty ones last. ``lost`` is whether the chain
        knows none of them, ``refusals`` what it answered now.
        """
        last, now_s = same[-1], asyncio.get_running_loop().time()
        if not lost or not all(map(for_good, refusals)) or last.description == FILLER:
            self.forget(last.nonce)
            return False
        known, since_s = self._since.get(last.nonce, (last.hash, now_s))
        if known != last.hash:
            since_s = now_s
        self._since[last.nonce] = last.hash, since_s
        return now_s >= since_s + nonces.LASTS_S

    def forget(self, nonce: int) -> None:
        """Delete what is known of a nonce: it was used, or one of its transactions was taken."""
        self._since.pop(nonce, None)

    async def give_up(self, entry: SignedTransaction, asked: Fees, *, urgent: bool) -> None:
        """Sign and record an empty transaction with the nonce of a call that is refused for good.

        Nothing is signed while the nonce is not the account's next one, while something waits that
        has it, while the account cannot pay for it, and while the fee is above the bound.
        """
        try:
            mined = await self._rpc.mined_count(entry.sender)
            waiting = await self._rpc.transaction_count(entry.sender)
            if not mined == waiting == entry.nonce:
                return
            paid = fees.bounded(asked, self._max_fee_wei, urgent=urgent)
            if await self._rpc.balance_wei(entry.sender) < EMPTY_GAS * paid.max_fee_wei:
                return
        except ChainError as error:
            _log.warning("a refused transaction keeps its nonce", reason=error.detail)
            return
        chain_id = fees.chain_of(entry.raw)
        instead = empty(self._account, entry.nonce, chain_id=chain_id, paid=paid)
        await self._journal.record(instead)
        _log.error(
            "the chain refuses a transaction for good: an empty one takes its nonce",
            what=entry.description,
            transaction=hex_of(entry.hash),
            empty=hex_of(instead.hash),
        )
