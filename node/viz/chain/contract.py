"""Call the views of one deployed contract: what the class of each contract is made of.

Does not know which views there are. Nothing is cached here.
"""

from __future__ import annotations

from typing import Any

from viz.chain import abi
from viz.chain.deployment import address_of
from viz.chain.rpc import BlockTag, Rpc
from viz.domain.ports.chain import Deployment
from viz.errors import (
    TooMuchGas,
    TransactionFailed,
)


class Contract:
    """A contract at its address; ``name`` is the name of its artifact."""

    name: str

    def __init__(self, rpc: Rpc, deployment: Deployment) -> None:
        self._rpc = rpc
        self._first_block = deployment.first_block
        self.address = address_of(deployment, self.name)

    async def _view(self, function: str, *args: Any, block: BlockTag = "latest") -> Any:
        data = abi.encode_call(self.name, function, args)
        answer = await self._rpc.call(self.address, data, block=block)
        return abi.decode_result(self.name, function, args, answer)

    async def _view_or_none(self, function: str, *args: Any, block: BlockTag = "latest") -> Any:
        """Call a view; return None if it reverts: the item does not exist. Raises TooMuchGas."""
        try:
            return await self._view(function, *args, block=block)
        except TooMuchGas:
            raise
        except TransactionFailed:
            return None
