"""An endpoint that leaves out a block's logs, or one log: it is named, and nobody is accused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.integration.chain.testnet import Testnet
from tests.integration.creator.relay_desk import CHAIN, new_owner
from tests.integration.creator.test_payout_audit import lived

from viz.chain.rpc import Log, Rpc
from viz.chain.settlement_history import SettlementHistory
from viz.chain.work_events import WorkEvents
from viz.creator.statement import check_statement, make_statement
from viz.domain.units import ContentId
from viz.errors import ChainError

WORK = ContentId(1)
Hidden = Callable[[Log], bool]


class Endpoint:
    """Every endpoint of this process, which leaves out the logs that ``hidden`` is true of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hidden: Hidden = lambda log: False
        true, outer = Rpc.logs, self

        async def served(self: Rpc, *given: Any) -> tuple[Log, ...]:
            return tuple(each for each in await true(self, *given) if not outer.hidden(each))

        monkeypatch.setattr(Rpc, "logs", served)


async def served_logs(net: Testnet) -> Sequence[Log]:
    where, last = net.deployment, await net.rpc.block_number()
    ours = (where.token, where.content_registry, where.adapter_registry, where.settlement)
    return await net.rpc.logs(ours, 0, last)


async def told(net: Testnet) -> Any:
    events = WorkEvents(net.chain)
    last = await net.rpc.block_number()
    made = await make_statement(events, net.deployment, WORK, events.first_block, last)
    return made.to_json()


@pytest.mark.parametrize("unit", ["block", "log"])
async def test_no_log_that_is_left_out_changes_a_statement_or_accuses_anybody(
    net: Testnet, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    """Whatever one block's logs, or one log, are missing: a statement is the true one or none, an
    honest one is never called false, and the audit of payouts finds nothing against the contract.
    A history in which every account's newest grant has an adapter, so that no fee can hide."""
    await lived(net)
    endpoint, true = Endpoint(monkeypatch), await told(net)
    every = await served_logs(net)
    last = await net.rpc.block()
    cases = {(each.block_number, each.log_index if unit == "log" else 0) for each in every}
    named = 0
    for block, index in sorted(cases):
        endpoint.hidden = lambda log, block=block, index=index: (  # type: ignore[misc]
            log.block_number == block and (unit == "block" or log.log_index == index)
        )
        try:
            assert await told(net) == true, (block, index)
            _, wrong = await check_statement(WorkEvents(net.chain), net.deployment, true)
            assert not wrong, (block, index, wrong)
        except ChainError:
            named += 1
        try:
            read = await SettlementHistory(net.chain).read(last)
            assert read.findings() == (), (block, index, read.findings())
        except ChainError:
            named += 1
    assert named > 8, "most of what is hidden is noticed"


async def test_a_hidden_grant_is_named_and_no_honest_statement_is_accused(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grant of an adapter's trainer has a view: the commands end with the endpoint's name,
    instead of a fee of 0 and an accusation."""
    await lived(net)
    desk = new_owner(tmp_path / "home", net)
    rpc = ("--rpc", net.anvil.url)
    honest = await desk.json("content", "statement", 1, *rpc, key=False, yes=False)
    path = tmp_path / "statement.json"
    path.write_text(json.dumps(honest))
    block = honest["statements"][0]["lines"][0]["block"]
    Endpoint(monkeypatch).hidden = lambda log: log.block_number == block
    for words in (("royalties", 1), ("statement", 1), ("statement", 1, "--check", path)):
        found = await desk.viz("content", *words, *rpc, key=False, yes=False)
        assert found.exit_code == CHAIN, found.output
        assert "acquired a grant of work 1, but the endpoint" in found.stderr
        assert net.anvil.url in found.stderr


async def test_fees_are_never_said_to_be_all(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No contract counts grants: a trainer without an adapter can be hidden. The sum says so, and a
    statement that names the grant has the endpoint named, not its author accused."""
    await lived(net)
    trainer, work = net.sender(8), await net.chain.content(WORK)
    assert work is not None
    await net.mint(trainer.address, 100)
    await net.done(trainer, "Token", "approve", net.deployment.content_registry, 100)
    await net.done(trainer, "ContentRegistry", "acquireGrant", WORK, work.terms_hash)
    desk, rpc = new_owner(tmp_path / "home", net), ("--rpc", net.anvil.url)
    honest = await desk.json("content", "statement", 1, *rpc, key=False, yes=False)
    assert honest["statements"][0]["sums"]["fees"] == "200"
    path = tmp_path / "statement.json"
    path.write_text(json.dumps(honest))
    block = honest["statements"][0]["lines"][-1]["block"]
    Endpoint(monkeypatch).hidden = lambda log: log.block_number == block
    for verb in ("royalties", "statement"):
        found = await desk.viz("content", verb, 1, *rpc, key=False, yes=False)
        assert found.exit_code == 0 and "at least 0.000100 vUSD" in found.stdout, found.output
        assert "no contract counts grants" in found.stdout
    found = await desk.viz("content", "statement", 1, "--check", path, *rpc, key=False, yes=False)
    assert found.exit_code == CHAIN and net.anvil.url in found.stderr, found.output
