"""`viz audit node` on a real chain: a probe of an honest node holds, and each lie is named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.fakes.engine import fake_adapter_file
from tests.fakes.tiny_base import make_tiny_base, write_random_adapter
from tests.integration.chain.testnet import Testnet
from tests.integration.network.test_audits import DIFFERENT, INCONCLUSIVE, Market, opened

from viz.audit.offer_audit import OWN_WORDS
from viz.chain.settlement_history import SettlementHistory
from viz.cli.audit.shown import NodeShows
from viz.domain.card import ReportCard
from viz.domain.notices import NoticeKind, Suspension
from viz.domain.ports.transactions import Event
from viz.domain.receipt import salted_hash
from viz.domain.units import AdapterId, Address, Hash32
from viz.engine.embedded.engine import EmbeddedEngine
from viz.engine.embedded.settings import EngineSettings
from viz.errors import ConfigError

THIEF = Address("0x" + "11" * 20)


@pytest_asyncio.fixture
async def market(net: Testnet, tmp_path: Path) -> AsyncIterator[Market]:
    weights = fake_adapter_file(tmp_path / "adapter.safetensors")
    async with opened(net, tmp_path, weights) as made:
        await net.mint(made.desk.owner, 10**6)
        yield made


async def audited(market: Market, *words: object) -> tuple[int, dict[str, Any]]:
    """Run the audit; return its exit code and report."""
    given = ("audit", "node", market.node.url, "--rpc", market.net.anvil.url, "--json", *words)
    found = await market.desk.viz(*given, key="--go-on" not in words)
    assert "{\n" in found.stdout, found.output
    return found.exit_code, json.loads(found.stdout[found.stdout.index("{\n") :])


async def test_an_honest_node_s_money_reaches_the_work_s_owner(market: Market) -> None:
    """The answer is paid, claimed, split to the unit, and what was not used comes back; after the
    distribution the same command says that the owner was paid."""
    net = market.net
    code, told = await audited(market)
    assert (code, told["verdict"]) == (0, "reproduced"), told
    assert told["notChecked"] == ["whether the sold weights gave the answer", OWN_WORDS]
    money = told["money"]
    assert int(money["billed"]) > 0 and money["claimed"] == money["billed"]
    (earned,) = money["earned"]
    billed = int(money["billed"])
    assert int(earned["toWorks"]) == billed * 3_000 // 10_000
    (part,) = earned["works"]
    owner = net.sender(2).address
    assert (part["owner"], part["paid"], part["units"]) == (owner, False, earned["toWorks"])
    assert await net.chain.token_balance(market.desk.owner) == 10**6 - billed
    await net.done(
        net.sender(0), "Settlement", "distribute", int(market.adapter), [1 << 16 | 10_000]
    )
    code, told = await audited(market, "--go-on")
    assert code == 0 and told["money"]["earned"][0]["works"][0]["paid"], told
    words = ("audit", "node", market.node.url, "--rpc", net.anvil.url, "--go-on")
    said = (await market.desk.viz(*words, key=False)).stdout
    assert "Not checked: whether the sold weights gave the answer" in said
    assert "everything agrees" not in said, "the answer was not replayed"


async def test_a_claim_that_has_not_come_is_told_and_gone_on_with(market: Market) -> None:
    """Nobody is accused for a claim that is not due; --go-on buys nothing and looks again."""
    code, told = await audited(market, "--keep-open")
    assert (code, told["findings"]) == (INCONCLUSIVE, [])
    assert any("the claim of" in each and "--go-on" in each for each in told["missing"])
    before = await market.net.chain.token_balance(market.desk.owner)
    status, _ = await market.node.operate("POST", "/settle")
    assert status < 300
    code, told = await audited(market, "--go-on")
    assert (code, told["verdict"]) == (0, "reproduced"), told
    assert await market.net.chain.token_balance(market.desk.owner) == before
    assert told["receipts"] == 1


async def test_a_suspended_adapter_is_told_as_suspended(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An auditor learns that a notice suspends the adapter, not that the node never had it; of a
    model that it never had it says so."""
    catalogue, adapter = market.node.parts.catalogue, market.adapter
    suspended = Suspension(4, NoticeKind.COPYRIGHT, 1_700_000_000)
    monkeypatch.setattr(
        catalogue, "suspension", lambda each: suspended if each == adapter else None
    )
    words = ("audit", "node", market.node.url, "--rpc", market.net.anvil.url, "--model")
    for model, code, said in (
        (f"viz-adapter-{int(adapter)}", "adapter-suspended", "notice 4 (copyright) is in effect"),
        ("viz-adapter-99", "unknown-model", "does not serve 'viz-adapter-99'"),
    ):
        found = await market.desk.viz(*words, model)
        assert f"{code}: " in found.stderr and said in found.stderr, found.output


