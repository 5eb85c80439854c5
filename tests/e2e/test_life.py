"""The life of a market, as its people live it: commands, daemons, the official client, a chain.

The tests follow one another in one town (see conftest.py): each begins where the one before ended.
"""

from __future__ import annotations

import signal
from typing import Any

import aiohttp
import openai
import pytest
from examples.demo.miser import pay_once
from tests.e2e.conftest import (
    DEPOSIT_UNITS,
    FUNDED_UNITS,
    LICENSED,
    UNLICENSED,
    Accounts,
    Buyer,
    Town,
)

from viz.buyer.client import BuyerClient
from viz.chain.deployment import load_deployment

pytestmark = pytest.mark.timeout(1_800)

QUESTION = "Tell me a long story about a lighthouse keeper and the sea."
LONG_TOKENS = 400


def test_works_are_registered_by_relay_and_directly(town: Town) -> None:
    """Protects creators without gas, and those who trust no relay: both own their works."""
    for creator, work in (("alma", LICENSED), ("celia", UNLICENSED)):
        found = town.world.json("content", "show", town.contents[work], *town.at)
        assert found["owner"] == found["creator"] == town.creators[creator]
    assert town.gas_of(town.creators["alma"]) == 0
    assert 0 < town.gas_of(town.creators["celia"]) < 10**18


def test_an_adapter_that_names_an_unlicensed_work_is_refused(town: Town, training: str) -> None:
    """Protects creators: the contract refuses a share of a work that nobody licensed.

    And buyers: what was not taught is not registered unasked.
    """
    works = [town.contents[work] for work in (LICENSED, UNLICENSED)]
    shares, sold = [f"--share={work}:5000" for work in works], town.sold()
    untaught = town.world.viz("adapter", "register", training, *town.at, fails=True)
    assert untaught.startswith("adapter-not-taught: ") and "--publish-anyway" in untaught
    wanted = ("--publish-anyway", *shares, *town.at)
    reason = town.world.viz("adapter", "register", training, *wanted, fails=True)
    assert reason.startswith("no-live-grant: ") and reason.count("\n") == 0
    assert f"content id {works[1]}" in reason
    assert town.sold() == sold


def test_the_creator_has_the_training_fee_and_the_adapter_is_on_offer(
    town: Town, adapter: str
) -> None:
    """Protects the licensing deal: the fee is with the creator before anything is sold."""
    shown = town.world.json("adapter", "show", town.adapters[0], *town.at)
    assert shown["shares"] == [[town.contents[LICENSED], 10_000]] and shown["servedHere"]
    assert town.accounts().balances[town.creators["alma"]] > 0
    assert adapter in town.sold()


def test_a_channel_opens_without_gas(town: Town, buyer: Buyer) -> None:
    """Protects buyers who hold tokens and no coin: the deposit is whole, nothing else is taken."""
    assert town.gas_of(buyer.address) == 0
    now = town.accounts()
    assert now.deposits[buyer.signer] + now.settled[buyer.signer] == DEPOSIT_UNITS
    assert now.balances[buyer.address] == FUNDED_UNITS - DEPOSIT_UNITS


def test_the_official_client_asks_through_the_proxy(town: Town, buyer: Buyer, adapter: str) -> None:
    """Protects every OpenAI program: models, whole and streamed answers work, and each is paid."""
    before = town.status()
    assert {each.id for each in buyer.client.models.list()} >= {town.base_model, adapter}
    whole = buyer.client.chat.completions.create(
        model=adapter,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=12,
        temperature=0,
    )
    assert whole.choices[0].message.content and whole.usage is not None
    streamed = ask(buyer, adapter, 12)
    assert streamed == whole.choices[0].message.content
    after = town.status()
    assert after["receipts"] == before["receipts"] + 2
    assert int(after["billed"]) - int(before["billed"]) >= 2 * price_of(town, adapter, streamed)
    assert int(after["unclaimed"]) > 0


async def test_a_client_that_sends_no_more_vouchers_is_stopped(town: Town, adapter: str) -> None:
    """Protects the node: what it gives away unpaid is the credit window, and that is nothing."""
    address = town.new_wallet("miser", tokens=1)
    home, trusted = town.folder / "miser", town.folder / "deployment.json"
    town.world.viz("channel", "open", "0.50", "--key", town.folder / "miser.key.json",
                   "--data-dir", home, "--deployment", trusted, *town.at)  # fmt: skip
    async with aiohttp.ClientSession() as http:
        client = await BuyerClient.connect(
            http,
            town.world.node_url,
            home=home / "buyer",
            password=town.world.password,
            expected=load_deployment(trusted),
        )
        try:
            town.signers.append(client.signer)
            town.payers.append(address)
            answer = await pay_once(client, QUESTION, LONG_TOKENS)
        finally:
            await client.aclose()
    assert answer.needs, "the node did not ask for more"
    assert answer.text and answer.billed_units <= answer.paid_units
    assert price_of(town, town.base_model, answer.text) <= answer.paid_units
    # Its bill is in the buyer's books: the channel can be used on.
    more = town.world.json("buyer", "ask", QUESTION, "--max-tokens", 4, "--data-dir", home,
                           "--deployment", trusted, *town.at)  # fmt: skip
    assert more["text"]


