"""Whatever JSON an endpoint answers is a value of the right shape, or an error that is asked again.

A matrix of every method and many odd answers: nothing but ``ChainUnreachable`` may come out, for it
is what every loop of the node waits for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT, address_of
from tests.fakes.json_rpc import Endpoint, endpoint

from viz.chain import reach, scan
from viz.chain.contracts import Chain
from viz.chain.endpoint import NotSupported, RateLimited, TooMuchAsked
from viz.chain.rpc import BlockNotKnown, Rpc
from viz.domain.units import AdapterId, ContentId, Hash32
from viz.errors import ChainError, ChainMismatch, ChainUnreachable, TransactionFailed

HASH, OTHER = "0x" + "11" * 32, "0x" + "22" * 32
WHO = address_of(5)
HEADER = {"number": "0x10", "hash": HASH, "parentHash": OTHER, "timestamp": "0x65000000"}
LOG = {
    "address": DEPLOYMENT.settlement,
    "topics": [HASH],
    "data": "0x",
    "blockNumber": "0x1",
    "blockHash": HASH,
    "transactionHash": HASH,
    "logIndex": "0x0",
}
RECEIPT = {
    "transactionHash": HASH,
    "status": "0x1",
    "blockNumber": "0x10",
    "gasUsed": "0x5208",
    "contractAddress": None,
    "logs": [LOG],
}
ODD: tuple[Any, ...] = (
    None,
    {},
    [],
    True,
    False,
    "",
    "0x",
    "0xzz",
    "latest",
    16,
    -1,
    1e300,
    "0x" + "f" * 65,
    "0x" + "f" * 64,
    "0x-1",
    "0x 1",
    [[]],
    [None],
    [True],
    ["0x1"],
    {"number": None},
    {"result": "0x1"},
    "0x" + "f" * 100_000,
    "é" * 3,
)
Question = Callable[[Rpc], Awaitable[Any]]
METHODS: dict[str, tuple[str, Question]] = {
    "chain id": ("eth_chainId", lambda rpc: rpc.chain_id()),
    "head": ("eth_blockNumber", lambda rpc: rpc.block_number()),
    "newest block": ("eth_getBlockByNumber", lambda rpc: rpc.block()),
    "block": ("eth_getBlockByNumber", lambda rpc: rpc.block(16)),
    "code": ("eth_getCode", lambda rpc: rpc.code(WHO)),
    "balance": ("eth_getBalance", lambda rpc: rpc.balance_wei(WHO)),
    "call": ("eth_call", lambda rpc: rpc.call(WHO, b"")),
    "estimate": ("eth_estimateGas", lambda rpc: rpc.estimate_gas(WHO, b"", WHO)),
    "base fee": ("eth_getBlockByNumber", lambda rpc: rpc.fees()),
    "tip": ("eth_maxPriorityFeePerGas", lambda rpc: rpc.fees()),
    "nonce": ("eth_getTransactionCount", lambda rpc: rpc.transaction_count(WHO)),
    "mined": ("eth_getTransactionCount", lambda rpc: rpc.mined_count(WHO)),
    "broadcast": ("eth_sendRawTransaction", lambda rpc: rpc.broadcast(b"\x02")),
    "transaction": ("eth_getTransactionByHash", lambda rpc: rpc.knows(Hash32(b"\x11" * 32))),
    "receipt": ("eth_getTransactionReceipt", lambda rpc: rpc.receipt(Hash32(b"\x11" * 32))),
    "logs": ("eth_getLogs", lambda rpc: rpc.logs([DEPLOYMENT.settlement], 0, 9)),
}
# What is no nonsense: there is no such thing, no bytes, no logs, a chain without a base fee, and
# any bytes where bytes are what is asked for.
MEANT = {
    ("block", "None"), ("transaction", "None"), ("receipt", "None"), ("logs", "[]"),
    *((name, repr(value)) for name in ("code", "call")
      for value in ("0x", "0x" + "f" * 64, "0x" + "f" * 100_000)),
    ("broadcast", repr("0x" + "f" * 64)),
    *(("base fee", repr(value)) for value in ({}, {"number": None}, {"result": "0x1"})),
}  # fmt: skip


@pytest.fixture
async def told() -> AsyncIterator[tuple[Endpoint, Rpc]]:
    async with endpoint() as served:
        served.told = {"eth_getBlockByNumber": {"result": HEADER | {"baseFeePerGas": "0x7"}}}
        served.told["eth_maxPriorityFeePerGas"] = {"result": "0x1"}
        rpc = Rpc(served.url, timeout_s=5)
        yield served, rpc
        await rpc.close()


async def outcome(question: Awaitable[Any]) -> str:
    try:
        await question
    except ChainUnreachable as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        return "asked again"
    except BlockNotKnown:
        return "no such block"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "a value"


@pytest.mark.parametrize("name", METHODS)
async def test_a_result_of_another_shape_is_the_endpoints_fault(
    told: tuple[Endpoint, Rpc], name: str
) -> None:
    """null, {}, [], true, text, huge and negative numbers: ChainUnreachable from every method."""
    served, rpc = told
    method, ask = METHODS[name]
    for odd in ODD:
        served.told[method] = {"result": odd}
        want = "a value" if (name, repr(odd)) in MEANT else "asked again"
        if (name, odd) == ("block", None):
            want = "no such block"
        assert (name, odd, await outcome(ask(rpc))) == (name, odd, want)


async def test_a_log_of_a_replaced_block_is_none(told: tuple[Endpoint, Rpc]) -> None:
    """An audit took an endpoint's own removed logs as what the chain has."""
    served, rpc = told
    served.told["eth_getLogs"] = {"result": [LOG | {"removed": False}]}
    assert await outcome(rpc.logs([DEPLOYMENT.settlement], 0, 9)) == "a value"
    served.told["eth_getLogs"] = {"result": [LOG | {"removed": True}]}
    assert await outcome(rpc.logs([DEPLOYMENT.settlement], 0, 9)) == "asked again"


