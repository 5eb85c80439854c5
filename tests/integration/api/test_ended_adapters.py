"""What a node answers for an adapter that ended with a work's license: 451, why and since when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.integration.api.harness import ADAPTER, Buyer, running_node
from tests.integration.buyer.conftest import buying

from viz.domain.ports.services import AdapterEnd
from viz.domain.units import AdapterId, ContentId
from viz.errors import AdapterEnded, UnknownModel
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
        status, found, _ = await buyer.call("GET", f"/viz/v1/adapters/{ADAPTER}")
        ended = {"contentId": 3, "reason": WITHDRAWN, "since": END.since_s, "endedAt": END.ended_s}
        assert (status, found["servedHere"], found["ended"]) == (200, False, ended)
        body = buyer.chat("hi", max_tokens=4)
        status, problem, _ = await buyer.call(
            "POST", "/v1/chat/completions", body=body, headers=buyer.bearer()
        )
        assert (status, problem["code"]) == (451, "adapter-ended")
        assert len(await node.store.adapters()) == 1, "the ledger keeps what it was"
        for title in ("tides", " TIDES "):
            status, problem, _ = await buyer.call("GET", f"/v1/models/{quote(title)}")
            assert (status, problem["code"], problem["adapterId"]) == (451, "adapter-ended", 7)
        await node.parts.catalogue.drop(ADAPTER)
        status, problem, _ = await buyer.call("GET", f"/v1/models/{MODEL}")
        assert (status, problem["code"]) == (404, "unknown-adapter")
        status, problem, _ = await buyer.call("GET", "/v1/models/tides")
        assert (status, problem["code"]) == (404, "unknown-model")


async def test_a_title_that_another_adapter_has_is_not_told_as_ended(tmp_path: Path) -> None:
    """The title is sold: who asks the node by it is told to ask by an id, not that it ended."""
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        (record,) = node.parts.catalogue.records()
        await node.parts.catalogue.end(record, END)
        await node.engine.add_adapter(AdapterId(9), Path(record.path))
        await node.parts.catalogue.add(replace(record, adapter_id=AdapterId(9)))
        status, problem, _ = await buyer.call("GET", "/v1/models/tides")
        assert (status, problem["code"]) == (404, "unknown-model")
        later = replace(END, ended_s=END.ended_s + 1)
        await node.parts.catalogue.end(node.parts.catalogue.records()[0], later)
        status, problem, _ = await buyer.call("GET", "/v1/models/tides")
        assert (status, problem["adapterId"]) == (451, 9), "of two, the one that ended last"


async def test_a_node_reads_an_id_in_any_case(tmp_path: Path) -> None:
    """An ended adapter's title that reads as an id says nothing of the adapter with that id."""
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        (record,) = node.parts.catalogue.records()
        await node.engine.add_adapter(AdapterId(9), Path(record.path))
        posing = replace(record, adapter_id=AdapterId(9), name=MODEL.title())
        await node.parts.catalogue.add(posing)
        await node.parts.catalogue.end(posing, END)
        for wanted in (MODEL, MODEL.upper(), f" {MODEL.title()} "):
            status, found, _ = await buyer.call("GET", f"/v1/models/{quote(wanted)}")
            assert (status, found["id"]) == (200, MODEL)
        for wanted in ("viz-adapter-0", f"viz-adapter-{'9' * 200}"):
            status, problem, _ = await buyer.call("GET", f"/v1/models/{wanted}")
            assert (status, problem["code"]) == (404, "unknown-model")


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
        await node.parts.catalogue.add(replace(record, adapter_id=AdapterId(9), name="tides 2"))
        await node.parts.catalogue.succeed(ADAPTER, AdapterId(9))
        await client.refresh_info()
        for asked in (MODEL, "Tides"):
            with pytest.raises(AdapterEnded) as refused:
                await client.offer_of(asked)
            told = refused.value.detail
            assert "ended 2027-01-" in told and "work 3 was withdrawn 2027-01-" in told
            assert "its successor is viz-adapter-9" in told
            assert refused.value.extensions["reason"] == WITHDRAWN
        for nothing in ("..", "a/b", "\udcff", "x" * 5_000, "\n"):
            with pytest.raises(UnknownModel):
                await client.offer_of(nothing)