def test_settling_accounts_for_every_unit(town: Town, buyer: Buyer, adapter: str) -> None:
    """Protects everyone's money: one batch pays all, and the contract's sentence holds equally."""
    ask(buyer, adapter, 8)
    unclaimed = int(town.status()["unclaimed"])
    before = town.accounts()
    done = town.world.json("settle", *town.at)["claim"]
    after = town.accounts()
    assert (done["dropped"], done["waiting"], len(done["transactions"])) == (0, 0, 1)
    assert done["settled"] == sum(after.settled[s] > before.settled[s] for s in town.signers)
    paid = sum(before.deposits.values()) - sum(after.deposits.values())
    assert paid == unclaimed == sum(after.settled.values()) - sum(before.settled.values())
    royalties = sum(after.balances[each] - before.balances[each] for each in after.balances)
    earned = sum(after.uncollected.values()) - sum(before.uncollected.values())
    assert royalties > 0 and earned > 0
    assert (
        royalties == after.balances[town.creators["alma"]] - before.balances[town.creators["alma"]]
    )
    assert paid == royalties + earned + after.undistributed - before.undistributed
    assert after.contract == after.accounted
    assert town.status()["unclaimed"] == "0"


def test_a_node_stopped_mid_stream_bills_what_it_sent(
    town: Town, buyer: Buyer, adapter: str
) -> None:
    """Protects both sides of a restart: SIGTERM ends in good order, and the node goes on."""
    before = town.status()
    sent = _interrupted(town, buyer, adapter, by=signal.SIGTERM)
    assert "Traceback" not in town.log, town.log
    town.start_node()
    after = town.status()
    assert after["receipts"] == before["receipts"] + 1
    assert int(after["billed"]) - int(before["billed"]) >= price_of(town, adapter, sent)
    assert int(after["unclaimed"]) >= int(after["billed"]) - _settled(town.accounts())
    assert after["channels"] == before["channels"]
    assert _offers(after) == _offers(before)
    assert ask(buyer, adapter, 8)


def test_a_node_killed_mid_stream_loses_nothing(town: Town, buyer: Buyer, adapter: str) -> None:
    """Protects the node's earnings: after kill -9 its vouchers cover all that it delivered."""
    before = town.status()
    sent = _interrupted(town, buyer, adapter, by=signal.SIGKILL)
    town.start_node()
    after = town.status()
    assert after["receipts"] >= before["receipts"]
    assert int(after["billed"]) >= int(before["billed"])
    assert int(after["unclaimed"]) >= int(before["unclaimed"])
    claimable = _settled(town.accounts()) + int(after["unclaimed"])
    assert claimable >= int(before["billed"]) + price_of(town, adapter, sent)
    assert after["channels"] == before["channels"]
    assert _offers(after) == _offers(before)
    assert ask(buyer, adapter, 8)
    assert town.status()["receipts"] > after["receipts"]


def test_closing_returns_the_rest_to_the_last_unit(town: Town, buyer: Buyer) -> None:
    """Protects the buyer who leaves: deposit minus what was claimed is back, without gas."""
    assert town.world.end("proxy") == 0
    town.world.viz("channel", "close", "--key", buyer.key, *town.at)
    closed = town.accounts()
    assert closed.deposits[buyer.signer] == 0
    assert closed.balances[buyer.address] + closed.settled[buyer.signer] == FUNDED_UNITS
    assert town.gas_of(buyer.address) == 0
    assert closed.contract == closed.accounted
    town.world.viz("settle", "--collect", *town.at)
    end = town.accounts()
    assert end.uncollected[town.operator] == 0
    assert end.contract == end.accounted == sum(end.deposits.values()) + end.undistributed
    assert (
        end.balances[town.operator]
        == closed.balances[town.operator] + closed.uncollected[town.operator]
    )


def ask(buyer: Buyer, model: str, tokens: int) -> str:
    """Stream one answer through the proxy."""
    return "".join(_pieces(buyer, model, tokens))


def _pieces(buyer: Buyer, model: str, tokens: int) -> list[str]:
    stream = buyer.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=tokens,
        temperature=0,
        stream=True,
    )
    return [each.choices[0].delta.content or "" for each in stream if each.choices]


def _interrupted(town: Town, buyer: Buyer, model: str, *, by: signal.Signals) -> str:
    """Ask, end the node by a signal once some text has come; return all the text that came."""
    stream = buyer.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=LONG_TOKENS,
        temperature=0,
        stream=True,
    )
    pieces: list[str] = []
    code: int | None = None
    try:
        for chunk in stream:
            pieces += [choice.delta.content or "" for choice in chunk.choices]
            if code is None and len(pieces) >= 12:
                code = town.world.end("node", by=by)
    except openai.APIError:
        assert by == signal.SIGKILL or code == 0
    assert code == (0 if by == signal.SIGTERM else -signal.SIGKILL)
    return "".join(pieces)


def price_of(town: Town, model: str, text: str) -> int:
    """Return the least that ``text`` can cost: a token a word, at the model's list price."""
    offers = {each["model"]: each for each in town.status()["adapters"]}
    return len(text.split()) * int(offers[model]["completionPrice"]) // 10**6


def _settled(accounts: Accounts) -> int:
    return sum(accounts.settled.values())


def _offers(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a node's offers without what each start measures anew: the fastest arithmetic."""
    return [
        {**each, "base": {k: v for k, v in each["base"].items() if k != "arithmetic"}}
        for each in status["adapters"]
    ]