WHOLE: tuple[Any, ...] = (
    [],
    [{"result": "0x1"}],
    {},
    {"error": {}},
    {"error": True},
    {"error": []},
    {"error": {"code": "x", "message": None}},
    {"error": {"code": 10**40, "message": ["no"]}},
    "",
    "null",
    "true",
    '"0x1"',
    "not JSON",
    "[" * 100_000,
    '{"result": NaN}',
    '{"result": 1' + "0" * 5_000 + "}",
    "\x00\xff",
    404,
    500,
)


@pytest.mark.parametrize("name", METHODS)
async def test_an_answer_that_is_no_json_rpc_is_the_endpoints_fault(
    told: tuple[Endpoint, Rpc], name: str
) -> None:
    """Lists, no JSON, deep nesting, empty error objects and HTTP errors: ChainUnreachable."""
    served, rpc = told
    method, ask = METHODS[name]
    for whole in WHOLE:
        served.told[method] = whole
        assert (name, whole, await outcome(ask(rpc))) == (name, whole, "asked again")


MEMBERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "block": (HEADER, tuple(HEADER)),
    "newest block": (HEADER, tuple(HEADER)),
    "receipt": (RECEIPT, ("transactionHash", "status", "blockNumber", "gasUsed", "logs")),
    "transaction": ({"hash": HASH}, ("hash",)),
}


@pytest.mark.parametrize("name", MEMBERS)
async def test_each_member_that_is_used_is_judged(told: tuple[Endpoint, Rpc], name: str) -> None:
    """A missing member, or one of another shape, is found wherever it is; no other one matters."""
    served, rpc = told
    (whole, members), (method, ask) = MEMBERS[name], METHODS[name]
    served.told[method] = {"result": whole | {"extraData": "0x" + "ab" * 97, "miner": None}}
    assert await outcome(ask(rpc)) == "a value"
    for member in members:
        without = {key: value for key, value in whole.items() if key != member}
        served.told[method] = {"result": without}
        assert (member, await outcome(ask(rpc))) == (member, "asked again")
        for odd in ODD:
            if (member, odd) in (("blockNumber", None), ("logs", [])):
                continue  # a receipt of a transaction that is in no block yet, one without logs
            if (member, odd) in ((each, "0x" + "f" * 64) for each in ("hash", "parentHash")):
                continue  # a hash like any other
            served.told[method] = {"result": whole | {member: odd}}
            assert (member, odd, await outcome(ask(rpc))) == (member, odd, "asked again")