Lie = Callable[[Market, pytest.MonkeyPatch], None]


def other_weights(market: Market, patch: pytest.MonkeyPatch) -> None:
    catalogue = market.node.parts.catalogue
    true = catalogue.offers
    patch.setattr(
        catalogue,
        "offers",
        lambda: tuple(
            replace(each, weights_digest=Hash32(b"\x66" * 32)) if each.adapter_id else each
            for each in true()
        ),
    )


def better_card(market: Market, patch: pytest.MonkeyPatch) -> None:
    """Show a report card, and a manifest that the chain does not name."""
    catalogue, true = market.node.parts.catalogue, market.node.parts.catalogue.offers
    card = ReportCard(20, 19, 1, 9, 9)
    patch.setattr(
        catalogue,
        "offers",
        lambda: tuple(replace(each, card=card) if each.adapter_id else each for each in true()),
    )

    async def shown(self: NodeShows, adapter_id: AdapterId) -> bytes:
        return b"{}"

    patch.setattr(NodeShows, "manifest_at", shown)


def another_text(market: Market, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "viz.services.payments.metering.salted_hash",
        lambda salt, said: salted_hash(salt, said + b"!"),
    )


def hidden_receipts(market: Market, patch: pytest.MonkeyPatch) -> None:
    async def none(*given: Any, **how: Any) -> list[Any]:
        return []

    patch.setattr(market.node.store, "receipts", none)


def money_for(change: dict[str, Any], name: str) -> Lie:
    """Return a lie of the events: what the chain would say if money went another way."""

    def lie(market: Market, patch: pytest.MonkeyPatch) -> None:
        true = SettlementHistory.events

        async def changed(self: SettlementHistory, last: int) -> list[Event]:
            return [
                replace(each, args={**each.args, **change}) if each.name == name else each
                for each in await true(self, last)
            ]

        patch.setattr(SettlementHistory, "events", changed)

    return lie


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (other_weights, "other weights than the chain says"),
        (better_card, "is not the one that the chain names"),
        (hidden_receipts, "without the one that it sent"),
        (money_for({"node": THIEF}, "Earned"), f"credits {THIEF}"),
        (money_for({"toContents": 1}, "Earned"), "splits"),
        (money_for({"receiptsHead": b"\x07" * 32}, "Claimed"), "is that of no receipt here"),
    ],
)
async def test_each_lie_is_named(
    market: Market, monkeypatch: pytest.MonkeyPatch, lie: Lie, said: str
) -> None:
    """Offers, receipt, hidden receipts, payout, split, settled head."""
    lie(market, monkeypatch)
    code, told = await audited(market)
    assert code == DIFFERENT, told
    assert any(said in each for each in told["findings"]), told["findings"]


