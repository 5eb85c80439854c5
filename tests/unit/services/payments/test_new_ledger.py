"""A node begins a ledger only where it cannot have lost one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes.chain import address_of

from viz.domain.ports.chain import ChannelState
from viz.domain.units import Address
from viz.errors import ChainUnreachable, LedgerMissing
from viz.services.payments.new_ledger import open_ledger, require_new

NODE, PAYER = address_of(1), address_of(2)
MISSING = LedgerMissing("there is no ledger at x")


class FakeChannels:
    """Channels that were opened, with what is left in each."""

    def __init__(self, *deposits: int, reachable: bool = True) -> None:
        self._deposits = {address_of(100 + at): units for at, units in enumerate(deposits)}
        self._reachable = reachable

    async def opened(self, node: Address) -> AsyncIterator[Address]:
        assert node == NODE
        if not self._reachable:
            raise ChainUnreachable("no logs so far back")
        for signer in self._deposits:
            yield signer

    async def channel(self, signer: Address, node: Address) -> ChannelState | None:
        return ChannelState(signer, node, PAYER, self._deposits[signer], 0, 0)


async def test_a_new_node_begins_without_being_asked() -> None:
    await require_new(FakeChannels(), NODE, MISSING)
    await require_new(FakeChannels(0, 0), NODE, MISSING)  # all that there was is settled and gone


@pytest.mark.parametrize("channels", [FakeChannels(0, 5), FakeChannels(reachable=False)])
async def test_a_lost_ledger_is_asked_about(channels: FakeChannels) -> None:
    """Vouchers that were not claimed are gone with it: the operator decides, not the start."""
    with pytest.raises(LedgerMissing, match=r"no ledger at x, .*restore .*--new-ledger"):
        await require_new(channels, NODE, MISSING)


@pytest.mark.parametrize("empty", [1, 199, 200, 1_000])
async def test_deposits_are_found_behind_any_number_of_empty_channels(empty: int) -> None:
    """Protects a busy node, or one for which a stranger opened and closed hundreds."""
    for deposits in ([0] * empty + [5], [5] + [0] * empty):
        with pytest.raises(LedgerMissing, match="--new-ledger"):
            await require_new(FakeChannels(*deposits), NODE, MISSING)


async def test_an_endpoint_that_knows_no_channel_is_not_believed_of_a_key_that_was_used() -> None:
    """Protects vouchers from an endpoint that answers every search for logs with nothing."""

    async def none() -> int:
        return 0

    async def some() -> int:
        return 3

    await require_new(FakeChannels(), NODE, MISSING, sent=none)
    await require_new(FakeChannels(0), NODE, MISSING, sent=some)  # its channels are told, and empty
    with pytest.raises(LedgerMissing, match=r"sent 3 transactions.*--new-ledger"):
        await require_new(FakeChannels(), NODE, MISSING, sent=some)


async def test_an_emptied_folder_begins_no_books_in_silence(tmp_path: Path) -> None:
    """The same start is asked about, forced by the option, and silent once there is a ledger."""
    place, identity = tmp_path / "ledger.sqlite", {"node": NODE, "chain": "1"}
    await (await open_ledger(place, identity, FakeChannels(), new=False)).close()
    place.unlink()
    with pytest.raises(LedgerMissing):
        await open_ledger(place, identity, FakeChannels(7), new=False)
    assert not place.exists()
    await (await open_ledger(place, identity, FakeChannels(7), new=True)).close()
    await (await open_ledger(place, identity, FakeChannels(7), new=False)).close()
