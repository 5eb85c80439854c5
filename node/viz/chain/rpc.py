"""The connection to one chain: every JSON-RPC method that Viz uses, as typed values.

Owns the parameters of each method, which reader judges its answer (``viz.chain.answers``), and the
check that the chain is the one expected. Does not know contracts, keys or nonces, nor how a
question travels (``viz.chain.endpoint``). Nothing here retries a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from viz.chain import answers
from viz.chain.answers import BlockHeader, Log, TransactionReceipt
from viz.chain.endpoint import Endpoint, EndpointRefused, NotSupported
from viz.domain.ports.chain import Deployment
from viz.domain.units import Address, Hash32, hex_of
from viz.errors import ChainError, ChainMismatch, ChainUnreachable

Block = int | Literal["latest", "pending"]
_SUGGESTED_TIP_WEI = 1_000_000_000

__all__ = ["Block", "BlockHeader", "BlockNotKnown", "Fees", "Log", "Rpc", "TransactionReceipt"]


@dataclass(frozen=True, slots=True)
class Fees:
    """EIP-1559 fees for one transaction, in wei of the chain's coin a unit of gas.

    ``base_fee_wei`` is the head's: what a block takes at least.
    """

    base_fee_wei: int
    max_fee_wei: int
    priority_fee_wei: int


class BlockNotKnown(ChainError):
    """The chain has no such block: not yet, or not any more."""

    code = "block-not-known"


class Rpc:
    """One JSON-RPC endpoint, each call bounded by ``timeout_s`` seconds in all."""

    def __init__(self, url: str, *, timeout_s: float = 20.0) -> None:
        self.url = url
        self._endpoint = Endpoint(url, timeout_s=timeout_s)

    async def close(self) -> None:
        """Close the HTTP session."""
        await self._endpoint.close()

    async def check(self, deployment: Deployment) -> None:
        """Raise ChainMismatch unless this is the deployment's chain, with its contracts on it."""
        where = self._endpoint.where
        chain_id = await self.chain_id()
        if chain_id != deployment.chain_id:
            raise ChainMismatch(
                f"{where} is chain {chain_id}, the deployment is on chain "
                f"{deployment.chain_id}: correct rpc_url so that it names that chain"
            )
        genesis = (await self.block(0)).hash
        if genesis != deployment.genesis:
            raise ChainMismatch(
                f"{where} begins with block {hex_of(genesis)}, the deployment's chain with "
                f"{hex_of(deployment.genesis)}: correct rpc_url. If it is right, the chain was "
                "reset: restore its state, or begin anew with another data folder. Keep this one: "
                "its ledger may hold vouchers that are not claimed yet"
            )
        contracts = (
            ("token", deployment.token),
            ("ContentRegistry", deployment.content_registry),
            ("AdapterRegistry", deployment.adapter_registry),
            ("Settlement", deployment.settlement),
            ("NodeDirectory", deployment.node_directory),
        )
        for name, address in contracts:
            if not await self.code(address):
                raise ChainMismatch(
                    f"{where} has no contract at {address}, where the deployment has its {name}: "
                    "correct rpc_url, or chain.deployment. If both are right, the chain was "
                    "reset: restore its state, or begin anew with another data folder"
                )

    async def chain_id(self) -> int:
        """Return the chain's id."""
        return await self._endpoint.ask("eth_chainId", (), answers.count)

    async def block_number(self) -> int:
        """Return the head's number."""
        return await self._endpoint.ask("eth_blockNumber", (), answers.count)

    async def block(self, block: Block = "latest") -> BlockHeader:
        """Return a block's header; raise BlockNotKnown where there is none."""
        read = answers.header(block if isinstance(block, int) else None)
        found = await self._endpoint.ask("eth_getBlockByNumber", (_block(block), False), read)
        if found is None:
            raise BlockNotKnown("the chain has no such block (any more)")
        return found

    async def next_block_time_s(self) -> int | None:
        """Return the time of the block that is being made; None where the endpoint knows none."""
        try:
            asked = ("pending", False)
            return await self._endpoint.ask("eth_getBlockByNumber", asked, answers.next_time)
        except (NotSupported, EndpointRefused):
            return None

    async def code(self, address: Address) -> bytes:
        """Return the code at an address; empty when it is no contract."""
        return await self._endpoint.ask("eth_getCode", (address, "latest"), answers.raw_bytes)

    async def balance_wei(self, address: Address) -> int:
        """Return an account's balance of the chain's own coin."""
        return await self._endpoint.ask("eth_getBalance", (address, "latest"), answers.wei)

    async def call(
        self,
        to: Address,
        data: bytes,
        *,
        sender: Address | None = None,
        block: Block = "latest",
        gas: int | None = None,
    ) -> bytes:
        """Return the raw result of a call; raise TransactionFailed with the reason of a revert.

        ``gas`` is all that it may use; None leaves that to the node.
        """
        asked = _transaction(to, data, sender, gas)
        return await self._endpoint.ask("eth_call", (asked, _block(block)), answers.raw_bytes)

    async def estimate_gas(
        self, to: Address | None, data: bytes, sender: Address, *, gas: int | None = None
    ) -> int:
        """Return the gas that the transaction would use now; reverts raise as in ``call``."""
        asked = _transaction(to, data, sender, gas)
        return await self._endpoint.ask("eth_estimateGas", (asked,), answers.count)

    async def fees(self) -> Fees:
        """Return fees that outlast several full blocks: twice the base fee plus the tip."""
        base = await self._endpoint.ask("eth_getBlockByNumber", ("latest", False), answers.base_fee)
        try:
            tip = await self._endpoint.ask("eth_maxPriorityFeePerGas", (), answers.wei)
        except NotSupported:
            tip = _SUGGESTED_TIP_WEI
        return Fees(base, 2 * base + tip, tip)

    async def transaction_count(self, address: Address) -> int:
        """Return the next nonce of an account, its pending transactions counted."""
        return await self._transactions(address, "pending")

    async def mined_count(self, address: Address) -> int:
        """Return how many transactions of an account are in blocks."""
        return await self._transactions(address, "latest")

    async def broadcast(self, raw: bytes) -> None:
        """Hand a signed transaction to the chain.

        Raises ChainUnreachable when its fate is not known, ChainError when it was refused.
        """
        try:
            await self._endpoint.ask("eth_sendRawTransaction", (hex_of(raw),), answers.hash32)
        except ChainUnreachable:
            raise
        except ChainError as error:
            if not any(word in error.detail.lower() for word in ("already known", "already imp")):
                raise

    async def knows(self, transaction_hash: Hash32) -> bool:
        """Return whether the chain has the transaction, pending or in a block."""
        asked = (hex_of(transaction_hash),)
        read = answers.is_known(transaction_hash)
        return await self._endpoint.ask("eth_getTransactionByHash", asked, read)

    async def receipt(self, transaction_hash: Hash32) -> TransactionReceipt | None:
        """Return the receipt of a transaction; None while it is in no block."""
        asked = (hex_of(transaction_hash),)
        read = answers.receipt(transaction_hash)
        return await self._endpoint.ask("eth_getTransactionReceipt", asked, read)

    async def logs(
        self,
        addresses: Sequence[Address],
        first: int,
        last: int,
        topics: Sequence[bytes | None] | None = None,
    ) -> tuple[Log, ...]:
        """Return the logs of contracts in blocks ``first`` to ``last``, both included, in order."""
        wanted: dict[str, Any] = {
            "address": list(addresses),
            "fromBlock": hex(first),
            "toBlock": hex(last),
        }
        if topics is not None:
            wanted["topics"] = [None if topic is None else hex_of(topic) for topic in topics]
        read = answers.logs(addresses, first, last)
        return await self._endpoint.ask("eth_getLogs", (wanted,), read)

    async def request(self, method: str, params: Sequence[Any] = ()) -> Any:
        """Return the result of any JSON-RPC method, as JSON: for a test chain's own methods."""
        return await self._endpoint.ask(method, params, lambda found: found)

    async def _transactions(self, address: Address, block: Block) -> int:
        asked = (address, block)
        return await self._endpoint.ask("eth_getTransactionCount", asked, answers.count)


def _block(block: Block) -> str:
    return hex(block) if isinstance(block, int) else block


def _transaction(
    to: Address | None, data: bytes, sender: Address | None, gas: int | None
) -> dict[str, str]:
    transaction = {"data": hex_of(data)}
    if to is not None:
        transaction["to"] = to
    if sender is not None:
        transaction["from"] = sender
    if gas is not None:
        transaction["gas"] = hex(gas)
    return transaction
