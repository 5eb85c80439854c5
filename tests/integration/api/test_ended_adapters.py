"""What a node answers for an adapter that ended with a work's license: 451, why and since when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.api.harness import ADAPTER, Buyer, running_node
from tests.integration.buyer.conftest import buying

from viz.domain.ports.services import AdapterEnd
from viz.domain.units import AdapterId, ContentId
from viz.errors import AdapterEnded
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


async def test_the_buyer_s_own_client_says_why_and_since_when_it_ended(tmp_path: Path) -> None:
    """`viz buyer ask` names the work, the dates and the successor, not only what else is sold."""
    (tmp_path / "node").mkdir()
    async with (
        running_node(tmp_path / "node") as node,
        buying(node, tmp_path / "buyer") as client,
    ):
        (record,) = node.parts.catalogue.records()
        await node.parts.catalogue.end(record, END)
        await node.engine.add_adapter(AdapterId(9), Path(record.path))
        await node.parts.catalogue.add(replace(record, adapter_id=AdapterId(9)))
        await node.parts.catalogue.succeed(ADAPTER, AdapterId(9))
        await client.refresh_info()
        with pytest.raises(AdapterEnded) as refused:
            await client.offer_of(MODEL)
        told = refused.value.detail
        assert "ended 2027-01-" in told and "work 3 was withdrawn 2027-01-" in told
        assert "its successor is viz-adapter-9" in told
        assert refused.value.extensions["reason"] == WITHDRAWN
