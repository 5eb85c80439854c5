"""Each check that a voucher passes, alone: the one mistake, the one error, nothing changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from viz.domain.buyer_channel import (
    BuyerChannel,
    ReceiptLink,
    draft_voucher,
    raise_signed,
    take_receipt,
)
from viz.domain.buyer_channel import observe as observe_channel
from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import keccak, public_address, settlement_domain, sign_compact
from viz.domain.node_channel import (
    HEADS_KEPT,
    NodeChannel,
    PresentedVoucher,
    accept_voucher,
    begin_close,
    confirmed_claim,
    freeze_for_claim,
    observe,
)
from viz.domain.ports.chain import ChannelState
from viz.domain.reservations import append_receipt, end_reservation, reserve
from viz.domain.units import UINT96_MAX, ZERO_ADDRESS, ZERO_HASH, AdapterId, Hash32
from viz.domain.usage import Lines, UsageLine
from viz.errors import (
    BooksMismatch,
    ChannelClosing,
    ChannelUnknown,
    DepositExceeded,
    InvalidRequest,
    InvalidSignature,
    LineBelowBest,
    PaymentRequired,
    StaleVoucher,
    StoreConflict,
    UnknownAdapter,
    VizError,
    WrongDomain,
)

KEY = b"\x01" * 32
SIGNER, NODE, OTHER = (public_address(bytes([byte]) * 32) for byte in (1, 2, 3))
DOMAIN = settlement_domain(31337, OTHER)
KNOWN = (AdapterId(0), AdapterId(3), AdapterId(9))
SEEN = ChannelState(SIGNER, NODE, OTHER, 1_000, 0, 0)
LINES = (UsageLine(AdapterId(3), 10), UsageLine(AdapterId(9), 20))


def signed(lines: Lines = LINES, base: int = 0, head: Hash32 = ZERO_HASH) -> PresentedVoucher:
    row = SignedVoucher(base, head, lines, b"")
    signature = sign_compact(KEY, DOMAIN.digest(row.voucher(NODE)))
    return PresentedVoucher(31337, OTHER, SIGNER, NODE, replace(row, signature=signature))


def opened(**changes: Any) -> NodeChannel:
    return observe(NodeChannel(SIGNER, NODE), replace(SEEN, **changes))


def accept(channel: NodeChannel, presented: PresentedVoucher, now_s: int = 0) -> NodeChannel:
    return accept_voucher(channel, DOMAIN, presented, known_adapters=KNOWN, now_s=now_s)


BEST = accept(opened(), signed())


def unsigned(lines: Lines) -> PresentedVoucher:
    return PresentedVoucher(
        31337, OTHER, SIGNER, NODE, SignedVoucher(0, ZERO_HASH, lines, bytes(64))
    )


@pytest.mark.parametrize(
    ("channel", "presented", "error"),
    [
        (opened(), replace(signed(), chain_id=1), WrongDomain),
        (opened(), replace(signed(), contract=NODE), WrongDomain),
        (opened(), replace(signed(), node=OTHER), WrongDomain),
        (opened(), replace(signed(), signer=OTHER), WrongDomain),
        (opened(), unsigned(()), InvalidRequest),
        (opened(), unsigned(LINES[::-1]), InvalidRequest),
        (opened(), unsigned((LINES[0], LINES[0])), InvalidRequest),
        (opened(), unsigned((UsageLine(AdapterId(3), 0),)), InvalidRequest),
        (opened(), unsigned((UsageLine(AdapterId(3), UINT96_MAX), LINES[1])), InvalidRequest),
        (opened(), unsigned(LINES), InvalidSignature),
        (opened(), replace(signed(), row=replace(signed().row, base_units=1)), InvalidSignature),
        (opened(payer=ZERO_ADDRESS), signed(), ChannelUnknown),
        (opened(), signed(base=5), StaleVoucher),
        (BEST, signed(LINES[:1]), LineBelowBest),
        (BEST, signed((LINES[0], UsageLine(AdapterId(9), 19))), LineBelowBest),
        (opened(), signed(head=keccak(b"unknown")), StaleVoucher),
        (opened(), signed((UsageLine(AdapterId(3), 1_001),)), DepositExceeded),
        (opened(), signed((UsageLine(AdapterId(4), 1),)), UnknownAdapter),
        (opened(close_at=99), signed(), ChannelClosing),
        (begin_close(opened(), 99), signed(), ChannelClosing),
    ],
)
def test_one_mistake_one_error(
    channel: NodeChannel, presented: PresentedVoucher, error: type[VizError]
) -> None:
    """A voucher that could not be claimed, or claimed for less, is never taken."""
    before = repr(channel)
    with pytest.raises(error):
        accept(channel, presented)
    assert repr(channel) == before


def test_the_refusal_names_base_and_best() -> None:
    """A buyer that lost track signs again on what the 409 says."""
    with pytest.raises(LineBelowBest) as caught:
        accept(BEST, signed(LINES[:1]))
    assert caught.value.extensions == {"base": "0", "best": [[3, "10"], [9, "20"]]}


def test_nothing_is_sold_while_a_signed_close_can_still_be_used() -> None:
    """Settlement takes a Close at its very deadline: only after it may the node sell again."""
    closing = begin_close(opened(), 99)
    with pytest.raises(ChannelClosing):
        accept(closing, signed(), now_s=99)
    assert accept(closing, signed(), now_s=100).best == signed().row


def test_a_voucher_twice_counts_once() -> None:
    """A repeated delivery changes nothing."""
    assert accept(BEST, signed()) is BEST


def test_a_voucher_must_cover_what_was_delivered_on_credit() -> None:
    """Credit taken for one adapter is paid before anything else is."""
    channel = reserve(opened(), AdapterId(3), 5, credit_window_units=5)
    channel = end_reservation(channel, AdapterId(3), reserved_units=5, spent_units=5)
    with pytest.raises(PaymentRequired):
        accept(channel, signed((UsageLine(AdapterId(9), 20),)))
    assert accept(channel, signed()).available_units(AdapterId(3)) == 5


def test_money_of_one_adapter_does_not_pay_another() -> None:
    """A line pays its adapter alone."""
    with pytest.raises(PaymentRequired):
        reserve(BEST, AdapterId(3), 11)
    with pytest.raises(PaymentRequired):
        reserve(BEST, AdapterId(0), 1)
    assert reserve(BEST, AdapterId(9), 20).available_units(AdapterId(9)) == 0


def test_a_reservation_ends_once() -> None:
    """A release that was made already cannot free another request's money."""
    channel = reserve(BEST, AdapterId(9), 5)
    done = end_reservation(channel, AdapterId(9), reserved_units=5, spent_units=2)
    assert done.spent == {AdapterId(9): 2} and not done.reserved
    with pytest.raises(StoreConflict):
        end_reservation(done, AdapterId(9), reserved_units=5, spent_units=0)


