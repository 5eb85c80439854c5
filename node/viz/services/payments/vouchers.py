"""Take vouchers, and tell which signers have paid.

``viz.domain.node_channel`` checks a voucher. Invariants:

- A voucher is acknowledged after it is on disk, together with all that was delivered until then.
- A voucher makes the node read no channel but its own from the chain, at most once a second.
"""

from __future__ import annotations

from collections.abc import Iterable

from viz.domain.eip712 import Domain, is_signed_by
from viz.domain.node_channel import (
    NodeChannel,
    PresentedVoucher,
    accept_voucher,
    is_covered,
    require_signed_for,
)
from viz.domain.ports.clock import Clock
from viz.domain.ports.ledger import ChannelRecord
from viz.domain.ports.services import KnownAdapters
from viz.domain.units import ZERO_ADDRESS, Address
from viz.errors import LineBelowBest, StaleVoucher, WrongDomain
from viz.protocol.messages import ChannelView, SessionProof
from viz.services.payments.active_channel import ActiveChannel, ChannelUpdate
from viz.services.payments.channel_view import view_of
from viz.services.payments.channels import ChannelStore
from viz.services.payments.paid_signers import PaidSigners


class Vouchers:
    """Take the vouchers of one node's channels, and remember who sent one."""

    def __init__(
        self,
        channels: ChannelStore,
        clock: Clock,
        *,
        domain: Domain,
        node: Address,
        adapters: KnownAdapters,
    ) -> None:
        self._channels = channels
        self._clock = clock
        self._domain = domain
        self._node = node
        self._adapters = adapters
        self._paid = PaidSigners()

    async def view(self, signer: Address, *, private: bool) -> ChannelView:
        """Return the view of a channel; promised and delivered amounts only if ``private``."""
        return view_of((await self._channels.get(signer)).channel, private=private)

    async def accept(self, presented: PresentedVoucher) -> ChannelView:
        """Check a voucher, make it durable, and return the channel; see ``accept_voucher``.

        Raises InvalidRequest, and every error of ``accept_voucher``.
        """
        require_signed_for(
            self._domain,
            self._node,
            chain_id=presented.chain_id,
            contract=presented.contract,
            named_node=presented.node,
        )
        opened = await self._channels.get(presented.signer)
        # A new deposit may cover the voucher. The signature comes first: strangers must not be able
        # to make the node read the chain.
        if self._lacks_money(opened, presented) and self._clock.now_s() > opened.seen_s:
            digest = self._domain.digest(presented.row.voucher(self._node))
            if is_signed_by(digest, presented.row.signature, presented.signer):
                opened = await self._channels.get(presented.signer, fresh=True)

        def change(channel: NodeChannel, _: ChannelRecord) -> ChannelUpdate:
            known, now_s = self._adapters.known, opened.chain_s
            after = accept_voucher(
                channel, self._domain, presented, known_adapters=known, now_s=now_s
            )
            return ChannelUpdate(after)

        channel = (await self._channels.commit(opened, "voucher", change)).channel
        self._paid.add(presented.signer)
        return view_of(channel, private=True)

    async def accept_on_request(self, presented: PresentedVoucher, signer: Address) -> None:
        """Accept the voucher in the header of a request of ``signer``; raise as ``accept`` does.

        Requests may overtake each other. So a voucher that pays no more than the best one is
        ignored, not refused, and the request is judged by the best voucher. A voucher of another
        signer raises WrongDomain.
        """
        if presented.signer != signer:
            raise WrongDomain(f"the voucher is of {presented.signer}, the access token of {signer}")
        try:
            await self.accept(presented)
        except (LineBelowBest, StaleVoucher):
            # Both are raised after the signature was checked.
            if not is_covered((await self._channels.get(signer)).channel, presented):
                raise

    def payer_behind(self, claim: PresentedVoucher | SessionProof) -> Address | None:
        """Return the signer of a voucher or session if it has paid before and signed this one.

        Else return None. Anybody can name a signer who has paid, so only a valid signature exempts
        a request from the rate limit.
        """
        if not self.has_paid(claim.signer):
            return None
        if isinstance(claim, SessionProof):
            digest, signature = self._domain.digest(claim.session), claim.signature
        else:
            digest, signature = (
                self._domain.digest(claim.row.voucher(self._node)),
                claim.row.signature,
            )
        return claim.signer if is_signed_by(digest, signature, claim.signer) else None

    def has_paid(self, signer: Address) -> bool:
        """Return whether ``signer`` is one of the last who sent a valid voucher."""
        return signer in self._paid

    async def has_money(self, signer: Address) -> bool:
        """Return whether ``signer`` has paid or has a deposit here; may read the chain."""
        return self.has_paid(signer) or (await self._channels.get(signer)).channel.deposit_units > 0

    def has_channel(self, signer: Address) -> bool:
        """Return whether ``signer`` has paid, or has an open channel in memory."""
        return self.has_paid(signer) or self._channels.shows_open(signer)

    def remember(self, records: Iterable[ChannelRecord]) -> None:
        """Count the signers whose vouchers are in the ledger as buyers who have paid."""
        self._paid.remember(records)

    def _lacks_money(self, opened: ActiveChannel, presented: PresentedVoucher) -> bool:
        channel = opened.channel
        return channel.payer == ZERO_ADDRESS or presented.row.end_units > channel.limit_units