async def test_each_member_of_a_log_is_judged(told: tuple[Endpoint, Rpc]) -> None:
    """Logs of other contracts or blocks, pending ones and malformed ones are not taken."""
    served, rpc = told
    _, ask = METHODS["logs"]
    served.told["eth_getLogs"] = {"result": [LOG]}
    assert await outcome(ask(rpc)) == "a value"
    wrong: list[dict[str, Any]] = [
        {key: value for key, value in LOG.items() if key != member} for member in LOG
    ]
    shapes: tuple[Any, ...] = (None, True, {}, 7, "0x1x", [7])
    wrong += [LOG | {member: shape} for member in LOG for shape in shapes]
    wrong += [LOG | {"blockNumber": "0xa"}, LOG | {"address": WHO}, LOG | {"topics": [HASH] * 5}]
    for log in wrong:
        served.told["eth_getLogs"] = {"result": [log]}
        assert (log, await outcome(ask(rpc))) == (log, "asked again")


READS: dict[str, Callable[[Chain], Awaitable[Any]]] = {
    "channel": lambda chain: chain.channel(WHO, WHO),
    "servable": lambda chain: chain.servable(AdapterId(1), WHO),
    "collectable": lambda chain: chain.collectable(WHO),
    "undistributed": lambda chain: chain.undistributed(AdapterId(1)),
    "balance": lambda chain: chain.token_balance(WHO),
    "adapter": lambda chain: chain.adapter(AdapterId(1)),
    "content": lambda chain: chain.content(ContentId(1)),
    "terms": lambda chain: chain.terms(Hash32(b"\1" * 32)),
    "nonce": lambda chain: chain.registration_nonce(WHO),
    "token": lambda chain: chain.token_domain(),
    "preview": lambda chain: chain.preview_claim(WHO, b""),
    "delay": lambda chain: chain.settlement.close_delay_s(),
    "directory": lambda chain: chain.directory.entries(),
}

WIDE = dict.fromkeys(
    ("servable", "channel", "token", "directory", "terms"), ("0x" + "ff" * 33, "0x" + "ff" * 320)
)


@pytest.mark.parametrize("read", READS)
async def test_bytes_that_fit_no_abi_are_the_endpoints_fault(
    told: tuple[Endpoint, Rpc], read: str
) -> None:
    """What a contract cannot have answered is not believed, nor does it end a loop."""
    served, rpc = told
    chain = Chain(rpc, DEPLOYMENT)
    words = ("0x", "0x00", "0x" + "ff" * 31, "0x" + "ff" * 33, "0x" + "ff" * 320)
    for odd in (
        words if read in ("servable", "channel", "token", "directory", "terms") else words[:3]
    ):
        served.told["eth_call"] = {"result": odd}
        assert (odd, await outcome(READS[read](chain))) == (odd, "asked again")


RATE_LIMITS = (
    {"error": {"code": -32005, "message": "request rate limited, try again in 1 s"}},
    {"error": {"code": -32005, "message": "limit exceeded"}},
    {"error": {"code": 429, "message": "Your app has exceeded its compute units per second"}},
    {"error": {"code": -32000, "message": "Too Many Requests"}},
    {"error": {"code": -32000, "message": "exceeded max allowed rps"}},
    {"error": {"code": -32029, "message": "sorry"}},
    {"error": {"code": "-32005", "message": "project ID request rate exceeded"}},
    {"error": {"code": -32005, "message": "daily request count exceeded, request rate limited"}},
    {"error": {"code": -32603, "message": "server is busy, please retry later"}},
    {"error": "rate limit reached"},
    {"message": "API rate limit exceeded"},
    429,
)
RANGES = (
    {"error": {"code": -32005, "message": "query returned more than 10000 results"}},
    {"error": {"code": -32602, "message": "query exceeds max block range 1000"}},
    {"error": {"code": -32000, "message": "block range is too wide"}},
    {"error": {"code": -32600, "message": "eth_getLogs is limited to a 10,000 range"}},
    {"error": {"code": -32005, "message": "exceed maximum block range: 5000, retry with less"}},
    {"error": {"code": -32602, "message": "Log response size exceeded. You can make eth_getLogs "
               "requests with up to a 2K block range"}},
    {"error": {"code": -32000, "message": "query timeout exceeded"}},
    413,
)  # fmt: skip


