"""Connect to one chain: every JSON-RPC method that Viz uses, as typed values.

Owns the parameters of each method, the choice of the reader that checks its answer
(``viz.chain.answers``), and the check that the chain is the expected one. ``viz.chain.endpoint``
sends the requests. Nothing here retries a transaction.
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

BlockTag = int | Literal["latest", "pending"]
_SUGGESTED_TIP_WEI = 1_000_000_000

__all__ = ["BlockHeader", "BlockNotKnown", "BlockTag", "Fees", "Log", "Rpc", "TransactionReceipt"]


@dataclass(frozen=True, slots=True)
class Fees:
    """EIP-1559 fees for one transaction, in wei per unit of gas.

    ``base_fee_wei`` is the base fee of the head block, ``block_gas`` the most gas that all of its
    transactions together may use; None if the endpoint does not tell it.
    """

    base_fee_wei: int
    max_fee_wei: int
    priority_fee_wei: int
    block_gas: int | None = None


class BlockNotKnown(ChainError):
    """The chain has no such block: not yet, or no longer after a reorganisation."""


class Rpc:
    """One JSON-RPC endpoint; each call takes at most ``timeout_s`` seconds."""

    def __init__(self, url: str, *, timeout_s: float = 20.0) -> None:
        self.url = url
        self._endpoint = Endpoint(url, timeout_s=timeout_s)

    async def close(self) -> None:
        """Close the HTTP session."""
        await self._endpoint.close()

    async def check(self, deployment: Deployment, remedy: str = "") -> None:
        """Raise ChainMismatch if this is another chain, or the contracts are not on it.

        It advises ``remedy``, or without one what helps the operator of a node.
        """
        where = self._endpoint.where
        chain_id = await self.chain_id()
        if chain_id != deployment.chain_id:
            raise ChainMismatch(
                f"{where} is chain {chain_id}, the deployment is on chain "
                f"{deployment.chain_id}: "
                + (remedy or "correct rpc_url so that it names that chain")
            )
        genesis = await self.genesis()
        if genesis != deployment.genesis:
            raise ChainMismatch(
                f"{where} begins with block {hex_of(genesis)}, the deployment's chain with "
                f"{hex_of(deployment.genesis)}: "
                + (
                    remedy
                    or "correct rpc_url. If it is right, the chain was reset: restore its state, "
                    "or start with a new data folder. Keep the old one: its ledger may hold "
                    "vouchers that are not claimed yet"
                )
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
                    + (
                        remedy
                        or "correct rpc_url, or chain.deployment. If both are right, the chain "
                        "was reset: restore its state, or start with a new data folder"
                    )
                )

    async def chain_id(self) -> int:
        """Return the chain's id."""
        return await self._endpoint.ask("eth_chainId", (), answers.count)

    async def block_number(self) -> int:
        """Return the head's number."""
        return await self._endpoint.ask("eth_blockNumber", (), answers.count)

    async def block(self, block: BlockTag = "latest") -> BlockHeader:
        """Return a block's header; raise BlockNotKnown if there is none."""
        read = answers.header(block if isinstance(block, int) else None)
        found = await self._endpoint.ask("eth_getBlockByNumber", (_block(block), False), read)
        if found is None:
            what = f"block {block}" if isinstance(block, int) else f"a {block} block"
            raise BlockNotKnown(f"the chain does not have {what}, or no longer has it")
        return found

    async def genesis(self) -> Hash32:
        """Return the first block's hash, by which chains of one id are told apart."""
        try:
            return (await self.block(0)).hash
        except BlockNotKnown as error:
            raise BlockNotKnown(
                "the chain's endpoint does not have block 0, by which a chain is known: use one "
                "that has it (--rpc; in a node's settings chain.rpc_url)"
            ) from error

    async def next_block_time_s(self) -> int | None:
        """Return the timestamp of the pending block; None if the endpoint does not support it."""
        try:
            asked = ("pending", False)
            return await self._endpoint.ask("eth_getBlockByNumber", asked, answers.next_time)
        except (NotSupported, EndpointRefused):
            return None

    async def code(self, address: Address, block: BlockTag = "latest") -> bytes:
        """Return the code at an address; empty if there is no contract."""
        asked = (address, _block(block))
        return await self._endpoint.ask("eth_getCode", asked, answers.raw_bytes)

    async def balance_wei(self, address: Address) -> int:
        """Return an account's balance of the chain's native coin, in wei."""
        return await self._endpoint.ask("eth_getBalance", (address, "latest"), answers.wei)

    async def call(
        self,
        to: Address,
        data: bytes,
        *,
        sender: Address | None = None,
        block: BlockTag = "latest",
        gas: int | None = None,
    ) -> bytes:
        """Return the raw result of a call; raise TransactionFailed with the reason if it reverts.

        ``gas`` is the most that the call may use; None leaves the limit to the endpoint.
        """
        asked = _transaction(to, data, sender, gas)
        return await self._endpoint.ask("eth_call", (asked, _block(block)), answers.raw_bytes)

    async def estimate_gas(
        self, to: Address | None, data: bytes, sender: Address, *, gas: int | None = None
    ) -> int:
        """Return the gas that the transaction would use now; a revert raises as in ``call``."""
        asked = _transaction(to, data, sender, gas)
        return await self._endpoint.ask("eth_estimateGas", (asked,), answers.count)

    async def fees(self) -> Fees:
        """Return fees that stay high enough for several full blocks.

        That is twice the base fee plus the tip: the base fee rises by an eighth a block at most.
        """
        base, block_gas = await self._endpoint.ask(
            "eth_getBlockByNumber", ("latest", False), answers.base_fee_and_gas_limit
        )
        try:
            tip = await self._endpoint.ask("eth_maxPriorityFeePerGas", (), answers.wei)
        except NotSupported:
            tip = _SUGGESTED_TIP_WEI
        return Fees(base, 2 * base + tip, tip, block_gas)

    async def transaction_count(self, address: Address) -> int:
        """Return the next nonce of an account, counting its pending transactions."""
        return await self._transactions(address, "pending")

    async def mined_count(self, address: Address) -> int:
        """Return how many transactions of an account are in blocks."""
        return await self._transactions(address, "latest")

    async def broadcast(self, raw: bytes) -> None:
        """Send a signed transaction to the chain.

        Raises ChainUnreachable if it is unknown whether the transaction arrived, and ChainError
        if it was refused.
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
        """Return the contracts' logs of blocks ``first`` to ``last``, both included, in order."""
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
        """Return the result of any JSON-RPC method as JSON; for the methods of a test chain."""
        return await self._endpoint.ask(method, params, lambda found: found)

    async def _transactions(self, address: Address, block: BlockTag) -> int:
        asked = (address, block)
        return await self._endpoint.ask("eth_getTransactionCount", asked, answers.count)


def _block(block: BlockTag) -> str:
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
