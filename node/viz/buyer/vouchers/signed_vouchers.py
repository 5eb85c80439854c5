"""Sign vouchers, limit them to the deposit, and read a node's refusal of a voucher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from viz.domain.buyer_channel import BuyerChannel, VoucherDraft
from viz.domain.claim_rows import SignedVoucher
from viz.domain.eip712 import Domain, sign_compact
from viz.domain.trust import LEAVE_AND_RENEW, REPLICAS
from viz.domain.units import AdapterId, Units
from viz.domain.usage import Lines
from viz.errors import (
    BooksMismatch,
    InvalidRequest,
    LineBelowBest,
    NodeUnreachable,
    PaymentRequired,
    StaleVoucher,
    VizError,
)
from viz.protocol.wire import Reader

T = TypeVar("T")

# What to do if the node says that this key signed what is not in the ledger.
OTHER_COPY: Final = (
    "the node holds a voucher of this key that is not in the ledger, so nothing more is signed. If "
    "the folder was copied (a second process, or a backup that was restored), another copy of it "
    "pays from this channel: go on with that copy alone. If there is none, the node or a server in "
    f"front of it says what is not true. {LEAVE_AND_RENEW}"
)


def signed_row(key: bytes, domain: Domain, draft: VoucherDraft) -> SignedVoucher:
    """Return the signed row of a draft; a draft without lines gets no signature.

    The caller must have written the draft's end points to disk.
    """
    voucher, signature = draft.voucher, b""
    if draft.lines:
        signature = sign_compact(key, domain.digest(voucher))
    return SignedVoucher(voucher.settled_units, voucher.receipts_head, draft.lines, signature)


def within_deposit(channel: BuyerChannel, adapter_id: AdapterId, wanted_units: Units) -> Units:
    """Return ``wanted_units``, at most what the other adapters leave of the deposit."""
    credit = sum(
        max(0, units - channel.signed_units(other))
        for other, units in channel.billed.items()
        if other != adapter_id
    )
    spare = max(0, channel.limit_units - channel.total_units - credit)
    return min(wanted_units, channel.signed_units(adapter_id) + spare)


def base_named(channel: BuyerChannel, refusal: StaleVoucher | LineBelowBest) -> Units:
    """Return the base in a node's refusal, after checking that this key signed what it says.

    Raises StaleVoucher if this key never signed the base, BooksMismatch if it never signed the
    voucher that the node holds, NodeUnreachable if the refusal cannot be read.
    """
    base, best = _said_in(refusal, lambda reader: (reader.units("base"), reader.lines("best")))
    at_base = channel.points.get(base)
    if at_base is None:
        raise StaleVoucher(f"the node names base {base}, which this key never signed. {REPLICAS}")
    require_own_vouchers(channel, base, best)
    return base


def require_own_vouchers(channel: BuyerChannel, base_units: Units, best: Lines) -> None:
    """Raise BooksMismatch if ``best``, which a node says it holds, pays more than was signed.

    ``best`` is on the base ``base_units``. It proves nothing against the node: another copy of the
    buyer's folder may have signed it.
    """
    at_base = channel.points.get(base_units)
    if at_base is None:
        # Older bases are forgotten. One above all that was signed is not one of them.
        if base_units > channel.total_units:
            raise BooksMismatch(OTHER_COPY)
        return
    for adapter_id, units in best:
        if channel.signed_units(adapter_id) - at_base.get(adapter_id, 0) < units:
            raise BooksMismatch(OTHER_COPY)


def older_ledger(seq: int, known_seq: int) -> BooksMismatch:
    """Return the error for a node whose ledger has lost receipts that the node signed.

    It knows ``seq`` receipts of the channel, and the buyer ``known_seq``. It can take no voucher,
    because each names the latest receipt.
    """
    has = f"it has {seq} of this channel, and you hold {known_seq}"
    if seq == known_seq:
        has = f"it has others than the {seq} of this channel that you hold"
    return BooksMismatch(
        f"the node's ledger is older than receipts that the node signed: {has}. It was restored "
        "from a backup, or begun anew, and can take no voucher here. So nothing more is signed or "
        f"deposited. {LEAVE_AND_RENEW}. If several servers answer at the node's address, each with "
        "a ledger of its own, ask again later instead"
    )


def demand_of(refusal: PaymentRequired) -> tuple[AdapterId, Units]:
    """Return the adapter and the cumulative amount that a node wants signed for it.

    Raises NodeUnreachable if the refusal does not name them.
    """
    return _said_in(
        refusal, lambda reader: (AdapterId(reader.integer("adapterId")), reader.units("required"))
    )


def _said_in(refusal: VizError, read: Callable[[Reader], T]) -> T:
    """Return what ``read`` finds in a refusal; raise NodeUnreachable if it is not of a node.

    It is never an error of the buyer's request, which another node may serve.
    """
    try:
        return read(Reader(refusal.extensions, "the node's refusal"))
    except InvalidRequest as error:
        raise NodeUnreachable(f"a refusal came that is not of a node ({error.detail})") from error
