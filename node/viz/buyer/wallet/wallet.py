"""Sign for the payer: the wallet whose money is deposited.

Owns the Protocol and the wallet whose key is in this process. The key may also be in another
process (``viz.buyer.control.commands``): a running proxy gets signatures, never the key.
"""

from __future__ import annotations

from typing import Protocol

from viz.domain.eip712 import Domain, public_address, sign
from viz.domain.typed_data import ReceiveWithAuthorization, RequestClose
from viz.domain.units import Address

Signable = ReceiveWithAuthorization | RequestClose


class Wallet(Protocol):
    """The payer of a channel."""

    @property
    def address(self) -> Address: ...

    async def sign(self, domain: Domain, struct: Signable) -> bytes:
        """Return the wallet's signature of ``struct`` (EIP-712)."""
        ...


class KeyWallet:
    """A wallet whose key is in this process."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.address = public_address(key)

    async def sign(self, domain: Domain, struct: Signable) -> bytes:
        return sign(self._key, domain.digest(struct))


def wallet_of(payer: bytes | Wallet) -> Wallet:
    """Return the wallet of a key; return a wallet unchanged."""
    return KeyWallet(payer) if isinstance(payer, bytes) else payer
