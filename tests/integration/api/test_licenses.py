"""A node serves the licenses of the works in its custody: only those that the chain has."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.chain import FakeChain
from tests.fakes.licenses import WALLET, changed, preset
from tests.integration.api.harness import NODE_KEY, ORIGIN, Node, running_node
from tests.unit.protocol.license import specifications as spec

from viz.api.context import ApiLimits
from viz.api.market.licenses import KEPT_S
from viz.domain.eip712 import keccak
from viz.domain.ports.chain import ContentState, TermsState
from viz.domain.ports.custody import CustodyRecord
from viz.domain.ports.listings import ListingRecord
from viz.domain.units import ZERO_HASH, Cid, ContentId, Hash32, parse_address
from viz.protocol.license_document.agreement import terms_of
from viz.protocol.license_document.model import LicenseDocument
from viz.protocol.wire import canonical_json
from viz.services.licensing.license_documents import MAX_DOCUMENTS

TDMREP = "/.well-known/tdmrep.json"
OWNER = parse_address(WALLET)


@dataclass
class Registry(FakeChain):
    """A chain that has licensed works."""

    known: dict[Hash32, TermsState] = field(default_factory=dict)

    async def terms(self, terms_hash: Hash32) -> TermsState | None:
        self._ask()
        return self.known.get(terms_hash)

    def put(
        self,
        content_id: int,
        document: LicenseDocument,
        *,
        withdrawn_at: int = 0,
        **terms: Any,
    ) -> None:
        """Register a work with a document's terms and hash; ``terms`` are changed."""
        said = replace(terms_of(document), **terms)
        terms_hash = said.terms_hash(document.license_hash)
        self.known[terms_hash] = TermsState(said, document.license_hash)
        work = ContentId(content_id)
        self.works[work] = ContentState(work, OWNER, OWNER, ZERO_HASH, terms_hash, withdrawn_at)


def keep(folder: Path, content_id: int, raw: bytes) -> Path:
    (folder / "licenses").mkdir(exist_ok=True)
    path = folder / "licenses" / f"{content_id}.json"
    path.write_bytes(raw)
    return path


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path, chain=Registry(NODE_KEY)) as running:
        yield running


def registry(node: Node) -> Registry:
    assert isinstance(node.chain, Registry)
    return node.chain


async def get(node: Node, path: str, **headers: str) -> tuple[int, bytes, Mapping[str, str]]:
    async with node.http.get(node.url + path, headers=headers) as response:
        return response.status, await response.read(), response.headers


async def test_a_license_is_served_as_it_was_signed(node: Node, tmp_path: Path) -> None:
    """The bytes hash to what the chain has, whatever layout the operator's file has."""
    document = preset()
    registry(node).put(12, document)
    keep(tmp_path, 12, json.dumps(document.to_json(), indent=4).encode())
    status, body, headers = await get(node, "/license/12")
    assert status == 200 and keccak(body) == document.license_hash
    assert headers["Content-Type"] == "application/json"
    assert (
        f'<{ORIGIN}/license/12/rsl.xml>; rel="license"; type="application/rsl+xml"'
        in (headers["Link"])
    )
    assert (await get(node, "/license/12/license.json"))[1] == body


async def test_every_form_is_served(node: Node, tmp_path: Path) -> None:
    """Crawlers, miners, lawyers and people find their own form, with its type and links."""
    registry(node).put(12, preset())
    keep(tmp_path, 12, preset().canonical)
    found = {}
    for name in ("rsl.xml", "tdm-policy.json", "odrl.jsonld", "cawg.json", "aipref.txt",
                 "rate-card.json", "summary.md", "summary.html"):  # fmt: skip
        status, body, headers = await get(node, f"/license/12/{name}")
        assert status == 200, name
        found[name] = body
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    spec.check_rsl(found["rsl.xml"])
    spec.check_tdm_policy(json.loads(found["tdm-policy.json"]))
    spec.check_odrl(json.loads(found["odrl.jsonld"]))
    spec.check_training_assertion(json.loads(found["cawg.json"]))
    assert json.loads(found["rate-card.json"])["contentId"] == 12
    assert f"{ORIGIN}/license/12/license.json".encode() in found["summary.html"]
    status, body, _ = await get(node, "/license/12/license.toml")
    assert status == 404 and json.loads(body)["code"] == "license-unknown"


