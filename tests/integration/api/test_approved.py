"""What a node says of an owner's approval of a trainer, to whoever is about to sign one."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.chain import address_of
from tests.integration.api.harness import Buyer, running_node

from viz.domain.ports.chain import ContentState
from viz.domain.units import ZERO_HASH, ContentId

WORK, OWNER, TRAINER = ContentId(3), address_of(7), address_of(8)


async def test_a_work_says_whether_a_trainer_is_approved(tmp_path: Path) -> None:
    """Asked anew each time: an approval that was ended must not be told from an earlier answer."""
    async with running_node(tmp_path) as node:
        buyer = Buyer(node)
        node.chain.works[WORK] = ContentState(WORK, OWNER, OWNER, ZERO_HASH, ZERO_HASH, 0)
        path = f"/viz/v1/contents/{WORK}"
        status, found, _ = await buyer.call("GET", path)
        assert status == 200 and "approved" not in found
        for approved in (False, True, False):
            entry = (WORK, OWNER, TRAINER)
            (node.chain.approvals.add if approved else node.chain.approvals.discard)(entry)
            _, found, _ = await buyer.call("GET", f"{path}?trainer={TRAINER}")
            assert found["approved"] is approved
        status, problem, _ = await buyer.call("GET", f"{path}?trainer=me")
        assert (status, problem["code"]) == (400, "invalid-request")
