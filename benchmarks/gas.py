#!/usr/bin/env python3
"""Measure the gas of the contracts on a fresh anvil, against the goals and the committed figures.

Measures the artifacts that ship in the package (scripts/compile_contracts.py writes them). Owns
the scenarios and docs/gas.json, the machine-readable figures; docs/gas.md carries the same
table between its two markers, and prose around it that this program never touches. Gas is exact
and every key, amount and salt is fixed, so two runs give the same figures to within the few units
that a signature's zero bytes make.

    python benchmarks/gas.py            print the table
    python benchmarks/gas.py --write    also write docs/gas.json and the table in docs/gas.md
    python benchmarks/gas.py --check    exit 1 where a figure is over 1 % above the committed one
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gas_chain import Chain, Contract  # noqa: E402  (found from the root)

FIGURES = ROOT / "docs" / "gas.json"
PAGE = ROOT / "docs" / "gas.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
TOLERANCE = 1.01

# What each figure should be at most; the source of every goal is named in docs/gas.md.
GOALS = {
    "claim 100x10, steady, a line": 1_800,
    "claim 100x1, steady, a buyer": 14_200,
    "distribute 10 adapters x 20, steady, a creator": 11_900,
    "openWithAuthorization, signer another key": 105_000,
    "topUpWithAuthorization": 70_000,
    "workload, settle, a query": 185,
    "workload, all in, a query": 420,
    "distribute 128 burning transfers": 1 << 24,
}

DAY_S = 86_400
LATER_S = 1_900_000_000
QUERIES = 10_000
LINE_UNITS = 5_000
DEPOSIT_UNITS = 50_000_000
BUYERS, ADAPTERS, WORKS_EACH = 100, 10, 20
ZERO32 = bytes(32)
FEW_USES = (0, 0, 0, 0, 0, 31, False)


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

    def register_work(self, creator: str, salt: int, terms: tuple[Any, ...] = FEW_USES) -> int:
        return self.works.send(creator, "register", salt.to_bytes(32, "big"), b"\x11" * 32, terms)

    def grant(self, trainer: str, content_id: int) -> int:
        terms_hash = self.works.call("contentOf", content_id)[4]
        return self.works.send(trainer, "acquireGrant", content_id, terms_hash)

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

    def open_gasless(self, key: bytes) -> int:
        signer = self.chain.address(key)
        salt = self.chain.key("salt" + signer)
        consent = b""
        if signer != self.payer:
            digest = self.settlement.call("hashOpenChannel", self.payer, self.node)
            consent = self.chain.sign(key, digest)
        pays = self.authorization("OPEN_KIND", signer, DEPOSIT_UNITS, salt)
        return self.settlement.send(
            self.node,
            "openWithAuthorization",
            self.payer,
            signer,
            self.node,
            DEPOSIT_UNITS,
            salt,
            0,
            LATER_S,
            pays,
            consent,
        )

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


def measure_registries(m: Market) -> None:
    """Works, grants, adapters, announcements: first and steady."""
    a, b = m.person("author"), m.person("trainer of one")
    m.fund(b, m.works)
    m.note("ContentRegistry.register, first terms set", m.register_work(a, 1))
    m.note("ContentRegistry.register, steady", m.register_work(a, 2))
    fee = (1_000, 100, 0, DAY_S, 2, 31, True)
    send = m.works.send
    m.note("ContentRegistry.setTerms, new set", send(a, "setTerms", 1, b"\x12" * 32, fee))
    m.note("ContentRegistry.setTerms, known set", send(a, "setTerms", 2, b"\x12" * 32, fee))
    m.note("ContentRegistry.approveTrainer", send(a, "approveTrainer", 1, b, True))
    m.note("ContentRegistry.acquireGrant, with a fee", m.grant(b, 1))
    send(a, "setTerms", 2, b"\x11" * 32, FEW_USES)
    m.note("ContentRegistry.acquireGrant, free", m.grant(b, 2))
    adapter_id, gas = m.register_adapter(b, [1, 2])
    m.note("AdapterRegistry.register, 2 works", gas)
    send = m.adapters.send
    m.note("AdapterRegistry.setServing, allow", send(b, "setServing", adapter_id, m.node, True))
    m.note("AdapterRegistry.setServing, end", send(b, "setServing", adapter_id, m.node, False))
    m.note("ContentRegistry.withdraw", m.works.send(a, "withdraw", 1))
    gas = send(a, "enforce", adapter_id, m.shares[adapter_id], 0)
    m.note("AdapterRegistry.enforce", gas)
    m.note("AdapterRegistry.retire, already retiring", send(b, "retire", adapter_id))
    url, age = "https://node.example:8443", "age1" + "q" * 58
    announce = m.directory.send
    m.note("NodeDirectory.announce, first", announce(m.node, "announce", url, age))
    m.note("NodeDirectory.announce, replacing", announce(m.node, "announce", url, age))
    m.note("NodeDirectory.remove", announce(m.node, "remove"))


def measure_channels(m: Market) -> None:
    """Opening, topping up and leaving, by gas and by signature."""
    m.fund(m.payer, m.settlement)
    m.fund(m.person("sponsor"), m.settlement)
    m.open_by_gas(m.chain.key("very first"))
    key = m.chain.key("one buyer")
    signer = m.chain.address(key)
    send = m.settlement.send
    m.note("open, signer another key", m.open_by_gas(key))
    m.note("open, signer is the payer", send(m.payer, "open", m.payer, m.node, 10**6, b""))
    m.note("topUp", send(m.payer, "topUp", signer, m.node, m.payer, 10**6))
    gasless = m.chain.key("gasless buyer")
    m.note("openWithAuthorization, signer another key", m.open_gasless(gasless))
    address, salt = m.chain.address(gasless), m.chain.key("top-up salt")
    pays = m.authorization("TOP_UP_KIND", address, 10**6, salt)
    gas = send(
        m.node, "topUpWithAuthorization",
        m.payer, address, m.node, 10**6, salt, 0, LATER_S, pays,
    )  # fmt: skip
    m.note("topUpWithAuthorization", gas)
    m.note("requestClose", send(m.payer, "requestClose", signer, m.node))
    digest = m.settlement.call("hashRequestClose", address, m.node, LATER_S)
    asked = m.chain.sign(m.payer_key, digest)
    m.note("requestCloseFor", send(m.node, "requestCloseFor", address, m.node, LATER_S, asked))
    digest = m.settlement.call("hashClose", address, m.node, 0, LATER_S)
    word = m.chain.sign(m.node_key, digest)
    m.note("closeNow", send(m.node, "closeNow", address, m.node, 0, LATER_S, word))
    m.chain.sleep(DAY_S)
    m.note("withdraw", send(m.node, "withdraw", signer, m.node))
    m.note("setPayoutAddress, first", send(m.node, "setPayoutAddress", m.person("cold")))
    m.note("setPayoutAddress, replacing", send(m.node, "setPayoutAddress", m.person("cold")))


def fill(m: Market) -> tuple[list[bytes], list[int]]:
    """Open the buyers' channels; register every adapter by a trainer of its own, who permits."""
    keys = [m.chain.key(f"buyer {n}") for n in range(BUYERS)]
    for key in keys:
        m.open_by_gas(key)
    ids = []
    for n in range(ADAPTERS):
        trainer = m.person(f"trainer {n}")
        contents = []
        for i in range(WORKS_EACH):
            number = n * WORKS_EACH + i
            m.register_work(m.person(f"creator {number}"), 1_000 + number)
            contents.append(int(m.works.call("contentCount")))
            m.grant(trainer, contents[-1])
        adapter_id, gas = m.register_adapter(trainer, contents)
        m.adapters.send(trainer, "setServing", adapter_id, m.node, True)
        ids.append(adapter_id)
    m.note(f"AdapterRegistry.register, {WORKS_EACH} works", gas)
    return keys, ids


