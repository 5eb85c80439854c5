"""What a work earned, on anvil: royalties and statements from the logs, made again and compared."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from tests.integration.chain.testnet import Testnet, address
from tests.integration.creator.relay_desk import CHAIN, INPUT, LICENSE, OwnerDesk, new_owner

from viz.chain.keys import development_account
from viz.domain.claim_rows import SignedVoucher, pack_rows
from viz.domain.shares import Share, share_words
from viz.domain.units import ZERO_HASH, AdapterId, ContentId
from viz.domain.usage import UsageLine

BUYERS = (development_account(7), development_account(8))
NODE = 5


async def sold(net: Testnet) -> tuple[ContentId, ContentId, int]:
    """Two works of two creators in one adapter; two buyers pay 1,001 and 2,002 units of it."""
    first = await net.register_work(net.sender(2))
    second = await net.register_work(net.sender(3))
    adapter = await net.register_adapter(net.sender(4), [first, second])
    node = net.sender(NODE)
    await net.done(net.sender(4), "AdapterRegistry", "setServing", adapter, node.address, True)
    for buyer in BUYERS:
        await net.open_channel(net.sender(6), buyer, node.address, 100_000)
    await claim(net, adapter, 0, (1_001, 2_002))
    return first, second, adapter


async def claim(net: Testnet, adapter: int, base: int, amounts: tuple[int, ...]) -> None:
    node, rows = net.sender(NODE), []
    for buyer, units in zip(BUYERS, amounts, strict=False):
        lines = (UsageLine(AdapterId(adapter), units),)
        signature = net.voucher(buyer, node.address, base, lines)
        rows.append(SignedVoucher(base, ZERO_HASH, lines, signature))
    await net.done(node, "Settlement", "claim", pack_rows(rows))


async def distribute(net: Testnet, adapter: int) -> None:
    state = await net.chain.adapter(AdapterId(adapter))
    assert state is not None
    words = list(share_words(Share(*row) for row in state.shares))
    await net.done(net.sender(0), "Settlement", "distribute", adapter, words)


async def statement(desk: OwnerDesk, net: Testnet, *words: object) -> Any:
    rpc = ("--rpc", net.anvil.url)
    found = await desk.json("content", "statement", *words, *rpc, key=False, yes=False)
    return found["statements"][0]


async def test_a_statement_is_every_unit_and_can_be_made_again(
    net: Testnet, tmp_path: Path
) -> None:
    """Fee, earnings by node and rate, payments by owner; the sums are the chain's own balances."""
    desk = new_owner(tmp_path / "home", net)
    first, second, adapter = await sold(net)
    owner = net.sender(2).address
    had = await net.chain.token_balance(owner)
    await distribute(net, adapter)
    await claim(net, adapter, 1_001, (3_003,))
    found = await statement(desk, net, first)
    kinds = [line["kind"] for line in found["lines"]]
    assert kinds == ["fee", "earned", "paid", "earned"]
    fee, earned, paid, later = found["lines"]
    assert (fee["account"], fee["units"]) == (net.sender(4).address, "100")
    assert (earned["node"], earned["gross"], earned["vouchers"]) == (
        net.sender(NODE).address, "3003", 2,
    )  # fmt: skip
    assert (earned["royaltyBps"], earned["shareBps"]) == (3_000, 5_000)
    assert earned["works"] == "900" and earned["units"] == paid["units"] == "450"
    assert int(paid["units"]) == await net.chain.token_balance(owner) - had
    assert later["units"] == found["sums"]["waitingAfter"] == "450"
    assert found["sums"]["earned"] == "900" and found["sums"]["fees"] == "100"

    path = tmp_path / "statement.json"
    path.write_text(json.dumps({"statements": [found]}), encoding="utf-8")
    check = ("content", "statement", first, "--check", path, "--rpc", net.anvil.url)
    same = await desk.viz(*check, key=False, yes=False)
    assert same.exit_code == 0 and "in every line" in same.stdout, same.output
    for old, new, said in (
        ('"450"', '"451"', 'lines[1].units: it says "451", and the chain has "450"'),
        (owner, net.sender(9).address, "lines[1].account: "),
        ("3000", "3001", "adapters[0].royaltyBps: it says 3001"),
        ('"toTime"', '"bonus": 1, "toTime"', "bonus: no statement on this chain has this"),
        ('"fees": "100"', '"fees": "100", "bonus": "0"', "sums.bonus: "),
        (f'"tokenDecimals": {found["tokenDecimals"]}', '"tokenDecimals": 6.0', "tokenDecimals: "),
    ):
        path.write_text(json.dumps({"statements": [found]}).replace(old, new), encoding="utf-8")
        differs = await desk.viz(*check, key=False, yes=False)
        assert differs.exit_code == 13 and said in differs.stderr, differs.output
        assert f"the statement of work {first}" in differs.stderr
        assert "in every line" not in differs.stdout
    twice = {"statements": [found, found]}
    path.write_text(json.dumps(twice), encoding="utf-8")
    done = await desk.viz(*check, key=False, yes=False)
    assert done.exit_code == INPUT and "one of them twice" in done.stderr, done.output
    once = await desk.json(
        "content", "statement", first, first, "--rpc", net.anvil.url, key=False, yes=False
    )
    assert len(once["statements"]) == 1
    later = {**found, "toBlock": 9_999}
    path.write_text(json.dumps({"statements": [later]}), encoding="utf-8")
    short = await desk.viz(*check, key=False, yes=False)
    assert short.exit_code == CHAIN and "another endpoint with --rpc" in short.stderr, short.output
    assert "older" not in short.stderr, "the file's block cannot be chosen anew"
    elsewhere = {**found, "settlement": net.sender(9).address}
    path.write_text(json.dumps({"statements": [elsewhere]}), encoding="utf-8")
    other = await desk.viz(*check, key=False, yes=False)
    assert other.exit_code == CHAIN and "--deployment" in other.stderr, other.output
    # All that the file states is checked, also of works that were not named.
    unnamed = await statement(desk, net, second)
    false = json.loads(json.dumps(unnamed))
    false["sums"]["earned"] = "1"
    for after, code in ((unnamed, 0), (false, 13)):
        path.write_text(json.dumps({"statements": [found, after]}), encoding="utf-8")
        both = await desk.viz(*check, key=False, yes=False)
        assert both.exit_code == code, both.output
    assert f"the statement of work {second}, sums.earned" in both.stderr
    told = await desk.viz(*check, "--json", key=False, yes=False)
    assert told.exit_code == 13 and json.loads(told.stdout)["verdict"] == "different"
    path.write_text(json.dumps({"statements": [found], "total": "1"}), encoding="utf-8")
    more = await desk.viz(*check, key=False, yes=False)
    assert more.exit_code != 0 and "is not a statement" in more.stderr, more.output


