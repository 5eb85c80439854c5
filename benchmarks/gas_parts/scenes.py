"""What the gas benchmark measures: every state-changing function, first and steady.

"First" meets storage that was empty, "steady" storage that was used before. Owns the scenes and the
names of the figures, "Contract.function, circumstance"; the people's moves are market.py's.
"""

from __future__ import annotations

from benchmarks.gas_parts.chain import Chain
from benchmarks.gas_parts.market import DAY_S, DEPOSIT_UNITS, LATER_S, LICENSE, Market

from viz.domain.license import Terms

QUERIES = 10_000
BUYERS, ADAPTERS, WORKS_EACH = 100, 10, 20
SOLD = Terms(1_000, 100, 0, DAY_S, 2, 31, False)
RENEWABLE = Terms(1_000, 100, DAY_S, DAY_S, 2, 31, False)
RARE, COMMON = Terms(1, 0, 0, 0, 0, 31, False), Terms(0, 0, 0, 0, 0, 31, False)


def measure_works(m: Market) -> None:
    """Works and their terms, by their owner's transaction and by signature."""
    a, b = m.person("author"), m.person("trainer of one")
    note, send = m.note, m.works.send
    note("ContentRegistry.register, first terms set", m.register_work(a, 1))
    note("ContentRegistry.register, steady", m.register_work(a, 2))
    sold = (SOLD.training_fee_units, SOLD.min_royalty_bps, 0, DAY_S, 2, 31, False)
    note("ContentRegistry.setTerms, new set", send(a, "setTerms", 1, b"\x12" * 32, sold))
    note("ContentRegistry.setTerms, known set", send(a, "setTerms", 2, b"\x12" * 32, sold))
    note("ContentRegistry.approveTrainer, first", send(a, "approveTrainer", 1, b, True))
    note("ContentRegistry.approveTrainer, taken back", send(a, "approveTrainer", 1, b, False))

    name = "author without gas"
    note("ContentRegistry.registerFor, first signature", m.register_relayed(name, 11, 0))
    note("ContentRegistry.registerFor, steady", m.register_relayed(name, 12, 1))
    last = int(m.works.call("contentCount"))
    note("ContentRegistry.setTermsFor, new set", m.set_terms_relayed(name, last, RARE, 2))
    note("ContentRegistry.setTermsFor, known set", m.set_terms_relayed(name, last, COMMON, 3))
    note("ContentRegistry.approveTrainerFor, first", m.approve_relayed(name, last, True, 4))
    note("ContentRegistry.approveTrainerFor, taken back", m.approve_relayed(name, last, False, 5))
    note("ContentRegistry.withdrawFor", m.withdraw_relayed(name, last, 6))

    buyer, agent = m.person("buyer of works"), m.person("agent")
    note("ContentRegistry.approve, first", send(a, "approve", agent, 1))
    note("ContentRegistry.setApprovalForAll, first", send(a, "setApprovalForAll", agent, True))
    note("ContentRegistry.setApprovalForAll, ended", send(a, "setApprovalForAll", agent, False))
    traded = []
    for salt in (21, 22, 23, 24):
        m.register_work(a, salt)
        traded.append(int(m.works.call("contentCount")))
    gas = send(a, "transferFrom", a, buyer, traded[0])
    note("ContentRegistry.transferFrom, first work of its buyer", gas)
    gas = send(a, "transferFrom", a, buyer, traded[1])
    note("ContentRegistry.transferFrom, steady", gas)
    gas = send(a, "safeTransferFrom", a, buyer, traded[2])
    note("ContentRegistry.safeTransferFrom, steady", gas)
    gas = send(a, "safeTransferFrom", a, buyer, traded[3], b"note")
    note("ContentRegistry.safeTransferFrom, with data", gas)