def measure_claims(m: Market, keys: list[bytes], ids: list[int]) -> None:
    """Claims of 1, 10 and 100 buyers with 1 and 10 adapters; then the whole workload."""
    first = m.claim(keys, ids)
    m.note(f"claim {BUYERS}x{ADAPTERS}, first, a line", first / (BUYERS * ADAPTERS))
    for buyers in (1, 10, 100):
        for adapters in (1, 10):
            gas = m.claim(keys[:buyers], ids[:adapters])
            name = f"claim {buyers}x{adapters}, steady"
            m.note(f"{name}, the batch", gas)
            m.note(f"{name}, a buyer", gas / buyers)
            m.note(f"{name}, a line", gas / (buyers * adapters))

    payer, send = m.payer, m.settlement.send
    m.note("pay", send(payer, "pay", ids[0], m.node, 10**6))
    gas = send(payer, "distribute", ids[0], m.shares[ids[0]])
    m.note("distribute 20, first, a creator", gas / WORKS_EACH)
    send(payer, "pay", ids[0], m.node, 10**6)
    gas = send(payer, "distribute", ids[0], m.shares[ids[0]])
    m.note("distribute 20, steady, a creator", gas / WORKS_EACH)
    calls = [m.settlement.encode("distribute", i, m.shares[i]) for i in ids]
    send(payer, "multicall", calls)
    m.note("collect, first", send(payer, "collect", m.node))
    for n in range(ADAPTERS):
        send(payer, "collect", m.person(f"trainer {n}"))

    # One period in steady state, everybody having been paid before.
    settle = m.claim(keys, ids)
    pay = send(payer, "multicall", calls)
    m.note("distribute 10 adapters x 20, steady, a creator", pay / (ADAPTERS * WORKS_EACH))
    collect = m.note("collect, steady", send(payer, "collect", m.node))
    trainers = sum(send(payer, "collect", m.person(f"trainer {n}")) for n in range(ADAPTERS))
    m.note("workload, settle, a query", settle / QUERIES)
    m.note("workload, all in, a query", (settle + pay + collect) / QUERIES)
    m.note(
        "workload, all in, ten trainers collecting too",
        (settle + pay + collect + trainers) / QUERIES,
    )