async def test_a_period_begins_with_what_waited(net: Testnet, tmp_path: Path) -> None:
    """Periods add up: what waits after one waits before the next."""
    desk = new_owner(tmp_path / "home", net)
    work, _, adapter = await sold(net)
    middle = await net.rpc.block_number() + 1
    await claim(net, adapter, 1_001, (999,))
    before = await statement(desk, net, work, "--to", middle)
    after = await statement(desk, net, work, "--from", middle)
    assert before["sums"]["waitingAfter"] == after["sums"]["waitingBefore"]
    assert [line["kind"] for line in after["lines"]] == ["earned"]
    assert len(before["lines"]) == 2
    day = await statement(desk, net, work, "--from", "2020-01-01")
    assert len(day["lines"]) == 3
    told = await desk.viz(
        "content", "statement", work, "--csv", "--rpc", net.anvil.url, key=False, yes=False
    )
    rows = list(csv.DictReader(io.StringIO(told.stdout)))
    assert [row["kind"] for row in rows] == ["fee", "earned", "earned"]
    # What a line does not have is empty, as it is left out of the JSON: neither 0 nor False.
    assert (rows[0]["gross"], rows[0]["works"], rows[0]["vouchers"]) == ("", "", "")
    assert {row["credited"] for row in rows} == {""}
    told = await desk.viz(
        "content", "statement", work, "--rpc", net.anvil.url, key=False, yes=False
    )
    assert "50 % of 30 %" in told.stdout and "royalties that wait now" in told.stdout


async def test_rates_after_retirement_are_those_that_were_paid(
    net: Testnet, tmp_path: Path
) -> None:
    """Then the works get all. A statement that was made with the agreed rate still checks."""
    desk = new_owner(tmp_path / "home", net)
    work, _, adapter = await sold(net)
    await net.done(net.sender(4), "AdapterRegistry", "retire", adapter)
    state = await net.chain.adapter(AdapterId(adapter))
    assert state is not None
    await net.rpc.request("evm_setNextBlockTimestamp", [hex(state.retires_at + 1)])
    await claim(net, adapter, 1_001, (1_000,))
    await distribute(net, adapter)
    found = await statement(desk, net, work)
    before, after, paid = (line for line in found["lines"] if line["kind"] != "fee")
    assert (before["gross"], before["works"], before["royaltyBps"]) == ("3003", "900", 3_000)
    assert (after["gross"], after["works"], after["royaltyBps"]) == ("1000", "1000", 10_000)
    assert paid["works"] == "1900" and "royaltyBps" not in paid
    rpc = ("--rpc", net.anvil.url)
    told = await desk.viz("content", "statement", work, *rpc, key=False, yes=False)
    assert "50 % of 30 % " in told.stdout and "50 % of 100 %" in told.stdout, told.output
    assert "50 % of 30 % and 100 %" in told.stdout and "after an adapter's ret" in told.stdout
    told = await desk.viz("content", "royalties", work, *rpc, key=False, yes=False)
    assert " 30 % and 100 % " in told.stdout and "after an adapter's ret" in told.stdout
    told = await desk.viz("content", "statement", work, "--csv", *rpc, key=False, yes=False)
    rows = list(csv.DictReader(io.StringIO(told.stdout)))
    assert [row["royaltyBps"] for row in rows] == ["", "3000", "10000", ""]

    path = tmp_path / "statement.json"
    agreed = json.loads(json.dumps(found))
    for line in agreed["lines"][1:]:
        line["royaltyBps"] = 3_000
    mixed = json.loads(json.dumps(agreed))
    mixed["lines"][2]["royaltyBps"] = 10_000
    check = ("content", "statement", work, "--check", path, *rpc)
    for said, code in ((found, 0), (agreed, 0), (mixed, 13)):
        path.write_text(json.dumps({"statements": [said]}), encoding="utf-8")
        done = await desk.viz(*check, key=False, yes=False)
        assert done.exit_code == code, done.output