def measure_adapters(m: Market) -> None:
    """Grants, adapters, permissions, retirement."""
    a, b = m.person("author"), m.person("trainer of one")
    m.fund(b, m.works)
    note, terms = m.note, m.works.send
    note("ContentRegistry.acquireGrant, with a fee, first", m.grant(b, 1))
    terms(a, "setTerms", 2, LICENSE, (0, 0, 0, 0, 0, 31, False))
    note("ContentRegistry.acquireGrant, free, first", m.grant(b, 2))
    m.register_work(a, 31, RENEWABLE)
    renewable = int(m.works.call("contentCount"))
    m.grant(b, renewable)
    note("ContentRegistry.acquireGrant, with a fee, renewal", m.grant(b, renewable))
    name = "trainer without gas"
    m.token.send(m.node, "mint", m.person(name), 10**9)
    gas = m.grant_relayed(name, renewable, m.chain.key("first salt"))
    note("ContentRegistry.acquireGrantWithAuthorization, first", gas)
    gas = m.grant_relayed(name, renewable, m.chain.key("second salt"))
    note("ContentRegistry.acquireGrantWithAuthorization, renewal", gas)

    adapter_id, gas = m.register_adapter(b, [1, 2])
    note("AdapterRegistry.register, 2 works", gas)
    retired, gas = m.register_adapter(b, [1, 2])
    send = m.adapters.send
    note("AdapterRegistry.setServing, first", send(b, "setServing", adapter_id, m.node, True))
    note("AdapterRegistry.setServing, ended", send(b, "setServing", adapter_id, m.node, False))
    note("AdapterRegistry.setServing, again", send(b, "setServing", adapter_id, m.node, True))
    note("ContentRegistry.withdraw", terms(a, "withdraw", 1))
    shares = m.shares[adapter_id]
    note("AdapterRegistry.enforce, first", send(b, "enforce", adapter_id, shares, 0))
    note("AdapterRegistry.enforce, already retiring", send(b, "enforce", adapter_id, shares, 0))
    note("AdapterRegistry.retire, first", send(b, "retire", retired))
    note("AdapterRegistry.retire, already retiring", send(b, "retire", retired))


def measure_directory(m: Market) -> None:
    url, age = "https://node.example:8443", "age1" + "q" * 58
    note, announce, other = m.note, m.directory.send, m.person("another node")
    note("NodeDirectory.announce, first", announce(m.node, "announce", url, age))
    note("NodeDirectory.announce, replacing", announce(m.node, "announce", url, age))
    announce(other, "announce", url, age)
    note("NodeDirectory.remove, before the last", announce(m.node, "remove"))
    note("NodeDirectory.remove, the last", announce(other, "remove"))


def measure_token(m: Market) -> None:
    """The test dollar's own transactions: what no use of it can go without."""
    a, b = m.person("payer of dollars"), m.person("payee of dollars")
    m.fund(a, m.works)
    send, note = m.token.send, m.note
    send(a, "transfer", b, 5)
    note("TestUSD.transfer, steady", send(a, "transfer", b, 5))
    send(a, "approve", b, 2**256 - 1)
    note("TestUSD.transferFrom, steady, to the caller", send(b, "transferFrom", a, b, 5))
    nonce = m.chain.key("authorisation")
    message = {"from": a, "to": b, "value": 5, "validAfter": 0, "validBefore": LATER_S}
    key = m.chain.key("payer of dollars")
    word = m.chain.sign_transfer(key, m.token.address, {**message, "nonce": nonce})
    gas = send(b, "receiveWithAuthorization", a, b, 5, 0, LATER_S, nonce, word)
    note("TestUSD.receiveWithAuthorization, steady, signature as bytes", gas)