@pytest.mark.parametrize("limit", RATE_LIMITS, ids=json.dumps)
async def test_a_rate_limit_is_one_kind_however_it_is_said(
    told: tuple[Endpoint, Rpc], limit: Any
) -> None:
    """In JSON or as HTTP 429: the same question later, and no flood of smaller ones now."""
    served, rpc = told
    served.everything, served.told = limit, {}
    for name, (_, ask) in METHODS.items():
        with pytest.raises(RateLimited):
            await ask(rpc)
            raise AssertionError(name)
    served.asked.clear()
    with pytest.raises(RateLimited):
        _ = [log async for log in scan.scan(rpc, [WHO], 0, 1_000_000, ())]
    assert len(served.asked) <= 3


@pytest.mark.parametrize("limit", RANGES, ids=json.dumps)
async def test_a_range_that_is_too_wide_is_halved(told: tuple[Endpoint, Rpc], limit: Any) -> None:
    """Refusals that speak of blocks, results or size end in fewer blocks, and all are read."""
    served, rpc = told
    ranges: list[tuple[int, int]] = []

    def answer(question: dict[str, Any]) -> Any:
        asked = question["params"][0]
        first, last = int(asked["fromBlock"], 16), int(asked["toBlock"], 16)
        if last - first >= 300:
            return limit
        ranges.append((first, last))
        return {"result": []}

    served.told["eth_getLogs"] = answer
    assert [log async for log in scan.scan(rpc, [WHO], 0, 999, ())] == []
    assert [block for first, last in ranges for block in range(first, last + 1)] == [*range(1_000)]


async def test_an_unclear_refusal_costs_few_questions(told: tuple[Endpoint, Rpc]) -> None:
    """Words that nobody knows are neither taken for a range for ever, nor given up at once."""
    served, rpc = told
    served.told["eth_getLogs"] = {"error": {"code": -32000, "message": "nope"}}
    with pytest.raises(ChainUnreachable):
        _ = [log async for log in scan.scan(rpc, [WHO], 0, 1_000_000, ())]
    assert len(served.asked) == 3


async def test_what_a_transaction_lacks_is_no_fault_of_the_endpoint(
    told: tuple[Endpoint, Rpc],
) -> None:
    """No coin, a used nonce, a revert: said as such, since asking again would not help."""
    served, rpc = told
    for message in ("insufficient funds for gas * price + value", "nonce too low", "intrinsic gas"):
        served.told["eth_sendRawTransaction"] = {"error": {"code": -32000, "message": message}}
        with pytest.raises(ChainError, match=message[:10]) as caught:
            await rpc.broadcast(b"\2")
        assert not isinstance(caught.value, ChainUnreachable)
        assert caught.value.quotes, "the endpoint's own words are for the operator"
    for error in (
        {"code": 3, "message": "execution reverted", "data": "0x"},
        {"code": -32000, "message": "execution reverted: no"},
        {"code": -32015, "message": "VM execution error.", "data": "Reverted 0x"},
        {"code": 3, "message": None, "data": {"data": "0xzz"}},
    ):
        served.told["eth_call"] = {"error": error}
        with pytest.raises(TransactionFailed):
            await rpc.call(WHO, b"")


