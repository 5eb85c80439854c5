"""Remember the signers who paid most recently: the limits for strangers do not apply to them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from viz.domain.ports.ledger import ChannelRecord
from viz.domain.units import Address

PAID_KEPT: Final = 10_000


class PaidSigners:
    """The last ``PAID_KEPT`` signers who sent a valid voucher."""

    def __init__(self) -> None:
        self._paid: OrderedDict[Address, None] = OrderedDict()

    def __contains__(self, signer: Address) -> bool:
        return signer in self._paid

    def add(self, signer: Address) -> None:
        """Note that ``signer`` sent a valid voucher."""
        self._paid[signer] = None
        self._paid.move_to_end(signer)
        while len(self._paid) > PAID_KEPT:
            self._paid.popitem(last=False)

    def remember(self, records: Iterable[ChannelRecord]) -> None:
        """Add the signers whose vouchers are in the ledger."""
        paid = sorted((each for each in records if each.voucher_at), key=lambda r: r.voucher_at)
        self._paid = OrderedDict.fromkeys(each.signer for each in paid[-PAID_KEPT:])
