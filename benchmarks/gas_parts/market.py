"""The people and contracts of the gas benchmark, and their moves.

Owns what a creator, trainer, buyer or node does in one transaction, and the figures noted so far.
Knows neither the scenes nor the goals. Every key, amount and salt is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from benchmarks.gas_parts.chain import Chain, Contract

from viz.domain import typed_data
from viz.domain.eip712 import content_registry_domain, sign
from viz.domain.license import Terms
from viz.domain.units import Address, ContentId, Hash32

Relayed = typed_data.Register | typed_data.SetTerms | typed_data.Approve | typed_data.Withdraw

DAY_S = 86_400
LATER_S = 1_900_000_000
LINE_UNITS = 5_000
DEPOSIT_UNITS = 50_000_000
FREE = Terms(0, 0, 0, 0, 0, 31, False)
LICENSE = Hash32(b"\x11" * 32)
NOBODY = "0x" + "0" * 40


class Market:
    """The deployed contracts, filled with the people of the workload."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.gas: dict[str, float] = {}
        self.token = chain.deploy("TestUSD")
        self.works = chain.deploy("ContentRegistry", self.token.address)
        self.adapters = chain.deploy("AdapterRegistry", self.works.address, DAY_S)
        self.settlement = chain.deploy(
            "Settlement", self.token.address, self.works.address, self.adapters.address
        )
        self.directory = chain.deploy("NodeDirectory")
        self.node_key = chain.key("node")
        self.node = chain.address(self.node_key)
        self.payer_key = chain.key("payer")
        self.payer = chain.address(self.payer_key)
        self.shares: dict[int, list[int]] = {}
        self.settled: dict[bytes, int] = {}

    def note(self, name: str, gas: float) -> int:
        self.gas[name] = round(gas)
        return round(gas)

    def person(self, name: str) -> str:
        return self.chain.address(self.chain.key(name))

    def fund(self, who: str, contract: Contract) -> None:
        self.token.send(who, "mint", who, 10**12)
        self.token.send(who, "approve", contract.address, 2**256 - 1)

    # people's moves

    def register_work(self, creator: str, salt: int, terms: Terms = FREE) -> int:
        commitment = salt.to_bytes(32, "big")
        return self.works.send(creator, "register", commitment, LICENSE, astuple(terms))

    def grant(self, trainer: str, content_id: int) -> int:
        terms_hash = self.works.call("contentOf", content_id)[4]
        return self.works.send(trainer, "acquireGrant", content_id, terms_hash)

    def relay(self, name: str, function: str, struct: Relayed, *args: Any) -> int:
        """Send a person's signed action to the registry, relayed by the node."""
        domain = content_registry_domain(self.chain.web3.eth.chain_id, Address(self.works.address))
        word = sign(self.chain.key(name), domain.digest(struct))
        return self.works.send(self.node, function, *args, struct.nonce, LATER_S, word)

    def register_relayed(self, name: str, salt: int, nonce: int) -> int:
        creator, commitment = Address(self.person(name)), Hash32(salt.to_bytes(32, "big"))
        struct = typed_data.Register(creator, commitment, LICENSE, FREE, nonce, LATER_S)
        return self.relay(name, "registerFor", struct, creator, commitment, LICENSE, astuple(FREE))

    def set_terms_relayed(self, name: str, content_id: int, terms: Terms, nonce: int) -> int:
        struct = typed_data.SetTerms(ContentId(content_id), LICENSE, terms, nonce, LATER_S)
        return self.relay(name, "setTermsFor", struct, content_id, LICENSE, astuple(terms))

    def approve_relayed(self, name: str, content_id: int, allowed: bool, nonce: int) -> int:
        trainer = Address(self.person("approved trainer"))
        struct = typed_data.Approve(ContentId(content_id), trainer, allowed, nonce, LATER_S)
        return self.relay(name, "approveTrainerFor", struct, content_id, trainer, allowed)

    def withdraw_relayed(self, name: str, content_id: int, nonce: int) -> int:
        struct = typed_data.Withdraw(ContentId(content_id), nonce, LATER_S)
        return self.relay(name, "withdrawFor", struct, content_id)

    def grant_relayed(self, name: str, content_id: int, salt: bytes) -> int:
        """Acquire a grant by the trainer's authorisation, relayed by the node."""
        terms_hash = self.works.call("contentOf", content_id)[4]
        fee = self.works.call("termsOf", terms_hash)[0][0]
        message = {
            "from": self.person(name),
            "to": self.works.address,
            "value": fee,
            "validAfter": 0,
            "validBefore": LATER_S,
            "nonce": self.works.call("grantNonce", content_id, terms_hash, salt),
        }
        pays = self.chain.sign_transfer(self.chain.key(name), self.token.address, message)
        trainer = self.person(name)
        return self.works.send(
            self.node,
            "acquireGrantWithAuthorization",
            trainer,
            content_id,
            terms_hash,
            salt,
            0,
            LATER_S,
            pays,
        )

    def register_adapter(
        self, trainer: str, content_ids: Sequence[int], royalty: int = 3_000, cut: int = 1_000
    ) -> tuple[int, int]:
        """Return (adapter id, gas)."""
        part, rest = divmod(10_000, len(content_ids))
        shares = [i << 16 | (part + (n < rest)) for n, i in enumerate(content_ids)]
        digest = b"\x22" * 32
        cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
        gas = self.adapters.send(
            trainer, "register", digest, digest, cid, digest, royalty, cut, shares
        )
        adapter_id = int(self.adapters.call("adapterCount"))
        self.shares[adapter_id] = shares
        return adapter_id, gas

    def open_by_gas(self, key: bytes) -> int:
        digest = self.settlement.call("hashOpenChannel", self.payer, self.node)
        return self.settlement.send(
            self.payer,
            "open",
            self.chain.address(key),
            self.node,
            DEPOSIT_UNITS,
            self.chain.sign(key, digest),
        )

    def authorization(self, kind: str, signer: str, amount: int, salt: bytes) -> bytes:
        nonce = self.settlement.call(
            "authorizationNonce", self.settlement.call(kind), signer, self.node, salt
        )
        message = {
            "from": self.payer,
            "to": self.settlement.address,
            "value": amount,
            "validAfter": 0,
            "validBefore": LATER_S,
            "nonce": nonce,
        }
        return self.chain.sign_transfer(self.payer_key, self.token.address, message)

    def open_gasless(self, key: bytes, amount: int, salt: bytes) -> int:
        signer = self.chain.address(key)
        consent = b""
        if signer != self.payer and self.settlement.call("channel", signer, self.node)[0] == NOBODY:
            digest = self.settlement.call("hashOpenChannel", self.payer, self.node)
            consent = self.chain.sign(key, digest)
        pays = self.authorization("OPEN_KIND", signer, amount, salt)
        return self.settlement.send(
            self.node,
            "openWithAuthorization",
            self.payer,
            signer,
            self.node,
            amount,
            salt,
            0,
            LATER_S,
            pays,
            consent,
        )

    def top_up_gasless(self, key: bytes, amount: int, salt: bytes) -> int:
        signer = self.chain.address(key)
        pays = self.authorization("TOP_UP_KIND", signer, amount, salt)
        return self.settlement.send(
            self.node,
            "topUpWithAuthorization",
            self.payer,
            signer,
            self.node,
            amount,
            salt,
            0,
            LATER_S,
            pays,
        )

    def request_close_relayed(self, signer: str, deadline_s: int) -> int:
        digest = self.settlement.call("hashRequestClose", signer, self.node, deadline_s)
        asked = self.chain.sign(self.payer_key, digest)
        send = self.settlement.send
        return send(self.node, "requestCloseFor", signer, self.node, deadline_s, asked)

    def close_now(self, signer: str) -> int:
        settled = self.settlement.call("channel", signer, self.node)[2]
        digest = self.settlement.call("hashClose", signer, self.node, settled, LATER_S)
        word = self.chain.sign(self.node_key, digest)
        send = self.settlement.send
        return send(self.node, "closeNow", signer, self.node, settled, LATER_S, word)

    def rows(self, keys: Sequence[bytes], adapter_ids: Sequence[int]) -> bytes:
        lines = b"".join(i.to_bytes(4, "big") + LINE_UNITS.to_bytes(12, "big") for i in adapter_ids)
        usage = self.chain.keccak(lines)
        packed = b""
        for key in keys:
            settled = self.settled.get(key, 0)
            head = self.chain.key(f"head{settled}{key.hex()}")
            digest = self.settlement.call("hashVoucher", self.node, settled, usage, head)
            signature = self.chain.sign_compact(key, digest)
            base = settled.to_bytes(12, "big")
            packed += signature + base + head + bytes([len(adapter_ids)]) + lines
            self.settled[key] = settled + LINE_UNITS * len(adapter_ids)
        return packed

    def claim(self, keys: Sequence[bytes], adapter_ids: Sequence[int]) -> int:
        return self.settlement.send(self.node, "claim", self.rows(keys, adapter_ids))
