"""A node that is away is asked for its listings again soon; one that lies is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from tests.fakes.chain import FakeChain, address_of
from tests.fakes.ledger import MemoryStore

from viz.domain.ports.peers import PeerHttp, PeerReply
from viz.errors import AddressNotPublic, NodeUnreachable
from viz.protocol.listing import listings_to_json
from viz.protocol.wire import canonical_json
from viz.services.market.listing_exchange import REFUSED_S, UNREACHED_S, ListingExchange
from viz.services.market.listings import Listings

NODE = (address_of(0xB1), "http://node.example")
AWAY = NodeUnreachable("connection refused")


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class OnePeer:
    """A node that answers, or fails, as it is told."""

    def __init__(self, answer: PeerReply | Exception) -> None:
        self.answer, self.asked = answer, 0

    async def call(self, *_: Any, **__: Any) -> PeerReply:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "wait_s"),
    [
        (AWAY, UNREACHED_S),
        (Reply(502, b"starting"), UNREACHED_S),
        (AddressNotPublic("10.0.0.1"), REFUSED_S),
        (Reply(404, b""), REFUSED_S),
        (Reply(200, b"[]"), REFUSED_S),
    ],
    ids=["refused connection", "bad gateway", "private address", "not found", "nonsense"],
)
async def test_only_what_is_no_fault_of_its_answer_is_forgiven_soon(
    answer: PeerReply | Exception, wait_s: int
) -> None:
    """A node that was restarted while it was asked hid its new listings for an hour."""
    chain, peer = FakeChain(b"\x11" * 32), OnePeer(answer)
    exchange = ListingExchange(
        Listings(MemoryStore(), chain, chain.clock), cast(PeerHttp, peer), chain.clock
    )
    await exchange.take([NODE])
    peer.answer = Reply(200, canonical_json(listings_to_json((), None)))
    chain.clock.now += wait_s - 1
    await exchange.take([NODE])
    assert peer.asked == 1
    chain.clock.now += 2
    await exchange.take([NODE])
    assert peer.asked == 2
