"""A throw-away anvil and the contracts on it, for the gas benchmark.

Owns one anvil process on a free port, without fees and with every sender unlocked, and the
shipped artifacts that are deployed on it. Knows no scenario. Every request has a timeout; the
process ends with the context.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eth_account import Account
from eth_keys.datatypes import PrivateKey
from eth_utils.crypto import keccak
from web3 import HTTPProvider, Web3
from web3.types import RPCEndpoint

START_S = 1_800_000_000
GAS_LIMIT = 1_000_000_000
TIMEOUT_S = 60


class Contract:
    """One deployed contract: calls it, sends to it as anyone, returns the gas."""

    def __init__(self, chain: Chain, address: str, abi: list[dict[str, Any]]) -> None:
        self.address = Web3.to_checksum_address(address)
        self._chain = chain
        self._contract = chain.web3.eth.contract(address=self.address, abi=abi)

    def encode(self, function: str, *args: Any) -> str:
        return str(self._contract.encode_abi(function, args=list(args)))

    def call(self, function: str, *args: Any) -> Any:
        return self._contract.functions[function](*args).call()

    def send(self, sender: str, function: str, *args: Any, gas: int = 1 << 24) -> int:
        """Mine the call alone in a block; return the gas used. A revert raises."""
        return self._chain.send(sender, self.address, self.encode(function, *args), gas)


class Chain:
    """One anvil whose every run is the same.

    Keys are hashes of names. Each block is one second after the one before: by the wall clock two
    blocks sometimes share a second, and then storing the time anew costs 2,800 gas less.
    """

    def __init__(self, root: Path) -> None:
        self._artifacts = root / "node" / "viz" / "chain" / "artifacts"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        binary = next(root.glob("contracts/node_modules/@foundry-rs/anvil-*/bin/anvil"))
        command = [str(binary), "--port", str(port), "--timestamp", str(START_S), "--quiet"]
        command += ["--base-fee", "0", "--gas-price", "0", "--gas-limit", str(GAS_LIMIT)]
        command += ["--auto-impersonate"]
        self._process = subprocess.Popen(command)
        provider = HTTPProvider(f"http://127.0.0.1:{port}", request_kwargs={"timeout": TIMEOUT_S})
        self.web3 = Web3(provider)
        self._deployer = self.address(self.key("deployer"))
        self._now_s = START_S

    def __enter__(self) -> Self:
        deadline = time.monotonic() + TIMEOUT_S
        while not self.web3.is_connected():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise RuntimeError("anvil did not start")
            time.sleep(0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=TIMEOUT_S)

    def rpc(self, method: str, *params: Any) -> Any:
        answer = self.web3.provider.make_request(RPCEndpoint(method), params)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def send(self, sender: str, to: str | None, data: str, gas: int = 1 << 24) -> int:
        return int(self._mine(sender, to, data, gas)["gasUsed"], 16)

    def _mine(self, sender: str, to: str | None, data: str, gas: int) -> dict[str, Any]:
        transaction = {"from": sender, "data": data, "gas": hex(gas), "gasPrice": "0x0"}
        if to is not None:
            transaction["to"] = to
        self.sleep(1)
        self.rpc("evm_setNextBlockTimestamp", hex(self._now_s))
        tx_hash = self.rpc("eth_sendTransaction", transaction)
        deadline = time.monotonic() + TIMEOUT_S
        receipt: dict[str, Any] | None = None
        while receipt is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not mined: {data[:10]}")
            receipt = self.rpc("eth_getTransactionReceipt", tx_hash)
        if receipt["status"] != "0x1":
            block = hex(int(receipt["blockNumber"], 16) - 1)
            self.rpc("eth_call", transaction, block)
            raise RuntimeError(f"reverted: {data[:10]}")
        return receipt

    def deploy(self, name: str, *args: Any) -> Contract:
        path = self._artifacts / f"{name}.json"
        built = json.loads(path.read_text())
        code = built["bytecode"]
        factory = self.web3.eth.contract(abi=built["abi"], bytecode=code)
        data = str(factory.constructor(*args).data_in_transaction)
        receipt = self._mine(self._deployer, None, data, 1 << 24)
        return Contract(self, receipt["contractAddress"], built["abi"])

    def deploy_runtime(self, runtime: bytes) -> str:
        """Deploy runtime code as it is; return its address."""
        creation = bytes.fromhex(f"60{len(runtime):02x}80600a5f395ff300") + runtime
        receipt = self._mine(self._deployer, None, "0x" + creation.hex(), 1 << 24)
        return Web3.to_checksum_address(receipt["contractAddress"])

    def sleep(self, seconds: int) -> None:
        """Let the next block come ``seconds`` later."""
        self._now_s += seconds

    @staticmethod
    def keccak(data: bytes) -> bytes:
        return bytes(keccak(data))

    @staticmethod
    def key(name: str) -> bytes:
        return bytes(keccak(text=name))

    @staticmethod
    def address(key: bytes) -> str:
        return PrivateKey(key).public_key.to_checksum_address()

    @staticmethod
    def sign(key: bytes, digest: bytes) -> bytes:
        """Return r, s, v with v of 27 or 28."""
        signature = PrivateKey(key).sign_msg_hash(digest)
        raw: bytes = signature.to_bytes()
        return raw[:64] + bytes([27 + raw[64]])

    @classmethod
    def sign_compact(cls, key: bytes, digest: bytes) -> bytes:
        """Return the EIP-2098 form."""
        raw = cls.sign(key, digest)
        s = int.from_bytes(raw[32:64], "big") | (raw[64] - 27) << 255
        return raw[:32] + s.to_bytes(32, "big")

    def sign_transfer(self, key: bytes, token: str, message: dict[str, Any]) -> bytes:
        """Return the EIP-3009 signature over a ReceiveWithAuthorization at TestUSD."""
        fields = "address from,address to,uint256 value,uint256 validAfter"
        fields += ",uint256 validBefore,bytes32 nonce"
        kinds = [dict(zip(("type", "name"), f.split(), strict=True)) for f in fields.split(",")]
        domain = {
            "name": "Viz Test USD",
            "version": "1",
            "chainId": self.web3.eth.chain_id,
            "verifyingContract": token,
        }
        signed = Account.sign_typed_data(key, domain, {"ReceiveWithAuthorization": kinds}, message)
        return bytes(signed.signature)
