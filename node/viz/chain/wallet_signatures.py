"""Ask the code at an account whether a signature is the account's (ERC-1271).

Owns one call. A stranger wrote the contract, so the call's gas is bounded. Only an answer that is
the magic value and nothing else means that the account signed.
"""

from __future__ import annotations

from typing import Final

from viz.chain.endpoint import EndpointRefused
from viz.chain.rpc import Rpc
from viz.domain.units import Address, Hash32
from viz.errors import ChainError, ChainUnreachable

# isValidSignature(bytes32,bytes): its selector is also what it returns, padded on the right.
_SELECTOR: Final = bytes.fromhex("1626ba7e")
_MAGIC: Final = _SELECTOR + bytes(28)
# A call costs 21,000, and 1,024 bytes of signature 16,384 more. The rest is for a wallet of several
# owners, or with a passkey.
CALL_GAS: Final = 400_000


async def is_wallet_signature(rpc: Rpc, account: Address, digest: Hash32, signature: bytes) -> bool:
    """Return whether the code at ``account`` accepts the signature, at the head.

    An account without code accepts none. Raises ChainUnreachable.
    """
    length = len(signature)
    padded = signature + bytes(-length % 32)
    data = _SELECTOR + digest + (64).to_bytes(32, "big") + length.to_bytes(32, "big") + padded
    try:
        return await rpc.call(account, data, gas=CALL_GAS) == _MAGIC
    except EndpointRefused:  # a fault of the code, such as a wrong opcode, in the endpoint's words
        return False
    except ChainUnreachable:
        raise
    except ChainError:  # it reverted, or used all of the gas
        return False
