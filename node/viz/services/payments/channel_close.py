"""Close channels at their payers' signed request.

``viz.domain.closing`` has the rules of a final voucher. Invariant: what was delivered and signed is
claimed before the node signs a Close, because a Close returns all the rest to the payer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from viz.domain.closing import accept_final, require_covered
from viz.domain.eip712 import Domain, is_signed_by, sign
from viz.domain.node_channel import NodeChannel, PresentedVoucher, begin_close, require_signed_for
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.ledger import ChannelRecord
from viz.domain.ports.services import Claimer
from viz.domain.ports.transactions import Call, ChainWriter, Outcome
from viz.domain.typed_data import Close
from viz.domain.units import ZERO_ADDRESS, Address, Units
from viz.errors import ChainError, ChannelUnknown, InvalidRequest, InvalidSignature
from viz.protocol.credential import CloseRequest
from viz.protocol.messages import CloseAnswer
from viz.services.payments.active_channel import ActiveChannel, ChannelUpdate
from viz.services.payments.channels import ChannelStore
from viz.services.payments.relay_budget import RelayBudget

# Anybody can copy a signed Close from the chain and send it again, to end a channel that was opened
# again. So nothing is sold until it expires. It is valid long enough for a block to take it.
CLOSE_VALID_S: Final = 300
# A buyer who closes sends no more vouchers, so its running answers end within the wait for one.
CLOSE_WAIT_S: Final = 30.0
# A Close that is valid for so long is handed out again: whoever asks twice has time to send it.
HANDED_AGAIN_S: Final = 60


class ChannelClose:
    """Close the channels of one node."""

    def __init__(
        self,
        channels: ChannelStore,
        chain: ChainReader,
        writer: ChainWriter,
        budget: RelayBudget,
        *,
        domain: Domain,
        claimer: Claimer,
        key: bytes,
        chain_time: Callable[[], Awaitable[int]],
    ) -> None:
        """Sign with ``key``, the node's; pay gas for a Close out of ``budget``."""
        self._channels = channels
        self._chain = chain
        self._writer = writer
        self._budget = budget
        self._domain = domain
        self._node = writer.address
        self._claimer = claimer
        self._key = key
        self._chain_time = chain_time
        # By signer, those that this process signed and did not submit.
        self._signed: dict[Address, CloseAnswer] = {}

    async def close(self, wanted: CloseRequest) -> CloseAnswer:
        """Close a channel at its payer's signed request: stop selling, claim, sign Close, submit.

        A final voucher is for what was billed, without what was signed ahead. It replaces the best
        voucher in the commit that ends the sales, before anything is claimed. So if the node is
        killed in between, it can still claim what it billed. The Close is submitted if the channel
        earned that cost. Else the answer has only the node's signature, which anybody can submit;
        if it is asked for again while it is valid, the same one is handed out, so that asking does
        not keep the channel from sales.
        Raises WrongDomain, InvalidRequest (also if nothing is left to return, or the claim costs
        more than it earns), InvalidSignature, ChannelUnknown, ChannelBusy (answers are running),
        PaymentRequired (less is signed than was delivered), StaleVoucher, DepositExceeded,
        UnknownAdapter, StoreError, ChainError (such as FeeTooHigh, TransactionFailed, or if the
        claim is not on chain yet).
        """
        request = wanted.request
        require_signed_for(
            self._domain,
            self._node,
            chain_id=wanted.chain_id,
            contract=wanted.contract,
            named_node=request.node,
        )
        opened = await self._channels.get(request.signer, fresh=True)
        if opened.channel.payer == ZERO_ADDRESS:
            raise ChannelUnknown("there is no such channel to this node")
        if not opened.channel.deposit_units:
            raise InvalidRequest("nothing is left in this channel: there is nothing to close")
        now_s = await self._chain_time()
        if request.deadline_s < now_s:
            raise InvalidRequest(f"the close request expired; the chain's time is {now_s}")
        if not is_signed_by(self._domain.digest(request), wanted.signature, opened.channel.payer):
            raise InvalidSignature(f"the close is not signed by the payer {opened.channel.payer}")
        kept = self._kept(request.signer, now_s)
        until_s = kept.close.deadline_s if kept else now_s + CLOSE_VALID_S
        await self._end_sales(opened, wanted, until_s)
        opened.notify()
        self._claimer.close_requested(request.signer)
        # Claim before signing: the Close states a settled total, and returns all the rest.
        if opened.channel.best is not None or opened.channel.frozen:
            await self._claimer.claim(request.signer)
        opened = await self._channels.get(request.signer, fresh=True)
        end_units = opened.channel.end_units
        # The newest block is enough: the contract takes a Close only at exactly this settled total,
        # so one that is signed on a claim that a reorganisation removes cannot be used.
        seen = await self._chain.channel(request.signer, self._node, confirmed=False)
        if seen is None or seen.settled_units != end_units:
            raise ChainError("the last claim is not on chain yet: ask again in a moment")
        close, signature = await self._sign(opened, end_units)
        args = (close.signer, close.node, close.settled_units, close.deadline_s, signature)
        call = Call("Settlement", "closeNow", args)
        payer = opened.channel.payer
        sent = await self._budget.close(self._writer, payer, request.signer, end_units, call)
        await self._channels.get(request.signer, fresh=True)
        done = sent.hash if sent is not None and sent.outcome is Outcome.MINED else b""
        answer = CloseAnswer(close, signature, done)
        if not done:
            self._signed[request.signer] = answer
        return answer

    async def _sign(self, opened: ActiveChannel, end_units: Units) -> tuple[Close, bytes]:
        now_s, signer = await self._chain_time(), opened.channel.signer
        kept = self._kept(signer, now_s)
        if kept is not None and kept.close.settled_units == end_units:
            return kept.close, kept.signature
        until_s = now_s + CLOSE_VALID_S
        await self._channels.commit(
            opened, "sign-close", lambda channel, _: ChannelUpdate(begin_close(channel, until_s))
        )
        close = Close(signer, self._node, end_units, until_s)
        return close, sign(self._key, self._domain.digest(close))

    def _kept(self, signer: Address, now_s: int) -> CloseAnswer | None:
        """Return the Close that is signed and valid for a while; forget those that are over."""
        least_s = now_s + HANDED_AGAIN_S
        self._signed = {
            key: each for key, each in self._signed.items() if each.close.deadline_s >= least_s
        }
        return self._signed.get(signer)

    async def _end_sales(self, opened: ActiveChannel, wanted: CloseRequest, until_s: int) -> None:
        final = None
        if wanted.final is not None:
            final = PresentedVoucher(
                wanted.chain_id, wanted.contract, opened.channel.signer, self._node, wanted.final
            )
            await self._idle(opened)

        def change(channel: NodeChannel, _: ChannelRecord) -> ChannelUpdate:
            if final is not None:
                channel = accept_final(channel, self._domain, final)
            require_covered(channel)
            return ChannelUpdate(begin_close(channel, until_s))

        await self._channels.commit(opened, "close", change)

    async def _idle(self, opened: ActiveChannel) -> None:
        """Wait up to ``CLOSE_WAIT_S`` until no answer is running; ``accept_final`` checks that."""
        moved = asyncio.Event()
        opened.waiting.add(moved.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_WAIT_S):
                    while any(opened.channel.reserved.values()):
                        moved.clear()
                        await moved.wait()
        finally:
            opened.waiting.discard(moved.set)
