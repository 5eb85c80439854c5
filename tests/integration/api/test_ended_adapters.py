"""What a node answers for an adapter that ended with a work's license: 451, why and since when."""

from __future__ import annotations

from pathlib import Path

from tests.integration.api.harness import ADAPTER, Buyer, running_node

from viz.domain.ports.services import AdapterEnd
from viz.domain.units import ContentId
from viz.services.withdrawal.withdrawal_watch import WITHDRAWN

END = AdapterEnd(ContentId(3), WITHDRAWN, 1_799_000_000, 1_799_900_000)
MODEL = f"viz-adapter-{ADAPTER}"


async def test_an_ended_adapter_is_unloaded_and_answers_451(tmp_path: Path) -> None:
    """Who asks learns which work ended it and when, and pays nothing; the rest is sold on."""
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        (record,) = node.parts.catalogue.records()
        await node.parts.catalogue.end(record, END)
        assert ADAPTER not in node.engine.adapters()
        assert [offer.adapter_id for offer in node.parts.catalogue.offers()] == [0]
        status, problem, _ = await buyer.call("GET", f"/v1/models/{MODEL}")
        assert (status, problem["code"], problem["reason"]) == (451, "adapter-ended", WITHDRAWN)
        assert (problem["contentId"], problem["since"], problem["endedAt"]) == (
            3, 1_799_000_000, 1_799_900_000,
        )  # fmt: skip
        assert "work 3 was withdrawn" in problem["detail"]
        body = buyer.chat("hi", max_tokens=4)
        status, problem, _ = await buyer.call(
            "POST", "/v1/chat/completions", body=body, headers=buyer.bearer()
        )
        assert (status, problem["code"]) == (451, "adapter-ended")
        assert len(await node.store.adapters()) == 1, "the ledger keeps what it was"
        await node.parts.catalogue.drop(ADAPTER)
        status, problem, _ = await buyer.call("GET", f"/v1/models/{MODEL}")
        assert (status, problem["code"]) == (404, "unknown-adapter")