async def test_a_buyer_of_the_work_is_paid_and_named(net: Testnet, tmp_path: Path) -> None:
    """A line of a payment names the owner of that moment, not the one who registered the work."""
    desk = new_owner(tmp_path / "home", net)
    work, _, adapter = await sold(net)
    seller, buyer = net.sender(2), address(development_account(9))
    await net.done(seller, "ContentRegistry", "transferFrom", seller.address, buyer, work)
    await distribute(net, adapter)
    found = await statement(desk, net, work)
    (paid,) = (line for line in found["lines"] if line["kind"] == "paid")
    assert paid["account"] == buyer and paid["units"] == "450"
    assert await net.chain.token_balance(buyer) == 450


async def test_royalties_are_shown_and_paid_out(net: Testnet, tmp_path: Path) -> None:
    """Who does not want to wait for a node distributes with its own gas."""
    desk = new_owner(tmp_path / "home", net)
    work, _, adapter = await sold(net)
    await net.anvil.fund(desk.owner)
    rpc = ("--rpc", net.anvil.url)
    told = await desk.viz("content", "royalties", work, *rpc, key=False, yes=False)
    assert told.exit_code == 0 and "0.000450 vUSD" in told.stdout, told.output
    done = await desk.json("content", "royalties", work, "--distribute", *rpc)
    assert done["distributed"] == [adapter]
    assert await net.chain.undistributed(AdapterId(adapter)) == 0
    unpaid = await desk.viz("content", "royalties", work, "--distribute", *rpc, key=False)
    assert unpaid.exit_code == INPUT and "--key" in unpaid.stderr


async def test_a_statement_over_a_reorganised_block_is_refused(
    net: Testnet, tmp_path: Path
) -> None:
    """The block that a statement ends with is gone: no line is compared with another branch."""
    desk = new_owner(tmp_path / "home", net)
    snapshot = await net.rpc.request("evm_snapshot")
    work, _, _ = await sold(net)
    found = await statement(desk, net, work)
    path = tmp_path / "statement.json"
    path.write_text(json.dumps({"statements": [found]}), encoding="utf-8")
    await net.rpc.request("evm_revert", [snapshot])
    await net.rpc.request("evm_increaseTime", [60])
    await net.register_work(net.sender(2))
    await net.rpc.request("anvil_mine", [hex(found["toBlock"])])
    check = ("content", "statement", work, "--check", path, "--rpc", net.anvil.url)
    done = await desk.viz(*check, key=False, yes=False)
    assert done.exit_code == CHAIN and "reorganised" in done.stderr, done.output


async def test_bad_questions_are_one_line(net: Testnet, tmp_path: Path) -> None:
    desk = new_owner(tmp_path / "home", net)
    work = await net.register_work(net.sender(2))
    rpc = ("--rpc", net.anvil.url)
    none = tmp_path / "none.json"
    none.write_text("[]", encoding="utf-8")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((99,), LICENSE, "there is no work 99"),
        ((work, "--from", "soon"), INPUT, "neither a day"),
        ((work, "--from", 9, "--to", 3), INPUT, "--from 9 --to 3 holds no block"),
        ((work, "--from", "2030-01-01"), INPUT, "a --from that is before --to and not in the fut"),
        ((work, "--to", 99_999), INPUT, "--to 99999 is after the chain's newest block"),
        ((work, "--to", "2090-01-01"), INPUT, "--to 2090-01-01 is after the chain's newest time"),
        ((work, "--check", none), INPUT, "is not a statement"),
        ((work, "--check", tmp_path / "nope"), INPUT, "no such file"),
        ((work, "--check", none, "--from", 3), INPUT, "leave out --from"),
        ((work, "--csv", "--json"), INPUT, "give one of them"),
    ]
    for words, code, said in cases:
        done = await desk.viz("content", "statement", *words, *rpc, key=False, yes=False)
        assert (done.exit_code, done.stderr.count("\n")) == (code, 1), done.output
        assert said in done.stderr
