"""Notices over HTTP: who is told what, when an adapter answers 451, and what a restart keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.engine import FakeEngine
from tests.integration.api.harness import ADAPTER, OPERATOR_TOKEN, Buyer, Node, running_node
from tests.integration.buyer.conftest import buying

from viz.domain.eip712 import content_registry_domain, public_address, sign
from viz.domain.notices import NoticeKind, NoticeRule
from viz.domain.ports.chain import ContentState
from viz.domain.ports.ledger import OfferedWork
from viz.domain.typed_data import Notice
from viz.domain.units import ZERO_HASH, AdapterId, ContentId, Units
from viz.errors import AdapterSuspended, UnknownModel
from viz.protocol.messages import NodeInfo
from viz.protocol.notices import MAX_NOTICE_BYTES, NOTICES_PATH, SignedNotice
from viz.protocol.payment import NeedVoucher
from viz.services.market.discovery import NodeOffers, unchecked_models
from viz.services.serving.paid_stream import ServingPolicy

OWNER_KEY, STRANGER_KEY = b"\x66" * 32, b"\x77" * 32
WORK = ContentId(3)
MODEL = f"viz-adapter-{ADAPTER}"
OPERATED = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
RULE = NoticeRule()


async def owned(node: Node) -> None:
    """Let the adapter be made of a work that the owner has."""
    owner = public_address(OWNER_KEY)
    node.chain.works[WORK] = ContentState(WORK, owner, owner, ZERO_HASH, ZERO_HASH, 0)
    state = node.chain.adapter_states[ADAPTER]
    node.chain.adapter_states[ADAPTER] = replace(state, shares=((WORK, 10_000),))
    (record,) = node.parts.catalogue.records()
    await node.parts.catalogue.add(replace(record, works=(OfferedWork(WORK, "Tides"),)))


def signed(node: Node, key: bytes, **changes: Any) -> dict[str, Any]:
    said = replace(
        Notice(
            public_address(key),
            node.chain.address,
            ADAPTER,
            ContentId(0),
            int(NoticeKind.PERSONAL_DATA),
            "It has my address.",
            "mail@example.org",
            ZERO_HASH,
            node.clock.now,
        ),
        **changes,
    )
    domain = content_registry_domain(DEPLOYMENT.chain_id, DEPLOYMENT.content_registry)
    return SignedNotice(said, sign(key, domain.digest(said))).to_json()


async def test_an_owner_s_notice_suspends_and_a_restart_keeps_it(tmp_path: Path) -> None:
    """451 with notice, kind and date, out of the offers; the operator's answer brings it back."""
    async with running_node(tmp_path) as node:
        buyer = await Buyer(node).ready()
        await owned(node)
        status, kept, _ = await buyer.call("POST", NOTICES_PATH, body=signed(node, OWNER_KEY))
        assert (status, kept["standing"], kept["state"]) == (201, True, "open")
        assert kept["effectiveAt"] == kept["receivedAt"] == node.clock.now
        body = buyer.chat("hi", max_tokens=4)
        for method, path, sent in (
            ("GET", f"/v1/models/{MODEL}", None),
            ("POST", "/v1/chat/completions", body),
        ):
            status, problem, _ = await buyer.call(method, path, body=sent, headers=buyer.bearer())
            assert (status, problem["code"]) == (451, "adapter-suspended")
            assert (problem["noticeId"], problem["reason"], problem["since"]) == (
                kept["noticeId"], "personal-data", node.clock.now,
            )  # fmt: skip
        _, info, _ = await buyer.call("GET", "/viz/v1/node")
        assert [each.adapter_id for each in NodeInfo.from_json(info).adapters] == [0]
        _, shown, _ = await buyer.call("GET", f"/viz/v1/adapters/{ADAPTER}")
        assert shown["suspended"]["noticeId"] == kept["noticeId"]
        since = node.clock.now
    async with running_node(tmp_path, chain=node.chain) as node:
        buyer = Buyer(node)
        node.clock.now += 3_600
        status, problem, _ = await buyer.call("GET", f"/v1/models/{MODEL}")
        assert (status, problem["code"], problem["since"]) == (451, "adapter-suspended", since)
        path = f"/operator/v1/notices/{kept['noticeId']}"
        answer = {"answer": "reject", "reason": "The work names nobody."}
        status, done, _ = await buyer.call("POST", path, body=answer, headers=OPERATED)
        assert (status, done["view"]["state"], done["statement"]) == (
            200, "rejected", "It has my address.",
        )  # fmt: skip
        assert (await buyer.call("GET", f"/v1/models/{MODEL}"))[0] == 200
        _, page, _ = await buyer.call("GET", f"{NOTICES_PATH}?adapter={ADAPTER}")
        assert page["notices"][0]["reason"] == "The work names nobody."
        assert "address" not in str(page) and "example.org" not in str(page), "for the operator"