def test_after_freezing_only_the_new_base_counts() -> None:
    """A voucher on the old base would die with the claim, so it is refused (threat 10)."""
    frozen, row = freeze_for_claim(BEST)
    assert row is not None and frozen.base_units == 30 and frozen.best is None
    assert freeze_for_claim(frozen) == (frozen, None)
    more = (UsageLine(AdapterId(3), 11), UsageLine(AdapterId(9), 20))
    with pytest.raises(StaleVoucher):
        accept(frozen, signed(more))
    assert accept(frozen, signed((UsageLine(AdapterId(3), 1),), base=30)).end_units == 31
    assert confirmed_claim(frozen, 30, 970).frozen == ()


def test_a_chain_that_contradicts_the_books_stops_the_channel() -> None:
    """A settled total that no row ends at means that the ledger is not this channel's."""
    frozen, _ = freeze_for_claim(BEST)
    for settled in (29, 31, 1_000):
        with pytest.raises(BooksMismatch):
            observe(frozen, replace(SEEN, settled_units=settled))
    channel = observe_channel(BuyerChannel(SIGNER, NODE), SEEN)
    with pytest.raises(BooksMismatch):
        observe_channel(channel, replace(SEEN, settled_units=1))


def test_a_blank_ledger_starts_where_the_chain_is() -> None:
    """A node that lost its ledger loses what was unclaimed, and goes on."""
    channel = opened(settled_units=77)
    assert (channel.base_units, channel.limit_units) == (77, 1_077)


def test_old_heads_are_forgotten_but_the_last_named_one() -> None:
    """A buyer that verifies no receipts can pay for ever; memory stays bounded."""
    channel = opened()
    for number in range(HEADS_KEPT + 10):
        channel = append_receipt(channel, keccak(number.to_bytes(4, "big")))
    assert len(channel.heads) == HEADS_KEPT and channel.seq == HEADS_KEPT + 10
    assert accept(channel, signed()).best is not None


def test_a_head_never_goes_back() -> None:
    """A voucher may lag behind the receipts, but not behind the voucher before it."""
    channel = append_receipt(append_receipt(opened(), keccak(b"1")), keccak(b"2"))
    channel = accept(channel, signed(head=channel.heads[1]))
    with pytest.raises(StaleVoucher):
        accept(channel, signed(head=ZERO_HASH))
    assert accept(channel, signed(head=channel.head)).heads == (channel.head,)


def test_a_buyer_signs_only_on_a_base_that_it_signed() -> None:
    """On an unknown base the same money could be charged twice."""
    channel = raise_signed(observe_channel(BuyerChannel(SIGNER, NODE), SEEN), AdapterId(3), 10)
    with pytest.raises(StaleVoucher):
        draft_voucher(channel, 4)
    with pytest.raises(DepositExceeded):
        raise_signed(channel, AdapterId(9), 991)
    with pytest.raises(ChannelUnknown):
        raise_signed(BuyerChannel(SIGNER, NODE), AdapterId(3), 1)
    assert raise_signed(channel, AdapterId(3), 9) is channel


def test_receipts_count_once_in_any_order() -> None:
    """A receipt that comes early and again is one receipt; the head waits for the gap."""
    links = [
        ReceiptLink(seq, keccak(bytes([seq])), 10 * seq, (UsageLine(AdapterId(3), 10),))
        for seq in (1, 2, 3)
    ]
    channel = BuyerChannel(SIGNER, NODE)
    for link in (links[1], links[1], links[2]):
        channel = take_receipt(channel, link)
    assert (channel.seq, channel.head, channel.billed_units(AdapterId(3))) == (0, ZERO_HASH, 20)
    for link in links:
        channel = take_receipt(channel, link)
    assert (channel.seq, channel.billed_units(AdapterId(3)), dict(channel.unlinked)) == (3, 30, {})
    with pytest.raises(InvalidSignature):
        take_receipt(channel, links[0]._replace(seq=4, total_units=41))
