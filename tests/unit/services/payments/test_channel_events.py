"""What one service learns of a channel reaches the service that has to act on it."""

from __future__ import annotations

import pytest
from tests.fakes.chain import FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.claim_rows import RowStatus
from viz.domain.ports.chain import ChannelState
from viz.domain.ports.ledger import ChannelLineRecord, ChannelRecord
from viz.domain.units import AdapterId, Address
from viz.errors import BooksMismatch
from viz.services.payments.channel_events import ChannelEvents
from viz.services.payments.channels import ChannelStore
from viz.services.settlement.claim_loop import ClaimPolicy, ClaimService

SIGNER = address_of(0x51)
VOUCHER = ChannelRecord(SIGNER, 0, {AdapterId(0): ChannelLineRecord(0, 60)}, b"\x01" * 64)


class Waiting(FakeChain):
    """A chain that judges no row good yet, so that frozen rows stay."""

    def __init__(self) -> None:
        super().__init__(b"\x11" * 32)
        self.channels[SIGNER, self.address] = ChannelState(
            SIGNER, self.address, address_of(9), 1_000, 0, 0
        )

    async def preview_claim(self, node: Address, rows: bytes) -> tuple[RowStatus, ...]:
        return (RowStatus.WRONG_BASE,)


def channels_of(chain: FakeChain, store: MemoryStore, events: ChannelEvents) -> ChannelStore:
    return ChannelStore(store, chain, chain.clock, chain.address, events=events)


async def test_a_listener_hears_only_its_event() -> None:
    """A mismatch is not taken for a close, nor a close for a new base."""
    events, heard = ChannelEvents(), list[tuple[str, Address]]()
    for name in ("close_seen", "row_frozen", "mismatch_found", "mismatch_gone"):
        getattr(events, name).listen(lambda signer, name=name: heard.append((name, signer)))
    events.row_frozen.tell(SIGNER)
    events.close_seen.tell(SIGNER)
    assert heard == [("row_frozen", SIGNER), ("close_seen", SIGNER)]


async def test_a_channel_follows_the_row_that_the_claim_loop_froze() -> None:
    """A request right after the freeze is judged on the new base, not on the claimed one (10)."""
    chain, store, events = Waiting(), MemoryStore(), ChannelEvents()
    await store.commit("voucher", VOUCHER)
    channels = channels_of(chain, store, events)
    assert (await channels.get(SIGNER)).record.base_units == 0
    claims = ClaimService(chain, chain, store, chain.clock, ClaimPolicy(1, 1), events=events)
    assert (await claims.step()).frozen == 1
    assert (await channels.get(SIGNER)).record.base_units == 60


async def test_nothing_is_given_out_until_a_mismatch_is_gone() -> None:
    """The channel at fault stops and no other one does; it sells again when both sides agree."""
    chain, events = Waiting(), ChannelEvents()
    channels = channels_of(chain, MemoryStore(), events)
    events.mismatch_found.tell(SIGNER)
    with pytest.raises(BooksMismatch):
        await channels.get(SIGNER)
    await channels.get(address_of(0x52))
    events.mismatch_gone.tell(SIGNER)
    assert (await channels.get(SIGNER)).channel.limit_units
