"""One anvil with the deployed contracts, spoken to synchronously, a transaction a block.

Owns the process, the wire and the clock of the chain under test. Does not know what an answer
should be. Invariants: a block's time is the one that was asked for, also several blocks in one
second; a refused transaction is an answer, not an exception; every request has a timeout.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPConnection
from typing import Any

from viz.chain import abi
from viz.chain.deploy import deploy
from viz.chain.deployment import address_of
from viz.chain.devnet import Devnet
from viz.chain.keys import development_account
from viz.chain.rpc import Rpc
from viz.domain.eip712 import keccak
from viz.domain.ports.chain import Deployment
from viz.domain.units import Address, Units

TIMEOUT_S = 60.0
GAS = 12_000_000
CLOSE_DELAY_S = 3_600

View = tuple[str, str, tuple[Any, ...]]
Event = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Done:
    """A mined transaction: Settlement's events, or the name of the error it was refused with."""

    refused: str | None
    events: list[Event]


class LiveChain:
    """A local chain; account 0 deployed, every development account is unlocked."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._net = self._loop.run_until_complete(Devnet.start())
        try:
            self.deployment = self._loop.run_until_complete(_deploy(self._net.url))
            self._wire = HTTPConnection("127.0.0.1", self._net.port, timeout=TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._loop.run_until_complete(self._net.stop())
        self._loop.close()

    def rpc(self, method: str, *params: Any) -> Any:
        answer = self._post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def address(self, contract: str) -> Address:
        return address_of(self.deployment, contract)

    @property
    def now_s(self) -> int:
        return int(self.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def mine_at(self, time_s: int) -> None:
        self.rpc("evm_setNextBlockTimestamp", time_s)
        self.rpc("evm_mine")

    def set_tokens(self, who: Address, units: Units) -> None:
        """Write a token balance into the chain's storage: TestUSD's first slot maps them."""
        slot = keccak(bytes.fromhex(who[2:]).rjust(32, b"\0") + bytes(32))
        value = "0x" + units.to_bytes(32, "big").hex()
        self.rpc("anvil_setStorageAt", self.address("Token"), "0x" + slot.hex(), value)

    def snapshot(self) -> str:
        return str(self.rpc("evm_snapshot"))

    def revert(self, snapshot: str) -> None:
        if not self.rpc("evm_revert", snapshot):
            raise RuntimeError(f"no snapshot {snapshot}")

    def send(
        self, by: Address, contract: str, function: str, args: Sequence[Any], time_s: int
    ) -> Done:
        """Mine the call alone in a block at ``time_s``."""
        data = "0x" + abi.encode_call(contract, function, args).hex()
        call = {"from": by, "to": self.address(contract), "data": data, "gas": hex(GAS)}
        self.rpc("evm_setNextBlockTimestamp", time_s)
        receipt = self.rpc("eth_sendTransactionSync", call)
        if receipt["status"] != "0x1":
            return Done(self._why(call), [])
        return Done(None, list(self._events(receipt["logs"])))

    def _why(self, call: dict[str, Any]) -> str:
        """Return the error's name: the refused call changed nothing, so it fails again alike."""
        answer = self._post(
            {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call, "latest"]}
        )
        data = answer.get("error", {}).get("data")
        if not isinstance(data, str):
            raise RuntimeError(f"refused in a block, and not after it: {answer}")
        revert = abi.decode_revert(bytes.fromhex(data[2:]))
        return revert.name if revert else data

    def _events(self, logs: Iterable[dict[str, Any]]) -> Iterable[Event]:
        for log in logs:
            if log["address"].lower() != self.address("Settlement").lower():
                continue
            topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
            event = abi.decode_event("Settlement", topics, bytes.fromhex(log["data"][2:]))
            assert event is not None, "an event that is not in the ABI"
            yield event

    def views(self, views: Sequence[View]) -> list[Any]:
        """Return the answers of several views of the present state, in one request."""
        batch = [
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": "eth_call",
                "params": [{"to": self.address(contract), "data": _data(contract, name, args)},
                           "latest"],
            }
            for number, (contract, name, args) in enumerate(views)
        ]  # fmt: skip
        answers: dict[int, Any] = {answer["id"]: answer for answer in self._post(batch)}
        return [_answer(*view, answers[number]["result"]) for number, view in enumerate(views)]

    def view(self, contract: str, function: str, *args: Any) -> Any:
        return self.views([(contract, function, args)])[0]

    def _post(self, body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        self._wire.request("POST", "/", json.dumps(body).encode(), headers)
        return json.loads(self._wire.getresponse().read())


@lru_cache(maxsize=4096)
def _data(contract: str, function: str, args: tuple[Any, ...]) -> str:
    return "0x" + abi.encode_call(contract, function, args).hex()


@lru_cache(maxsize=65536)
def _answer(contract: str, function: str, args: Sequence[Any], result: str) -> Any:
    """Most of what is asked after a step did not change with it."""
    return abi.decode_result(contract, function, args, bytes.fromhex(result[2:]))


async def _deploy(url: str) -> Deployment:
    rpc = Rpc(url)
    try:
        return await deploy(rpc, development_account(0), close_delay_s=CLOSE_DELAY_S)
    finally:
        await rpc.close()