def measure_channels(m: Market) -> None:
    """Opening, topping up and leaving, by gas and by signature."""
    m.fund(m.payer, m.settlement)
    m.fund(m.person("sponsor"), m.settlement)
    m.open_by_gas(m.chain.key("very first"))
    key = m.chain.key("one buyer")
    signer = m.chain.address(key)
    note, send = m.note, m.settlement.send
    note("Settlement.open, first, signer another key", m.open_by_gas(key))
    gas = send(m.payer, "open", m.payer, m.node, 10**6, b"")
    note("Settlement.open, first, signer is the payer", gas)
    note("Settlement.open, again", send(m.payer, "open", signer, m.node, 10**6, b""))
    note("Settlement.topUp, steady", send(m.payer, "topUp", signer, m.node, m.payer, 10**6))
    gasless = m.chain.key("gasless buyer")
    address = m.chain.address(gasless)
    first = m.chain.key("salt" + address)
    gas = m.open_gasless(gasless, DEPOSIT_UNITS, first)
    note("Settlement.openWithAuthorization, first, signer another key", gas)
    gas = m.open_gasless(gasless, DEPOSIT_UNITS, m.chain.key("second salt"))
    note("Settlement.openWithAuthorization, again", gas)
    gas = m.open_gasless(m.payer_key, 10**6, m.chain.key("third salt"))
    note("Settlement.openWithAuthorization, again, signer is the payer", gas)
    gas = m.top_up_gasless(gasless, 10**6, m.chain.key("top-up salt"))
    note("Settlement.topUpWithAuthorization, steady", gas)

    note("Settlement.requestClose, first", send(m.payer, "requestClose", signer, m.node))
    gas = m.request_close_relayed(address, LATER_S)
    note("Settlement.requestCloseFor, first", gas)
    note("Settlement.closeNow", m.close_now(address))
    m.chain.sleep(DAY_S)
    note("Settlement.withdraw, first", send(m.node, "withdraw", signer, m.node))
    note("Settlement.open, after a withdrawal", m.open_by_gas(key))
    m.open_by_gas(gasless)
    note("Settlement.requestClose, again", send(m.payer, "requestClose", signer, m.node))
    gas = m.request_close_relayed(address, LATER_S + 1)
    note("Settlement.requestCloseFor, again", gas)
    m.chain.sleep(DAY_S)
    note("Settlement.withdraw, again", send(m.node, "withdraw", signer, m.node))
    cold = m.person("cold")
    note("Settlement.setPayoutAddress, first", send(m.node, "setPayoutAddress", cold))
    note("Settlement.setPayoutAddress, replacing", send(m.node, "setPayoutAddress", cold))


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
    note = m.note
    first = m.claim(keys, ids)
    note(f"Settlement.claim {BUYERS}x{ADAPTERS}, first, a line", first / (BUYERS * ADAPTERS))
    for buyers in (1, 10, 100):
        for adapters in (1, 10):
            gas = m.claim(keys[:buyers], ids[:adapters])
            name = f"Settlement.claim {buyers}x{adapters}, steady"
            note(f"{name}, the batch", gas)
            note(f"{name}, a buyer", gas / buyers)
            note(f"{name}, a line", gas / (buyers * adapters))

    payer, send = m.payer, m.settlement.send
    unpaid, _ = m.register_adapter(m.person("trainer 0"), [i >> 16 for i in m.shares[ids[0]]])
    note("Settlement.pay, first", send(payer, "pay", unpaid, m.node, 10**6))
    note("Settlement.pay, steady", send(payer, "pay", ids[0], m.node, 10**6))
    gas = send(payer, "distribute", ids[0], m.shares[ids[0]])
    note("Settlement.distribute, 20 works, first, a creator", gas / WORKS_EACH)
    send(payer, "pay", ids[0], m.node, 10**6)
    gas = send(payer, "distribute", ids[0], m.shares[ids[0]])
    note("Settlement.distribute, 20 works, steady, a creator", gas / WORKS_EACH)
    calls = [m.settlement.encode("distribute", i, m.shares[i]) for i in ids]
    send(payer, "multicall", calls)
    note("Settlement.collect, first", send(payer, "collect", m.node))
    for n in range(ADAPTERS):
        send(payer, "collect", m.person(f"trainer {n}"))

    # One period in steady state, everybody having been paid before.
    settle = m.claim(keys, ids)
    pay = note("Settlement.multicall, 10 distributions of 20", send(payer, "multicall", calls))
    name = "Settlement.distribute, 10 adapters x 20 works, steady, a creator"
    note(name, pay / (ADAPTERS * WORKS_EACH))
    collect = note("Settlement.collect, steady", send(payer, "collect", m.node))
    trainers = sum(send(payer, "collect", m.person(f"trainer {n}")) for n in range(ADAPTERS))
    note("workload, settle, a query", settle / QUERIES)
    note("workload, all in, a query", (settle + pay + collect) / QUERIES)
    all_in = (settle + pay + collect + trainers) / QUERIES
    note("workload, all in, ten trainers collecting too", all_in)


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
    m.note("Settlement.distribute, 128 burning transfers", gas)


# A token for that one figure, by hand: transfer burns all it is given, transferFrom adds its amount
# to slot 0 and returns true, anything else returns slot 0 (the balance).
#   selector := calldata[0] >> 224; a9059cbb -> loop; 23b872dd -> add; else return sload(0)
BURNING_TOKEN = bytes.fromhex(
    "5f3560e01c8063a9059cbb146020576323b872dd14602457"  # 00: the selector decides
    "5f545f5260205ff3"  # 18: return slot 0
    "5b602056"  # 20: burn
    "5b6044355f54015f5560015f5260205ff3"  # 24: add, return true
)


def measure(chain: Chain) -> dict[str, float]:
    """Run every scene on a fresh chain; return the figures by name."""
    market = Market(chain)
    measure_works(market)
    measure_adapters(market)
    measure_directory(market)
    measure_token(market)
    measure_channels(market)
    keys, ids = fill(market)
    measure_claims(market, keys, ids)
    measure_worst_distribution(market)
    return market.gas
