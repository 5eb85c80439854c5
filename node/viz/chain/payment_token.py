"""Read the ERC-20 token of all payments: balances, allowances, authorizations, its domain."""

from __future__ import annotations

from viz.chain import abi
from viz.chain.contract import Contract
from viz.chain.rpc import BlockTag
from viz.domain.units import Address, Hash32, Units


class PaymentToken(Contract):
    """The ERC-20 token of all payments."""

    name = abi.CURRENCY

    async def balance(self, account: Address, *, block: BlockTag = "latest") -> Units:
        """Return an account's balance."""
        return int(await self._view("balanceOf", account, block=block))

    async def allowance(self, owner: Address, spender: Address) -> Units:
        """Return what ``spender`` may still pull from ``owner``."""
        return int(await self._view("allowance", owner, spender))

    async def authorization_used(self, payer: Address, nonce: Hash32, *, block: BlockTag) -> bool:
        """Return whether an authorization of that nonce (EIP-3009) was used or cancelled."""
        return bool(await self._view("authorizationState", payer, nonce, block=block))

    async def domain(self) -> tuple[str, str]:
        """Return the name and version of the token's EIP-712 domain (EIP-5267)."""
        found = await self._view("eip712Domain")
        return found["name"], found["version"]
