"""Read what the payment token moved out of a contract, from the token's own logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from viz.chain.rpc import Rpc
from viz.chain.scan import scan
from viz.domain.eip712 import keccak
from viz.domain.ports.chain import Deployment
from viz.domain.units import Address, Hash32, Units, parse_address

TRANSFER: Final = keccak(b"Transfer(address,address,uint256)")


async def transfers_from(
    rpc: Rpc, where: Deployment, account: Address, last: int
) -> Mapping[Hash32, Mapping[Address, Units]] | None:
    """Return the token's transfers out of an account, by transaction and recipient.

    None if the token has no event of the usual form.
    """
    found: dict[Hash32, dict[Address, Units]] = {}
    topics = (TRANSFER, word_of(account))
    async for log in scan(rpc, [where.token], where.first_block, last, topics):
        if len(log.topics) != 3 or len(log.data) != 32:
            return None
        to = parse_address("0x" + bytes(log.topics[2])[12:].hex())
        moved = found.setdefault(log.transaction_hash, {})
        moved[to] = moved.get(to, 0) + int.from_bytes(log.data, "big")
    return found


def word_of(account: Address) -> bytes:
    """Return an account as a log's topic."""
    return bytes.fromhex(account[2:]).rjust(32, b"\0")
