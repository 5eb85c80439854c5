"""A buyer's voucher signer, a node that takes every voucher, and ways in which requests end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tests.fakes.chain import DEPLOYMENT
from tests.unit.buyer.test_ledger import NODE, opened

from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.open_request import OpenRequest
from viz.buyer.terms.checks import Limits
from viz.buyer.vouchers.voucher_signer import VoucherSigner
from viz.client.node_client import NodeClient
from viz.domain.eip712 import sign
from viz.domain.node_channel import PresentedVoucher
from viz.domain.receipt import SignedReceipt, salt_of_name, salted_hash
from viz.domain.typed_data import Receipt, channel_id
from viz.domain.units import ZERO_HASH, AdapterId, Units
from viz.domain.usage import UsageLine, usage_hash
from viz.protocol.messages import ChannelView

ASKED, OTHER = AdapterId(3), AdapterId(9)
NODE_KEY = b"\x02" * 32
CAP = 60
QUESTION = b"When is high tide?"


class Node:
    """Takes every voucher, as a node that is content."""

    def __init__(self) -> None:
        self.taken: list[PresentedVoucher] = []
        self.answers = asyncio.Event()
        self.answers.set()

    async def voucher(self, presented: PresentedVoucher) -> ChannelView:
        self.taken.append(presented)
        await self.answers.wait()
        row = presented.row
        return ChannelView(
            presented.signer, NODE, NODE, 1_000, 0, 0, row.base_units, row.lines, (), 0, ZERO_HASH
        )


def receipt(
    voucher_signer: VoucherSigner,
    adapter_id: AdapterId,
    units: Units,
    request: bytes = QUESTION,
    *,
    name: str = "",
    tokens: tuple[int, int] = (1, 1),
    said: str | None = None,
) -> SignedReceipt:
    """The node's receipt that comes next, for so much of one adapter.

    Without the request's name it fits all equal requests.
    """
    salt = salt_of_name(name) if name else ZERO_HASH
    lines = (UsageLine(adapter_id, units),)
    total = voucher_signer.channel.linked_units + units
    values: dict[str, Any] = {
        "channel_id": channel_id(voucher_signer.channel.signer, NODE),
        "seq": voucher_signer.channel.seq + 1,
        "usage_hash": usage_hash(lines),
        "request_hash": salted_hash(salt, request),
        "quote_hash": ZERO_HASH,
        "response_hash": ZERO_HASH if said is None else salted_hash(ZERO_HASH, said.encode()),
        "prompt_tokens": tokens[0],
        "completion_tokens": tokens[1],
        "time_s": 1,
    }
    made = Receipt(amount_units=units, total_units=total, **values)
    return SignedReceipt(
        made, lines, salt, ZERO_HASH, sign(NODE_KEY, voucher_signer.domain.digest(made))
    )


@contextmanager
def asking(
    voucher_signer: VoucherSigner, adapter_id: AdapterId, units: Units
) -> Iterator[OpenRequest]:
    """Have a request under way that may cost so much."""
    with voucher_signer.open_request(adapter_id, QUESTION) as open_request:
        open_request.units = open_request.most_units = units
        yield open_request


def left(
    voucher_signer: VoucherSigner, units: Units, *, broken: bool = False, **known: Any
) -> OpenRequest:
    """Ask, and leave before the receipt came; ``known`` is what is known of the request then."""
    with asking(voucher_signer, ASKED, units) as open_request:
        voucher_signer.keep(open_request)
        for name, value in known.items():
            setattr(open_request, name, value)
        voucher_signer.leave_unreceipted(open_request, broken=broken)
    return open_request


def signer_of(ledger: BuyerLedger, node: Node) -> VoucherSigner:
    return VoucherSigner(cast(NodeClient, node), ledger, DEPLOYMENT, Limits(request_units=CAP))


class Restarting:
    """One channel through several processes, each ended as by a kill."""

    def __init__(self, home: Path, ledger: BuyerLedger, node: Node) -> None:
        self._home, self._ledger, self._node = home, ledger, node

    def again(self) -> VoucherSigner:
        self._ledger.close()
        self._ledger = opened(self._home)
        return signer_of(self._ledger, self._node)
