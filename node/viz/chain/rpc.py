"""The connection to one chain: the only module that touches web3.

Owns the HTTP session, the time limit of every call, the check that the chain is the one expected,
and the translation of whatever goes wrong into ``viz.errors``. Does not know contracts, keys or
nonces. Nothing here retries a transaction; web3's own retries cover reads (and a repeated
``eth_sendRawTransaction`` of the same bytes, which no chain executes twice).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import aiohttp
from eth_typing import BlockNumber, HexStr
from hexbytes import HexBytes
from web3 import AsyncHTTPProvider, AsyncWeb3
from web3.exceptions import (
    BadResponseFormat,
    BlockNotFound,
    ContractLogicError,
    ProviderConnectionError,
    RequestTimedOut,
    TooManyRequests,
    TransactionNotFound,
    Web3Exception,
    Web3RPCError,
)
from web3.providers.rpc.utils import ExceptionRetryConfiguration
from web3.types import FilterParams, RPCEndpoint, TxParams

from viz.chain.abi import decode_revert
from viz.chain.reasons import explain
from viz.domain.ports.chain import Deployment
from viz.domain.units import Address, Hash32, hex_of
from viz.errors import ChainError, ChainMismatch, ChainUnreachable, TransactionFailed

Block = int | Literal["latest", "pending"]
T = TypeVar("T")
_UNREACHABLE: Final = (
    TimeoutError,
    aiohttp.ClientError,
    OSError,
    ProviderConnectionError,
    RequestTimedOut,
    TooManyRequests,
    BadResponseFormat,
    ValueError,  # an answer that is not JSON
)


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """What the watcher and the clock need of a block."""

    number: int
    hash: Hash32
    parent_hash: Hash32
    time_s: int


@dataclass(frozen=True, slots=True)
class Log:
    """One log as the chain returns it, not yet decoded."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: Hash32
    transaction_hash: Hash32
    log_index: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What inclusion in a block did: ``succeeded`` is False for a revert."""

    transaction_hash: Hash32
    succeeded: bool
    block_number: int
    gas_used: int
    contract: Address | None
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True)
class Fees:
    """EIP-1559 fees for one transaction, in wei of the chain's coin a unit of gas.

    ``base_fee_wei`` is the head's: what a block takes at least.
    """

    base_fee_wei: int
    max_fee_wei: int
    priority_fee_wei: int


class TransactionNotKnown(ChainError):
    """The chain has never seen, or has forgotten, the transaction."""

    code = "transaction-not-known"


class BlockNotKnown(ChainError):
    """The chain has no such block: not yet, or not any more."""

    code = "block-not-known"


class Rpc:
    """One JSON-RPC endpoint, each call bounded by ``timeout_s`` seconds in all."""

    def __init__(self, url: str, *, timeout_s: float = 20.0) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._provider = AsyncHTTPProvider(
            url,
            request_kwargs={"timeout": aiohttp.ClientTimeout(total=timeout_s)},
            exception_retry_configuration=ExceptionRetryConfiguration(
                errors=(aiohttp.ClientError, TimeoutError), retries=3, backoff_factor=0.1
            ),
        )
        self._eth = AsyncWeb3(self._provider).eth

    async def close(self) -> None:
        """Close the HTTP session."""
        await self._provider.disconnect()

    async def check(self, deployment: Deployment) -> None:
        """Raise ChainMismatch unless this is the deployment's chain, with its contracts on it."""
        chain_id = await self.chain_id()
        if chain_id != deployment.chain_id:
            raise ChainMismatch(
                f"{self._where} is chain {chain_id}, the deployment is on chain "
                f"{deployment.chain_id}: point rpc_url at the right chain, or deploy anew"
            )
        genesis = (await self.block(0)).hash
        if genesis != deployment.genesis:
            raise ChainMismatch(
                f"{self._where} begins with block {hex_of(genesis)}, the deployment's chain with "
                f"{hex_of(deployment.genesis)}: the chain was reset. Restore its state, or remove "
                "the deployment file and the node's data and deploy anew"
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
                    f"there is no contract at {address}, where the deployment has its {name}: the "
                    "chain was reset or the file is of another one; deploy anew"
                )

    async def chain_id(self) -> int:
        """Return the chain's id."""
        return int(await self._ask(self._eth.chain_id))

    async def block_number(self) -> int:
        """Return the head's number."""
        return int(await self._ask(self._eth.get_block_number()))

    async def block(self, block: Block = "latest") -> BlockHeader:
        """Return a block's header; raise BlockNotKnown where there is none."""
        found = await self._ask(self._eth.get_block(_block(block)))
        return BlockHeader(
            int(found["number"]),
            Hash32(bytes(found["hash"])),
            Hash32(bytes(found["parentHash"])),
            int(found["timestamp"]),
        )

    async def code(self, address: Address) -> bytes:
        """Return the code at an address; empty when it is no contract."""
        return bytes(await self._ask(self._eth.get_code(_address(address))))

    async def balance_wei(self, address: Address) -> int:
        """Return an account's balance of the chain's own coin."""
        return int(await self._ask(self._eth.get_balance(_address(address))))

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
        return bytes(await self._ask(self._eth.call(asked, _block(block))))

    async def estimate_gas(
        self, to: Address | None, data: bytes, sender: Address, *, gas: int | None = None
    ) -> int:
        """Return the gas that the transaction would use now; reverts raise as in ``call``."""
        return int(await self._ask(self._eth.estimate_gas(_transaction(to, data, sender, gas))))

    async def fees(self) -> Fees:
        """Return fees that outlast several full blocks: twice the base fee plus the tip."""
        head = await self._ask(self._eth.get_block("latest"))
        base = int(head.get("baseFeePerGas", 0))
        try:
            tip = int(await self._ask(self._eth.max_priority_fee))
        except ChainUnreachable:
            raise
        except ChainError:
            tip = 1_000_000_000
        return Fees(base, 2 * base + tip, tip)

    async def transaction_count(self, address: Address) -> int:
        """Return the next nonce of an account, its pending transactions counted."""
        return int(await self._ask(self._eth.get_transaction_count(_address(address), "pending")))

    async def mined_count(self, address: Address) -> int:
        """Return how many transactions of an account are in blocks."""
        return int(await self._ask(self._eth.get_transaction_count(_address(address), "latest")))

    async def broadcast(self, raw: bytes) -> None:
        """Hand a signed transaction to the chain.

        Raises ChainUnreachable when its fate is not known, ChainError when it was refused.
        """
        try:
            await self._ask(self._eth.send_raw_transaction(raw))
        except ChainError as error:
            if not any(word in error.detail.lower() for word in ("already known", "already imp")):
                raise

    async def knows(self, transaction_hash: Hash32) -> bool:
        """Return whether the chain has the transaction, pending or in a block."""
        try:
            await self._ask(self._eth.get_transaction(HexBytes(transaction_hash)))
        except TransactionNotKnown:
            return False
        return True

    async def receipt(self, transaction_hash: Hash32) -> Receipt | None:
        """Return the receipt of a transaction; None while it is in no block."""
        try:
            found = await self._ask(self._eth.get_transaction_receipt(HexBytes(transaction_hash)))
        except TransactionNotKnown:
            return None
        contract = found.get("contractAddress")
        return Receipt(
            transaction_hash,
            found["status"] == 1,
            int(found["blockNumber"]),
            int(found["gasUsed"]),
            Address(str(contract)) if contract else None,
            tuple(_log(entry) for entry in found["logs"]),
        )

    async def logs(
        self,
        addresses: Sequence[Address],
        first: int,
        last: int,
        topics: Sequence[bytes | None] | None = None,
    ) -> tuple[Log, ...]:
        """Return the logs of contracts in blocks ``first`` to ``last``, both included, in order."""
        wanted: FilterParams = {
            "address": [_address(address) for address in addresses],
            "fromBlock": BlockNumber(first),
            "toBlock": BlockNumber(last),
        }
        if topics is not None:
            wanted["topics"] = [
                None if topic is None else HexStr(hex_of(topic)) for topic in topics
            ]
        return tuple(_log(entry) for entry in await self._ask(self._eth.get_logs(wanted)))

    async def request(self, method: str, params: Sequence[Any] = ()) -> Any:
        """Return the result of any JSON-RPC method, as JSON: for a test chain's own methods."""
        answer = await self._ask(self._provider.make_request(RPCEndpoint(method), list(params)))
        if error := answer.get("error"):
            message = error["message"] if isinstance(error, dict) else str(error)
            raise ChainError(f"{method}: {message}")
        return answer.get("result")

    @property
    def _where(self) -> str:
        # A provider's URL often carries an access key in its path or query: show host and port.
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, aiohttp.ClientResponseError):
            return f"HTTP {error.status}"
        if isinstance(error, ValueError | BadResponseFormat):
            return "its answer is not JSON-RPC"
        reason = str(error) or f"no answer in {self._timeout_s:g} s"
        parts = urlsplit(self.url)
        secret = any(part and part in reason for part in (parts.path.strip("/"), parts.query))
        return type(error).__name__ if secret else reason

    async def _ask(self, question: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await question
        except TransactionNotFound as error:
            raise TransactionNotKnown("the chain does not know this transaction") from error
        except BlockNotFound as error:
            raise BlockNotKnown("the chain has no such block (any more)") from error
        except ContractLogicError as error:
            raise _failed(error.data, error.message) from error
        except _UNREACHABLE as error:
            reason = self._reason(error)
            raise ChainUnreachable(
                f"the chain at {self._where} cannot be reached ({reason}): start it, or correct "
                "rpc_url"
            ) from error
        except Web3RPCError as error:
            response = error.rpc_response or {}
            problem = response.get("error")
            if isinstance(problem, dict) and problem.get("code") == 3:
                raise _failed(problem.get("data"), problem.get("message")) from error
            message = problem.get("message") if isinstance(problem, dict) else error.message
            raise ChainError(f"the chain at {self._where} refused: {message}") from error
        except Web3Exception as error:
            raise ChainError(f"the chain at {self._where} answered nonsense: {error}") from error


def _failed(data: Any, message: str | None) -> TransactionFailed:
    """Return the error of a revert, with the custom error in words."""
    raw = b""
    if isinstance(data, str) and data.startswith("0x"):
        raw = bytes.fromhex(data[2:])
    revert = decode_revert(raw) if raw else None
    if revert is None:
        return TransactionFailed(f"the contract refused: {message or 'it gave no reason'}")
    return TransactionFailed(
        f"the contract refused: {explain(revert)}",
        error=revert.name,
        args={
            name: hex_of(value) if isinstance(value, bytes) else value
            for name, value in revert.args.items()
        },
    )


def _block(block: Block) -> Any:
    return BlockNumber(block) if isinstance(block, int) else block


def _address(address: Address) -> Any:
    return address


def _transaction(
    to: Address | None, data: bytes, sender: Address | None, gas: int | None
) -> TxParams:
    transaction: TxParams = {"data": HexBytes(data)}
    if to is not None:
        transaction["to"] = _address(to)
    if sender is not None:
        transaction["from"] = _address(sender)
    if gas is not None:
        transaction["gas"] = gas
    return transaction


def _log(entry: Any) -> Log:
    return Log(
        Address(str(entry["address"])),
        tuple(bytes(topic) for topic in entry["topics"]),
        bytes(entry["data"]),
        int(entry["blockNumber"]),
        Hash32(bytes(entry["blockHash"])),
        Hash32(bytes(entry["transactionHash"])),
        int(entry["logIndex"]),
    )