@pytest.mark.parametrize(
    "message",
    [
        "gas required exceeds allowance (16777216)",
        "out of gas",
        "transaction gas limit too high (cap: 16777216, tx: 30000000)",
        "intrinsic gas too high -- tx.gas_limit > env.block.gas_limit",
        "exceeds block gas limit",
    ],
)
async def test_a_call_that_needs_too_much_gas_is_refused_as_such(
    told: tuple[Endpoint, Rpc], message: str
) -> None:
    """So that a claim is halved: it stopped all claims."""
    served, rpc = told
    error = {"error": {"code": -32000, "message": message}}
    served.told |= {"eth_call": error, "eth_estimateGas": error}
    with pytest.raises(TransactionFailed, match=message[:9]):
        await rpc.call(WHO, b"")
    with pytest.raises(TransactionFailed):  # it does not say that there is none
        await Chain(rpc, DEPLOYMENT).contents.content(ContentId(1))
    with pytest.raises(TransactionFailed, match=message[:9]):
        await rpc.estimate_gas(WHO, b"", WHO)


@pytest.mark.parametrize(
    "message",
    ["Upfront cost exceeds account balance", "InsufficientFunds, Account balance: 0, cost: 9"],
)
async def test_an_account_without_coin_is_told_so_in_any_clients_words(
    told: tuple[Endpoint, Rpc], message: str
) -> None:
    """Besu's and Nethermind's: a refusal of the transaction, not of the endpoint."""
    served, rpc = told
    served.told["eth_sendRawTransaction"] = {"error": {"code": -32000, "message": message}}
    with pytest.raises(ChainError, match="Send the account coins") as caught:
        await rpc.broadcast(b"\2")
    assert not isinstance(caught.value, ChainUnreachable)


async def test_a_chain_without_a_suggested_tip_has_fees(told: tuple[Endpoint, Rpc]) -> None:
    """Endpoints without eth_maxPriorityFeePerGas are served with a tip of one gwei."""
    served, rpc = told
    served.told["eth_maxPriorityFeePerGas"] = {"error": {"code": -32601, "message": "no"}}
    assert (await rpc.fees()).priority_fee_wei == 10**9
    served.told["eth_getLogs"] = {"error": {"code": -32000, "message": "missing trie node"}}
    with pytest.raises(NotSupported):
        await rpc.logs([WHO], 0, 9)
    served.told["eth_getLogs"] = {"error": {"code": -32000, "message": "block range too large"}}
    with pytest.raises(TooMuchAsked):
        await rpc.logs([WHO], 0, 9)


async def test_a_chain_that_starts_later_is_waited_for(
    told: tuple[Endpoint, Rpc], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node beside its chain need not be started second, where its operator says so."""
    served, rpc = told
    monkeypatch.setattr(reach, "POLL_S", 0)
    refused = [503, {"result": None}, {"error": {"code": -32000, "message": "starting"}}] * 3

    def answer(_: dict[str, Any]) -> Any:
        return refused.pop() if refused else {"result": hex(DEPLOYMENT.chain_id + 1)}

    served.told["eth_chainId"] = answer
    with pytest.raises(ChainUnreachable):
        await reach.check_when_reached(rpc, DEPLOYMENT, wait_s=0)
    with pytest.raises(ChainMismatch, match="correct rpc_url"):
        await reach.check_when_reached(rpc, DEPLOYMENT, wait_s=60)
    assert not refused


async def test_the_next_blocks_time_is_read_where_there_is_one(
    told: tuple[Endpoint, Rpc],
) -> None:
    """A pending block has no hash yet; endpoints without one are no fault."""
    served, rpc = told
    served.told["eth_getBlockByNumber"] = {"result": {"timestamp": "0x7", "hash": None}}
    assert await rpc.next_block_time_s() == 7
    for answer in ({"result": None}, {"error": {"code": -32601, "message": "no pending"}}):
        served.told["eth_getBlockByNumber"] = answer
        assert await rpc.next_block_time_s() is None


async def test_many_logs_in_one_answer_are_read(told: tuple[Endpoint, Rpc]) -> None:
    """An answer of an endpoint is large where history is: no bound of strangers' JSON is its."""
    served, rpc = told
    served.told["eth_getLogs"] = {"result": [LOG] * 5_000}
    assert len(await rpc.logs([DEPLOYMENT.settlement], 0, 9)) == 5_000
