"""A node that dies at any commit is found whole: no promise lost, none claimed twice.

The ledger's files are copied at every commit point, before and after the commit, with the chain as
it was then: what a kill there would leave. Each copy is opened by a new node, which claims.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.fakes.chain import FakeChain
from tests.integration.api.harness import DEPOSIT, NODE_KEY, Buyer, Node, running_node

from viz.domain.ports.chain import ChannelState
from viz.domain.units import Address, Units
from viz.protocol.payment import NeedVoucher
from viz.store import lone


@dataclass
class Remains:
    """What a kill at one moment leaves: the ledger's folder, the chain, and what was known."""

    moment: str
    folder: Path
    channels: dict[tuple[Address, Address], ChannelState]
    acknowledged: Units
    signed: Units


class Camera:
    """Copies the ledger at each commit point; ``watch`` it once node and buyer are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.taken: list[Remains] = []
        self.buyer: Buyer | None = None
        self.acknowledged: Units = 0

    def __call__(self, moment: str) -> None:
        if self.buyer is None:
            return
        place = self.folder / f"{len(self.taken):03}"
        place.mkdir(parents=True)
        for name in ("ledger.db", "ledger.db-wal"):
            shutil.copy(self.folder / "live" / name, place / name)
        channels = dict(self.buyer.node.chain.channels)
        signed = self.buyer.channel.total_units
        self.taken.append(Remains(moment, place, channels, self.acknowledged, signed))

    def watch(self, buyer: Buyer) -> None:
        satisfy = buyer.satisfy

        async def acknowledged(need: NeedVoucher, extra: Units = 0) -> tuple[int, object]:
            answer = await satisfy(need, extra)
            if answer[0] == 200:
                self.acknowledged = buyer.channel.total_units
            return answer

        buyer.satisfy = acknowledged  # type: ignore[method-assign]
        self.buyer = buyer


async def live(node: Node, camera: Camera) -> None:
    """Ask, claim, ask again, and close: every kind of commit that moves money."""
    buyer = await Buyer(node).ready()
    camera.watch(buyer)
    await buyer.ask()
    await node.parts.settlement.step(force=True)
    await buyer.observe()
    await buyer.ask()
    await buyer.ask(buyer.chat(stream=False, model="fake", max_tokens=8))
    await buyer.close()


@pytest.mark.parametrize("fast_commits", [lone.FAST_COMMITS, 0], ids=["thread", "lone"])
async def test_a_kill_at_any_commit_point_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_commits: int
) -> None:
    """What was acknowledged is claimed once after the restart, and the ledger fits the chain.

    Whether the writer's thread commits, or the event loop's wherever a request is alone.
    """
    monkeypatch.setattr(lone, "FAST_COMMITS", fast_commits)
    camera = Camera(tmp_path)
    async with running_node(tmp_path / "live", hook=camera) as node:
        await live(node, camera)
        assert camera.buyer is not None
        signer = camera.buyer.signer
        camera.buyer = None
    points = {each.moment for each in camera.taken}
    wanted = {"voucher", "receipt", "freeze", "finish-claim", "close"}
    assert {f"{name}:{side}" for name in wanted for side in ("before", "after")} <= points

    for remains in camera.taken:
        chain = FakeChain(NODE_KEY, channels=remains.channels)
        async with running_node(remains.folder, chain=chain) as found:
            before = await found.store.channel(signer)
            await found.parts.settlement.step(force=True)
            settled = chain.channels[signer, chain.address].settled_units
            assert remains.acknowledged <= settled <= remains.signed, remains.moment
            sent = len(chain.sent)
            await found.parts.settlement.step(force=True)
            assert len(chain.sent) == sent, "what is settled is not claimed again"
            assert await found.store.frozen() == [], remains.moment
            for _ in range(2):
                assert (await found.parts.reconciliation.step()).mismatches == (), remains.moment
            channel = (await found.parts.vouchers._channels.get(signer, fresh=True)).channel
            assert channel.end_units == channel.settled_units == settled
            assert channel.reserved == {} and channel.credit_used_units() == 0
            receipts = await found.store.receipts(signer)
            assert [row.seq for row in receipts] == list(range(1, len(receipts) + 1))
            assert before is None or before.seq == len(receipts)
            billed = [json.loads(row.body)["receipt"] for row in receipts]
            spent = sum(x.spent_units for x in before.lines.values()) if before else 0
            assert sum(int(each["amount"]) for each in billed) == spent, "all booked is receipted"
            assert await found.store.unbilled() == []
            state = chain.channels[signer, chain.address]
            if state.deposit_units:
                assert state == replace(state, deposit_units=DEPOSIT - settled)