def measure_worst_distribution(m: Market) -> None:
    """Distribute to 128 owners by a token whose every transfer burns the whole stipend."""
    token = m.chain.deploy_runtime(BURNING_TOKEN)
    works = m.chain.deploy("ContentRegistry", token)
    adapters = m.chain.deploy("AdapterRegistry", works.address, DAY_S)
    settlement = m.chain.deploy("Settlement", token, works.address, adapters.address)
    bad = Market.__new__(Market)
    bad.__dict__.update(m.__dict__)
    bad.works, bad.adapters, bad.settlement, bad.shares = works, adapters, settlement, {}
    trainer = m.person("trainer of 128")
    for n in range(128):
        bad.register_work(m.person(f"bad owner {n}"), 5_000 + n)
        bad.grant(trainer, n + 1)
    adapter_id, gas = bad.register_adapter(trainer, range(1, 129), 10_000, 0)
    m.note("AdapterRegistry.register, 128 works", gas)
    settlement.send(m.payer, "pay", adapter_id, m.node, 10**9)
    gas = settlement.send(m.payer, "distribute", adapter_id, bad.shares[adapter_id], gas=1 << 24)
    m.note("distribute 128 burning transfers", gas)


# A token for that one figure, by hand: transfer burns all it is given, transferFrom adds its amount
# to slot 0 and returns true, anything else returns slot 0 (the balance).
#   selector := calldata[0] >> 224; a9059cbb -> loop; 23b872dd -> add; else return sload(0)
BURNING_TOKEN = bytes.fromhex(
    "5f3560e01c8063a9059cbb146020576323b872dd14602457"  # 00: the selector decides
    "5f545f5260205ff3"  # 18: return slot 0
    "5b602056"  # 20: burn
    "5b6044355f54015f5560015f5260205ff3"  # 24: add, return true
)


def table(gas: dict[str, float]) -> str:
    lines = ["| what | gas | goal |", "|---|---:|---:|"]
    for name, value in gas.items():
        goal = GOALS.get(name)
        verdict = "" if goal is None else f"<= {goal:,} {'met' if value <= goal else 'NOT MET'}"
        lines.append(f"| {name} | {value:,} | {verdict} |")
    return "\n".join(lines)


def check(gas: dict[str, float]) -> list[str]:
    """Return what is worse than committed, or missing on either side."""
    if not FIGURES.exists():
        return [f"{FIGURES} is missing: run with --write"]
    committed: dict[str, float] = json.loads(FIGURES.read_text())
    faults = [f"{name}: not measured any more" for name in committed if name not in gas]
    for name, value in gas.items():
        if name not in committed:
            faults.append(f"{name}: not in {FIGURES.name}: run with --write")
        elif value > committed[name] * TOLERANCE:
            faults.append(f"{name}: {value:,} against {committed[name]:,} committed")
    return faults


def write(gas: dict[str, float]) -> None:
    FIGURES.write_text(json.dumps(gas, indent=2) + "\n")
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{table(gas)}\n{END}{tail}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with Chain(ROOT) as chain:
        market = Market(chain)
        measure_registries(market)
        measure_channels(market)
        keys, ids = fill(market)
        measure_claims(market, keys, ids)
        measure_worst_distribution(market)
        gas = market.gas
    print(table(gas))
    if options.write:
        write(gas)
    faults = check(gas) if options.check else []
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