async def test_an_answer_that_a_client_has_is_not_sent_again(node: Node, tmp_path: Path) -> None:
    registry(node).put(12, preset())
    keep(tmp_path, 12, preset().canonical)
    for path in ("/license/12", "/license/12/rsl.xml", TDMREP):
        status, body, headers = await get(node, path)
        assert status == 200 and headers["Cache-Control"] == f"public, max-age={KEPT_S}"
        tag = headers["ETag"]
        status, body, headers = await get(node, path, **{"If-None-Match": tag})
        assert (status, body, headers["ETag"]) == (304, b"", tag)
        async with node.http.head(node.url + path) as response:
            assert response.status == 200 and response.headers["ETag"] == tag


@pytest.mark.parametrize(
    ("kept", "status", "code", "says"),
    [
        (changed({"licensor.name": "Somebody else"}).canonical, 409, "license-mismatch", "edited"),
        (changed({"money.min_royalty_bps": 1}).canonical, 409, "license-mismatch",
         "money.min_royalty_bps is 1 in the document, and 800 on the chain"),
        (changed({"chain.chain_id": 5}).canonical, 409, "license-mismatch", "chain.chain_id"),
        (preset().canonical[:-1], 404, "license-unknown", "no valid"),
        (preset().canonical.replace(b'"text":""', b'"text":"","text":""'), 404,
         "license-unknown", "no valid"),
        (b"[" * 30_000, 404, "license-unknown", "no valid"),
        (b"x" * 100_000, 404, "license-unknown", "no valid"),
    ],
)  # fmt: skip
async def test_a_document_that_the_chain_does_not_have_is_not_shown(
    node: Node, tmp_path: Path, kept: bytes, status: int, code: str, says: str
) -> None:
    """An operator cannot publish other terms than the owner signed, by mistake or on purpose."""
    registry(node).put(12, preset())
    keep(tmp_path, 12, kept)
    for path in ("/license/12", "/license/12/summary.html"):
        got, body, _ = await get(node, path)
        assert (got, json.loads(body)["code"]) == (status, code)
        assert says in json.loads(body)["detail"]


async def test_terms_that_differ_from_the_signed_document_are_named(
    node: Node, tmp_path: Path
) -> None:
    """An owner who signed a hash beside other terms is not helped to publish both."""
    registry(node).put(12, preset(), training_fee_units=5)
    keep(tmp_path, 12, preset().canonical)
    status, body, _ = await get(node, "/license/12")
    assert status == 409 and json.loads(body)["fields"] == ["money.training_fee"]


async def test_another_work_s_document_is_not_shown(node: Node, tmp_path: Path) -> None:
    """One document cannot stand for two works, nor for a wallet that has neither."""
    other = changed({"work.title": "Another"})
    registry(node).put(12, preset())
    registry(node).put(13, other)
    keep(tmp_path, 12, other.canonical)
    assert (await get(node, "/license/12"))[0] == 409
    stranger = changed({"licensor.wallet": "0x5FbDB2315678afecb367f032d93F642f64180aa3"})
    registry(node).put(14, stranger)
    keep(tmp_path, 14, stranger.canonical)
    status, body, _ = await get(node, "/license/14")
    assert status == 409 and json.loads(body)["fields"] == ["licensor.wallet"]


async def test_only_listed_works_are_served(node: Node, tmp_path: Path) -> None:
    """A path leads to no other file, and a work that is not listed is not known."""
    registry(node).put(12, preset())
    keep(tmp_path, 12, preset().canonical)
    (tmp_path / "secret.json").write_bytes(preset().canonical)
    for path in ("/license/13", "/license/0", "/license/012x", "/license/..%2Fsecret",
                 "/license/12/..%2F..%2Fsecret.json", "/license/99999999999999999999"):  # fmt: skip
        assert (await get(node, path))[0] in (400, 404), path
    keep(tmp_path, 15, preset().canonical)
    status, body, _ = await get(node, "/license/15")
    assert status == 404 and "no work 15" in json.loads(body)["detail"]
    folder = tmp_path / "licenses" / "16.json"
    folder.mkdir()
    registry(node).put(16, preset())
    assert (await get(node, "/license/16"))[0] == 404


