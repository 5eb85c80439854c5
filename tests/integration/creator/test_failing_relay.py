"""A node's relay whose answer to a signature fails: what the chain shows is what was done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.integration.chain.testnet import Testnet, address
from tests.integration.creator.relay_desk import LICENSE, TERMS, UNTRUE, new_owner, relaying

from viz.chain.keys import development_account
from viz.creator import until_seen
from viz.errors import VizError
from viz.services.work_records import load_record

TRAINER = address(development_account(9))
DEARER = TERMS.replace("250.00", "500.00")
BUSY = ({"code": "relay-busy", "detail": "later"}, 429)
UNUSABLE: list[tuple[Any, int]] = [
    ({"contentId": "one"}, 200),
    ("<html>", 502),
    (None, 0),
    BUSY,
    ({"contentId": 7, "transaction": "0x" + "11" * 32}, 201),
]


@pytest.mark.parametrize("says", UNUSABLE)
async def test_the_chain_tells_what_a_node_did_not(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: tuple[Any, int]
) -> None:
    """A node submits each signature, and its answer is unusable or says the opposite: who gave a
    chain is told what that shows, and not a failure."""
    monkeypatch.setattr(until_seen, "EVERY_S", 0.01)
    desk = new_owner(tmp_path / "home", net)
    async with relaying(net) as relay:
        relay.says = says
        work = await desk.registered(relay)
        record = load_record(desk.work)
        assert record is not None and record.on_chain and record.content_id == work == 1
        way = ("--node", relay.url, "--rpc", net.anvil.url)
        for verb, word in (
            (("terms", work, desk.terms(DEARER)), "offered"),
            (("approve", work, TRAINER), "approved"),
            (("withdraw", work), "withdrawn"),
        ):
            done = await desk.viz("content", *verb, *way)
            assert done.exit_code == 0 and f"\n{word}  " in done.stdout, done.output
            assert "as the chain has it" in done.stdout
    state = await net.chain.content(work)
    assert state is not None and state.withdrawn_at


@pytest.mark.parametrize("says", [*UNUSABLE[:3], (None, 200)])
async def test_a_relay_that_fails_and_sent_nothing_is_a_failure_with_its_remedy(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: tuple[Any, int]
) -> None:
    """After it the same command is safe, also by an own transaction."""
    monkeypatch.setattr(until_seen, "EVERY_S", 0.01)
    desk = new_owner(tmp_path / "home", net)
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        relay.keeps, relay.says = True, says
        rpc = ("--rpc", net.anvil.url)
        done = await desk.viz("content", "withdraw", work, "--node", relay.url, *rpc)
        assert done.exit_code == UNTRUE and done.stderr.count("\n") == 1, done.output
        assert "the chain does not have it so far: give the same command again" in done.stderr
        await net.anvil.fund(desk.owner)
        await desk.json("content", "withdraw", work, "--direct", *rpc)


async def test_a_clear_refusal_is_not_waited_for(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An honest node says that it is busy: the chain is looked at once, and its words are told."""
    monkeypatch.setattr(until_seen, "EVERY_S", 3_600.0)
    desk = new_owner(tmp_path / "home", net)
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        relay.keeps, relay.says = True, BUSY
        done = await desk.viz(
            "content", "withdraw", work, "--node", relay.url, "--rpc", net.anvil.url
        )
        assert done.exit_code == LICENSE and "later" in done.stderr, done.output
        assert "so far" not in done.stderr


@pytest.mark.parametrize("says", [BUSY, (None, 0), None])
async def test_the_end_of_an_approval_is_not_done_while_the_approval_can_follow(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: tuple[Any, int] | None
) -> None:
    """The node keeps both signatures: the chain shows no approval from the start, and that was told
    as done. Then the node used the first one."""
    monkeypatch.setattr(until_seen, "EVERY_S", 0.01)
    desk = new_owner(tmp_path / "home", net)
    async with relaying(net) as relay:
        work = await desk.registered(relay)
        relay.keeps = True
        way = ("--node", relay.url, "--rpc", net.anvil.url)
        relay.says = BUSY
        assert (await desk.viz("content", "approve", work, TRAINER, *way)).exit_code
        relay.says = says
        done = await desk.viz("content", "approve", work, TRAINER, "--revoke", *way)
        assert done.exit_code and "as the chain has it" not in done.stdout, done.output
        await net.anvil.fund(desk.owner)
        rpc = ("--rpc", net.anvil.url)
        await desk.json("content", "approve", work, TRAINER, "--revoke", "--direct", *rpc)
        assert relay.taken is not None
        with pytest.raises(VizError):
            await relay.desk.relay_action(relay.taken[0].action, relay.taken[0].signature)