async def test_a_text_that_its_bill_does_not_fit_proves_nothing(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server in front of an honest node may change text, which nobody signs: no accusation."""
    another_text(market, monkeypatch)
    code, told = await audited(market)
    assert code == INCONCLUSIVE and not told["findings"], told
    assert any("does not match this request" in each for each in told["missing"]), told["missing"]


async def test_a_node_that_sells_at_another_price_than_it_offers_is_told_as_that(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own refusal says "read the offer again", which would lead nowhere."""
    catalogue = market.node.parts.catalogue
    dear = catalogue.find(f"viz-adapter-{int(market.adapter)}")
    dear = replace(dear, completion_price_units=dear.completion_price_units + 1)
    monkeypatch.setattr(catalogue, "find", lambda model: dear)
    code, told = await audited(market)
    assert (code, told["findings"]) == (INCONCLUSIVE, []), told
    (said,) = (each for each in told["missing"] if each.startswith("an answer"))
    assert "at the price that it offers it for" in said and "Use another node" in said


async def test_a_node_that_lies_about_its_offers_is_not_paid(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain is asked before the wallet."""
    other_weights(market, monkeypatch)
    await audited(market)
    assert await market.net.chain.token_balance(market.desk.owner) == 10**6


async def test_an_answer_of_other_weights_is_found_in_the_same_audit(
    net: Testnet, tmp_path: Path
) -> None:
    """With the sold weights in hand the probe's answer is replayed too."""
    base = make_tiny_base(tmp_path, quantised=True)
    weights, other = tmp_path / "sold.safetensors", tmp_path / "other.safetensors"
    write_random_adapter(weights, base, rank=4, seed=3)
    write_random_adapter(other, base, rank=4, seed=4)
    settings = EngineSettings(
        max_streams=2, context_tokens=256, compute="float32", compile=False, threads=1
    )
    engine = await EmbeddedEngine.start(base, settings)
    async with opened(net, tmp_path, weights, engine) as market:
        await net.mint(market.desk.owner, 10**6)
        # A channel that was closed sells nothing for some minutes.
        given = ("--weights", weights, "--base-model", base.directory, "--keep-open")
        code, told = await audited(market, *given)
        assert (code, told["findings"]) == (INCONCLUSIVE, []), told
        assert told["replay"]["differing"] == 0 and len(told["missing"]) == 1, told["missing"]
        await engine.remove_adapter(market.adapter)
        await engine.add_adapter(market.adapter, other)
        code, told = await audited(market, *given)
        assert code == DIFFERENT
        assert any("did not give this text" in each for each in told["findings"])


async def test_wrong_weights_are_told_before_anything_is_paid(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what hinders the replay afterwards costs nothing of the report on the money."""
    base = make_tiny_base(tmp_path, quantised=True)
    weights, other = tmp_path / "sold.safetensors", tmp_path / "other.safetensors"
    write_random_adapter(weights, base, rank=4, seed=3)
    write_random_adapter(other, base, rank=4, seed=4)
    settings = EngineSettings(
        max_streams=2, context_tokens=256, compute="float32", compile=False, threads=1
    )
    engine = await EmbeddedEngine.start(base, settings)
    async with opened(net, tmp_path, weights, engine) as market:
        await net.mint(market.desk.owner, 10**6)
        words = ("audit", "node", market.node.url, "--rpc", net.anvil.url,
                 "--base-model", base.directory)  # fmt: skip
        found = await market.desk.viz(*words, "--weights", other)
        assert found.exit_code == 4 and "--keep FILE" in found.stderr, found.output
        assert await net.chain.token_balance(market.desk.owner) == 10**6
        found = await market.desk.viz(*words, "--weights", weights, "--key", tmp_path, key=False)
        assert found.exit_code == 4 and "it is a folder" in found.stderr, found.output

        def gone(*_: object) -> None:
            raise ConfigError("the weights are gone")

        monkeypatch.setattr("viz.cli.audit.probing.replayed", gone)
        code, told = await audited(market, "--weights", weights, "--base-model", base.directory)
        assert (code, told["findings"]) == (INCONCLUSIVE, [])
        assert told["missing"] == ["the answer's replay: the weights are gone"]
        assert told["money"]["claimed"] == told["money"]["billed"] != "0"


async def test_an_audit_after_its_own_close_says_what_to_wait_for(market: Market) -> None:
    """By the time of a chain where nothing happens, a close that was signed stays good."""
    code, _ = await audited(market)
    assert code == 0
    code, told = await audited(market)
    assert (code, told["findings"]) == (INCONCLUSIVE, []), told
    (said,) = (each for each in told["missing"] if "closed by agreement" in each)
    assert "evm_mine" in said and "--go-on" in said
    assert told["money"]["billed"] != "0", "the last answer's money is followed still"
    await market.net.anvil.advance_time(310)
    code, told = await audited(market)
    assert code == 0, told


async def test_what_it_may_cost_is_shown_before_it_is_paid(market: Market) -> None:
    """Without --yes and without a terminal nothing is bought."""
    words = ("audit", "node", market.node.url, "--rpc", market.net.anvil.url)
    found = await market.desk.viz(*words, yes=False)
    assert found.exit_code == 4 and "at most   0.010000 vUSD" in found.stdout, found.output
    assert await market.net.chain.token_balance(market.desk.owner) == 10**6
    found = await market.desk.viz(*words, "--go-on", key=False)
    assert found.exit_code == 3 and "no probe of this node" in found.stderr