async def test_tdmrep_reserves_every_listed_work(node: Node, tmp_path: Path) -> None:
    """A miner reads one file; a work whose document is not true is reserved without a policy."""
    status, body, _ = await get(node, TDMREP)
    assert (status, json.loads(body)) == (200, [])
    registry(node).put(12, preset())
    registry(node).put(3, preset("research"))
    registry(node).put(7, preset(), withdrawn_at=1_700_000_000)
    keep(tmp_path, 12, preset().canonical)
    keep(tmp_path, 3, preset().canonical)
    keep(tmp_path, 7, preset().canonical)
    (tmp_path / "licenses" / "notes.txt").write_text("no license")
    node.clock.now += KEPT_S
    status, body, headers = await get(node, TDMREP)
    rules = json.loads(body)
    assert status == 200 and headers["Content-Type"] == "application/json"
    spec.check_tdmrep(rules)
    policy = f"{ORIGIN}/license/12/tdm-policy.json"
    assert rules == [
        {"location": "/viz/v1/contents/3$", "tdm-reservation": 1},
        {"location": "/viz/v1/contents/3/", "tdm-reservation": 1},
        {"location": "/viz/v1/contents/7$", "tdm-reservation": 1},
        {"location": "/viz/v1/contents/7/", "tdm-reservation": 1},
        {"location": "/viz/v1/contents/12$", "tdm-reservation": 1, "tdm-policy": policy},
        {"location": "/viz/v1/contents/12/", "tdm-reservation": 1, "tdm-policy": policy},
    ]


async def list_work(node: Node, content_id: int, values: Mapping[str, Any]) -> None:
    """Keep an owner's listing, as `POST /viz/v1/listings` does after it verified the signature."""
    custodian = {"node": WALLET, "url": ORIGIN}
    listing = {
        "chainId": 31337, "contentRegistry": WALLET, "contentId": content_id, "title": "The keeper",
        "credit": "Alma", "language": "en", "kind": "text", "sizeBytes": 9, "license": values,
        "sealed": {"cid": "bafk", "sizeBytes": 9}, "custodians": [custodian], "issuedAt": 5,
        "sample": "",
    }  # fmt: skip
    record = ListingRecord(ContentId(content_id), 5, canonical_json(listing), b"s", 5)
    await node.store.put_listing(record, most=9)


async def test_a_listed_work_s_license_needs_no_hand_of_the_operator(
    node: Node, tmp_path: Path
) -> None:
    """A creator who registers with a license finds it at the custodian, and a miner its rule."""
    for content_id in (12, 13, 14):
        registry(node).put(content_id, preset())
        custody = CustodyRecord(ContentId(content_id), OWNER, Cid("bafk"), 9, 5)
        await node.store.put_custody(custody, most_each_bytes=99, most_bytes=99)
    await list_work(node, 12, preset().to_json())
    await list_work(node, 13, {"text": "Name the author."})
    await list_work(node, 14, changed({"licensor.name": "Somebody"}).to_json())
    registry(node).put(15, preset())
    await list_work(node, 15, preset().to_json())  # listed here, and held by another custodian
    for content_id in (12, 15):
        status, body, _ = await get(node, f"/license/{content_id}")
        assert status == 200 and keccak(body) == preset().license_hash
    assert json.loads((await get(node, "/license/13"))[1])["code"] == "license-unknown"
    assert json.loads((await get(node, "/license/14"))[1])["code"] == "license-mismatch"
    rules = json.loads((await get(node, TDMREP))[1])
    assert [rule["location"] for rule in rules if rule["location"].endswith("$")] == [
        f"/viz/v1/contents/{content_id}$" for content_id in (12, 13, 14)
    ]
    assert [rule.get("tdm-policy") for rule in rules[::2]] == [
        f"{ORIGIN}/license/12/tdm-policy.json", None, None
    ]  # fmt: skip
    keep(tmp_path, 14, preset().canonical)
    keep(tmp_path, 12, changed({"licensor.name": "Older"}).canonical)
    node.clock.now += KEPT_S
    assert [(await get(node, f"/license/{each}"))[0] for each in (12, 14)] == [200, 200]


