"""Judge what an account signed off chain: with its key, or as a contract wallet (ERC-1271).

The order is that of the contracts: a key first, which costs no reading of the chain, since an
account with delegated code (EIP-7702) still has its key; then the code at the account.
"""

from __future__ import annotations

from viz.domain.eip712 import is_plain, is_signed_by
from viz.domain.ports.chain import ChainReader
from viz.domain.units import Address, Hash32


async def is_signed(chain: ChainReader, digest: Hash32, signature: bytes, account: Address) -> bool:
    """Return whether ``account`` signed the digest; raise ChainUnreachable."""
    if is_plain(signature) and is_signed_by(digest, signature, account):
        return True
    return await chain.is_wallet_signature(account, digest, signature)