async def test_a_stranger_s_notice_shows_at_once_and_counts_at_its_deadline(tmp_path: Path) -> None:
    """Buyers and trainers see it; sales go on until the published time to answer is over."""
    async with running_node(tmp_path) as node:
        buyer = Buyer(node)
        await owned(node)
        body = signed(node, STRANGER_KEY, adapter_id=AdapterId(0), content_id=WORK)
        status, kept, _ = await buyer.call("POST", NOTICES_PATH, body=body)
        assert (status, kept["standing"]) == (201, False)
        told = {"open": 1, "kind": "personal-data", "receivedAt": node.clock.now}
        _, work, _ = await buyer.call("GET", f"/viz/v1/contents/{WORK}")
        _, adapter, _ = await buyer.call("GET", f"/viz/v1/adapters/{ADAPTER}")
        _, info, _ = await buyer.call("GET", "/viz/v1/node")
        (_, offer) = info["adapters"]
        assert work["notices"] == adapter["notices"] == offer["notices"] == told
        seller = NodeOffers.described(NodeInfo.from_json(info), node.url, 1, 1)
        (_, listed) = unchecked_models([seller])
        assert listed.to_json()["offers"][0]["notices"] == told, "also over other nodes' market"
        assert "suspended" not in adapter
        node.clock.now += RULE.personal_data_s - 1
        assert (await buyer.call("GET", f"/v1/models/{MODEL}"))[0] == 200
        node.clock.now += 1
        assert (await buyer.call("GET", f"/v1/models/{MODEL}"))[0] == 451


async def test_the_buyer_s_own_client_says_why_an_adapter_is_not_sold(tmp_path: Path) -> None:
    """Asking for a suspended adapter names the notice, and not only the models that are left."""
    (tmp_path / "node").mkdir()
    async with running_node(tmp_path / "node") as node:
        await owned(node)
        async with buying(node, tmp_path / "buyer") as client:
            assert (await client.offer_of(MODEL)).adapter_id == ADAPTER
            body = signed(node, OWNER_KEY)
            assert (await Buyer(node).call("POST", NOTICES_PATH, body=body))[0] == 201
            await client.refresh_info()
            for asked in (MODEL, "Tides"):
                with pytest.raises(AdapterSuspended) as refused:
                    await client.offer_of(asked)
                assert refused.value.extensions["reason"] == "personal-data"
            for other in ("viz-adapter-99", "viz-adapter-0", "tidal"):
                with pytest.raises(UnknownModel, match="it serves"):
                    await client.offer_of(other)


class Interrupting(Buyer):
    """Sends an owner's notice each time that a running answer asks for money."""

    statuses: list[int]

    async def satisfy(self, need: NeedVoucher, extra: Units = 0) -> tuple[int, Any]:
        if self.node.parts.serving.running:
            body = signed(self.node, OWNER_KEY)
            self.statuses.append((await self.call("POST", NOTICES_PATH, body=body))[0])
        return await super().satisfy(need, extra)


async def test_an_answer_under_way_goes_on_to_its_end(tmp_path: Path) -> None:
    """Who began to pay for an answer gets the whole of it; only new requests are refused."""
    patient = ServingPolicy(step_tokens=8, voucher_grace_s=60)
    engine = FakeEngine(context_tokens=2048, script=b"tides ")
    async with running_node(tmp_path, policy=patient, engine=engine) as node:
        buyer = Interrupting(node)
        buyer.statuses = []
        await buyer.ready()
        await owned(node)
        answer = await buyer.ask(buyer.chat("tell", max_tokens=24))
        assert buyer.statuses[0] == 201, "the notice came while the answer ran"
        assert answer.finish is not None and answer.receipt is not None
        assert answer.receipt.receipt.completion_tokens == 24
        assert (await buyer.call("GET", f"/v1/models/{MODEL}"))[0] == 451


async def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    """Nobody is authenticated before a body is read, so that few bytes are."""
    async with running_node(tmp_path) as node:
        buyer = Buyer(node)
        body = {**signed(node, STRANGER_KEY), "more": "a" * MAX_NOTICE_BYTES}
        status, problem, _ = await buyer.call("POST", NOTICES_PATH, body=body)
        assert (status, problem["code"]) == (413, "http-413")
        long = signed(node, STRANGER_KEY, statement="\U0001f56f" * 1_000, contact="\u20ac" * 200)
        status, _, _ = await buyer.call("POST", NOTICES_PATH, body=long)
        assert status == 201, "the longest texts fit, in any alphabet"
        status, _, _ = await buyer.call("POST", NOTICES_PATH, body=long)
        assert status == 200, "the same notice again is known"


async def test_only_the_operator_reads_and_answers(tmp_path: Path) -> None:
    """Without the token there is neither a name nor an answer."""
    async with running_node(tmp_path) as node:
        buyer = Buyer(node)
        await buyer.call("POST", NOTICES_PATH, body=signed(node, STRANGER_KEY))
        for method, path in (
            ("GET", "/operator/v1/notices"),
            ("GET", "/operator/v1/notices/1"),
            ("POST", "/operator/v1/notices/1"),
        ):
            body = {"answer": "uphold", "reason": "x"} if method == "POST" else None
            assert (await buyer.call(method, path, body=body))[0] in (401, 403, 404)
        assert node.parts.notices.get(1).state == "open"
        status, problem, _ = await buyer.call(
            "POST", "/operator/v1/notices/1", body={"answer": "maybe", "reason": "x"},
            headers=OPERATED,
        )  # fmt: skip
        assert (status, problem["code"]) == (400, "invalid-request")
        status, problem, _ = await buyer.call("GET", "/operator/v1/notices/9", headers=OPERATED)
        assert (status, problem["code"]) == (404, "notice-unknown")