async def test_a_withdrawn_work_s_license_says_so(node: Node, tmp_path: Path) -> None:
    """Who holds a grant still reads its license; nobody is offered a new one."""
    registry(node).put(12, preset(), withdrawn_at=1_700_000_000)
    keep(tmp_path, 12, preset().canonical)
    assert (await get(node, "/license/12"))[1] == preset().canonical
    assert b"This work was withdrawn" in (await get(node, "/license/12/summary.html"))[1]
    assert b"ai-all" in (await get(node, "/license/12/rsl.xml"))[1]
    assert json.loads((await get(node, "/license/12/rate-card.json"))[1])["open"] is False
    assert (await get(node, "/license/12/tdm-policy.json"))[0] == 404


async def test_new_terms_take_the_old_document_down(node: Node, tmp_path: Path) -> None:
    """What is shown is at most a minute older than the chain."""
    registry(node).put(12, preset())
    keep(tmp_path, 12, preset().canonical)
    assert (await get(node, "/license/12"))[0] == 200
    registry(node).put(12, preset("research"))
    node.clock.now += KEPT_S
    assert (await get(node, "/license/12"))[0] == 409
    keep(tmp_path, 12, preset("research").canonical)
    node.clock.now += KEPT_S
    assert (await get(node, "/license/12"))[0] == 200


async def test_a_chain_that_is_away_is_no_statement(node: Node, tmp_path: Path) -> None:
    """Without the chain nothing is known, so nothing is said: no empty list of reservations."""
    keep(tmp_path, 12, preset().canonical)
    node.chain.down = True
    for path in (TDMREP, "/license/12"):
        status, body, _ = await get(node, path)
        assert (status, json.loads(body)["code"]) == (503, "chain-unreachable")


async def test_the_command_line_reads_a_license_from_a_node(node: Node, tmp_path: Path) -> None:
    """A trainer or buyer needs no file from the creator to read what it would agree to."""
    registry(node).put(12, preset())
    keep(tmp_path, 12, preset().canonical)
    said = {}
    for number in (12, 13):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "viz", "license", "show", "--content", str(number),
            "--node", node.url, "--json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said[number] = (*(await process.communicate()), process.returncode)
    assert json.loads(said[12][0]) == preset().to_json() and said[12][2] == 0
    assert said[13][2] == 7 and b"license-unknown" in said[13][1]


async def test_a_chain_that_is_slow_ends_the_look(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at many works ends in time, and tells no short list."""
    monkeypatch.setattr("viz.services.licensing.license_documents.MAX_LOOK_S", 0.05)
    registry(node).put(12, preset())
    keep(tmp_path, 12, preset().canonical)

    async def never(terms_hash: Hash32) -> TermsState | None:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(node.chain, "terms", never)
    status, body, _ = await get(node, TDMREP)
    assert (status, json.loads(body)["code"]) == (503, "chain-unreachable")


async def test_strangers_cannot_make_the_node_ask_its_chain_without_end(tmp_path: Path) -> None:
    """One reading serves all who ask within a minute, and readings of many works are counted."""
    chain = Registry(NODE_KEY)
    limits = ApiLimits(64 * 1024, questions_per_minute=5)
    async with running_node(tmp_path, chain=chain, limits=limits) as node:
        chain.put(12, preset())
        keep(tmp_path, 12, preset().canonical)
        for number in range(MAX_DOCUMENTS + 10):
            keep(tmp_path, 1_000 + number, b"{}")
        before = chain.reads
        for _ in range(20):
            assert (await get(node, "/license/12/rsl.xml"))[0] == 200
        assert chain.reads - before == 2
        before = chain.reads
        rules = json.loads((await get(node, TDMREP))[1])
        assert len(rules) == 2 * MAX_DOCUMENTS and chain.reads - before == 2
        found = [(await get(node, f"/license/{number}"))[0] for number in range(20, 40)]
        assert set(found) == {404, 429}
