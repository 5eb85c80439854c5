"""A trainer gets a licensed work without its creator: key, blob and check, or nothing at all."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from tests.fakes.impatience import waits_a_moment_for
from tests.integration.chain.testnet import Testnet, terms
from tests.integration.network.nodes import RealNode, liar, listed, real_node
from tests.integration.network.works import (
    LICENSE,
    QUESTIONS,
    SECRET,
    CreatorsWork,
    license_to,
    registered_work,
)

from viz.domain.eip712 import keccak
from viz.domain.work import MAX_WORK_BYTES
from viz.protocol.custody import KEY_CHALLENGE_PATH
from viz.protocol.listing import LISTING_PATH, LISTINGS_PATH, MAX_SEALED_BYTES
from viz.protocol.wire import canonical_json
from viz.services.licensing import licensed_works
from viz.services.work_records import load_record
from viz.storage.sealing import new_identity

CUSTODIAN, TRAINER, OTHER = 5, 6, 7
# Several blocks of 256 KiB.
LONG = "".join(f"{SECRET} Evening {number}.\n\n" for number in range(12_000))


@pytest_asyncio.fixture
async def custodian(net: Testnet, tmp_path: Path) -> AsyncIterator[RealNode]:
    async with real_node(net, tmp_path / "a", CUSTODIAN) as running:
        yield running


@pytest_asyncio.fixture
async def trainer(net: Testnet, tmp_path: Path) -> AsyncIterator[RealNode]:
    async with real_node(net, tmp_path / "b", TRAINER) as running:
        yield running


@pytest_asyncio.fixture
async def work(net: Testnet, tmp_path: Path) -> CreatorsWork:
    return await registered_work(net, tmp_path / "creator")


async def told(node: RealNode, work: CreatorsWork, *custodians: RealNode) -> None:
    """Hand the work's listing to a node, as another node of the network would."""
    signed = await work.listing(*custodians)
    status, answer = await node.call("POST", LISTINGS_PATH, body=signed.to_json())
    assert status == 201, answer


async def fetch(node: RealNode, work: CreatorsWork) -> tuple[int, Any]:
    return await node.operate("POST", "/works", {"contentId": int(work.content_id)})


def nothing_plain(node: RealNode) -> bool:
    """Return whether no byte of the work is on the node's disk."""
    return not [name for name, data in node.files().items() if SECRET.encode() in data]


async def test_a_licensed_work_is_fetched_checked_and_kept_for_its_trainer_alone(
    net: Testnet, custodian: RealNode, trainer: RealNode, work: CreatorsWork
) -> None:
    """File and record are the creator's, readable by the trainer only; no key stays."""
    await work.publish(custodian)
    await told(trainer, work, custodian)
    await license_to(net, TRAINER, work)
    status, found = await fetch(trainer, work)
    assert status == 200, found
    path = Path(found["path"])
    assert path == trainer.folder / "works" / "1" / "work.txt"
    assert path.read_bytes() == work.path.read_bytes()
    record = load_record(path)
    assert record is not None and record.salt == work.record.salt and record.license == LICENSE
    asked = path.with_name("questions.json")
    assert json.loads(asked.read_bytes()) == QUESTIONS
    for each in (path, path.with_name("work.txt.registration.json"), asked):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = trainer.files()
    assert not [name for name, data in files.items() if work.sealed.key.encode() in data]
    assert not [name for name in files if name.endswith((".age", ".part"))]


async def test_training_names_a_work_by_its_id(
    net: Testnet, custodian: RealNode, trainer: RealNode, work: CreatorsWork
) -> None:
    """No file is at hand: the node fetches the work, and plans the run as with the file."""
    await work.publish(custodian)
    await told(trainer, work, custodian)
    request = {"works": [{"contentId": int(work.content_id)}], "dryRun": True}
    status, problem = await trainer.operate("POST", "/trainings", request)
    assert (status, problem["code"]) == (403, "no-live-grant")
    await license_to(net, TRAINER, work)
    status, plan = await trainer.operate("POST", "/trainings", request)
    assert status == 200, plan
    by_path = {"works": [{"path": str(work.path)}], "dryRun": True}
    _, same = await trainer.operate("POST", "/trainings", by_path)
    # The pace of the machine is measured for each plan, so the seconds may differ.
    assert plan["estimate"].pop("seconds") > 0 and same["estimate"].pop("seconds") > 0
    assert plan == same
    status, problem = await trainer.operate("POST", "/trainings", {"works": [{"contentId": "1"}]})
    assert (status, problem["code"]) == (400, "invalid-request")


async def test_a_work_is_found_through_the_directory(
    net: Testnet, custodian: RealNode, trainer: RealNode, work: CreatorsWork
) -> None:
    """Whoever knows only the id asks the listed nodes, and believes the owner's signature alone."""
    await work.publish(custodian)
    await custodian.announce()
    await license_to(net, TRAINER, work)
    status, found = await fetch(trainer, work)
    assert status == 200, found
    assert Path(found["path"]).read_bytes() == work.path.read_bytes()


async def test_who_has_no_grant_asks_nobody(
    net: Testnet, custodian: RealNode, trainer: RealNode, work: CreatorsWork
) -> None:
    """Without a license neither key nor blob is asked for."""
    await work.publish(custodian)
    await told(trainer, work, custodian)
    status, problem = await fetch(trainer, work)
    assert (status, problem["code"]) == (403, "no-live-grant")
    assert nothing_plain(trainer) and not (trainer.folder / "incoming").exists()


async def test_a_source_that_lies_is_left_for_one_that_does_not(
    net: Testnet, custodian: RealNode, trainer: RealNode, tmp_path: Path
) -> None:
    """The custodian's gateway sends other bytes: the key is good, and another node has the blob."""
    work = await registered_work(net, tmp_path / "creator", text=LONG)
    await work.publish(custodian)
    await told(trainer, work, custodian)
    await license_to(net, TRAINER, work)
    blocks = sorted((custodian.folder / "blobs" / "blocks").rglob("baf*"))
    assert len(blocks) > 2
    for block in blocks:
        block.write_bytes(b"something else")
    status, problem = await fetch(trainer, work)
    assert (status, problem["code"]) == (404, "blob-not-found")
    assert "no source has all of the blob" in problem["detail"] and nothing_plain(trainer)
    async with real_node(net, tmp_path / "c", OTHER) as other:
        await other.blobs.add(work.sealed.path)
        async with liar({"/ipfs/": b"lies"}) as url:
            await listed(net, 8, url)
            await other.announce()
            status, found = await fetch(trainer, work)
    assert status == 200, found
    assert Path(found["path"]).read_text() == LONG


async def test_a_slow_source_and_an_endless_one_are_left(
    net: Testnet, custodian: RealNode, trainer: RealNode, work: CreatorsWork, tmp_path: Path
) -> None:
    """Neither a node that hangs nor one that sends without end holds a fetch up."""
    await work.publish(custodian)
    signed = await work.listing(custodian)
    (custodian.folder / "blobs" / "blocks").rename(custodian.folder / "away")

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(65_536))

    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async with (
        liar({"/ipfs/": endless}) as first,
        liar({"/ipfs/": silent}) as second,
        real_node(net, tmp_path / "c", OTHER) as other,
    ):
        await listed(net, 8, first)
        await listed(net, 9, second)
        await other.blobs.add(work.sealed.path)
        await other.announce()
        await trainer.call("POST", LISTINGS_PATH, body=signed.to_json())
        await license_to(net, TRAINER, work)
        status, found = await fetch(trainer, work)
    assert status == 200, found


@pytest.mark.parametrize("wrong", ["key", "cut", "other"])
async def test_what_does_not_open_to_the_work_leaves_nothing(
    net: Testnet, custodian: RealNode, trainer: RealNode, tmp_path: Path, wrong: str
) -> None:
    """A wrong key, a truncated blob, another work under the listing: refused, no plain byte."""
    work = await registered_work(net, tmp_path / "creator")
    await work.publish(custodian)
    await license_to(net, TRAINER, work)
    changes: dict[str, Any] = {}
    if wrong == "key":
        (kept,) = (custodian.folder / "keys").iterdir()
        kept.write_text(new_identity())
    else:
        if wrong == "cut":
            body = work.sealed.path.read_bytes()[:-20]
        else:
            second = await registered_work(
                net, tmp_path / "second", account=2, text=f"{SECRET} And another end.\n\n" * 3
            )
            body = second.sealed.path.read_bytes()
            work.sealed = second.sealed
        cid = await custodian.blobs.add(body)
        await custodian.parts.custodian.keep_own(cid, work.sealed.key)
        changes = {"sealed": {"cid": cid, "sizeBytes": len(body)}}
        kept_work = await custodian.store.custody(work.content_id)
        assert kept_work is not None
        await custodian.store.put_custody(
            type(kept_work)(work.content_id, kept_work.owner, cid, len(body), 1),
            most_each_bytes=10**9,
            most_bytes=10**9,
        )
    signed = await work.listing(custodian, issuedAt=1, **changes)
    status, answer = await trainer.call("POST", LISTINGS_PATH, body=signed.to_json())
    assert status == 201, answer
    status, problem = await fetch(trainer, work)
    expected = "commitment-mismatch" if wrong == "other" else "seal-broken"
    assert problem["code"] == expected and status >= 400
    assert nothing_plain(trainer)
    assert not [name for name in trainer.files() if name.startswith("works/")]


async def test_a_blob_larger_than_its_listing_is_not_fetched(
    net: Testnet, custodian: RealNode, trainer: RealNode, tmp_path: Path
) -> None:
    """The listing's size is the bound, whatever a source would send."""
    work = await registered_work(net, tmp_path / "creator", text=LONG)
    await work.publish(custodian)
    await license_to(net, TRAINER, work)
    small = {"cid": work.sealed.cid, "sizeBytes": 10_000}
    signed = await work.listing(custodian, sealed=small)
    assert (await trainer.call("POST", LISTINGS_PATH, body=signed.to_json()))[0] == 201
    status, problem = await fetch(trainer, work)
    assert (status, problem["code"]) == (413, "blob-too-large")
    assert nothing_plain(trainer)


@pytest.mark.parametrize("member", ["sizeBytes", "sealed"])
async def test_a_listing_that_claims_two_gigabytes_is_not_followed(
    net: Testnet, custodian: RealNode, trainer: RealNode, work: CreatorsWork, member: str
) -> None:
    """Its owner signed it, and a node passes it on: neither key nor blob is asked for, and nothing
    comes onto the disk. The refusal names the bound."""
    await work.publish(custodian)
    await license_to(net, TRAINER, work)
    claim: Any = 2 * 1024**3
    if member == "sealed":
        claim = {"cid": work.sealed.cid, "sizeBytes": claim}
    false = await work.unchecked_listing(custodian, **{member: claim})
    before = {name for name in trainer.files() if "ledger" not in name}
    status, problem = await trainer.call("POST", LISTINGS_PATH, body=false)
    assert (status, problem["code"]) == (400, "invalid-listing")
    bound = MAX_SEALED_BYTES if member == "sealed" else MAX_WORK_BYTES
    assert "sizeBytes" in problem["detail"] and str(bound) in problem["detail"]
    asked: list[str] = []

    async def passed_on(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.json_response(false)

    async with liar({"/": passed_on}) as url:
        await listed(net, 8, url)
        status, problem = await fetch(trainer, work)
    assert (status, problem["code"]) == (404, "listing-unknown")
    assert asked == [LISTING_PATH.format(content_id=work.content_id)]
    assert {name for name in trainer.files() if "ledger" not in name} == before


async def test_a_listing_is_found_past_nodes_that_flood_or_hang(
    net: Testnet,
    custodian: RealNode,
    trainer: RealNode,
    work: CreatorsWork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """10 MB of JSON, silence, another work's listing, one URL under two names: the next node is
    asked, and no URL twice."""
    await work.publish(custodian)
    await license_to(net, TRAINER, work)
    other = (await work.listing(custodian, contentId=77)).to_json()
    asked: list[str] = []

    async def flood(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.json_response({"listing": "x" * 10_000_000})

    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("nobody waits so long")

    async def another(request: web.Request) -> web.StreamResponse:
        return web.json_response(other)

    async with (
        liar({"/viz/v1/listings": flood}) as first,
        liar({"/viz/v1/listings": silent}) as second,
        liar({"/viz/v1/listings": another}) as third,
    ):
        waits_a_moment_for(monkeypatch, trainer.peers, second)
        monkeypatch.setattr(licensed_works, "MAX_NODES", 1)  # of a blob's sources: not of these
        for account, url in ((7, first), (8, first), (9, second), (2, third)):
            await listed(net, account, url)
        await custodian.announce()
        status, found = await fetch(trainer, work)
    assert status == 200, found
    assert Path(found["path"]).read_bytes() == work.path.read_bytes()
    assert asked == [LISTING_PATH.format(content_id=work.content_id)]


async def test_private_addresses_are_not_asked(
    net: Testnet, custodian: RealNode, work: CreatorsWork, tmp_path: Path
) -> None:
    """A listing or a directory entry that names 127.0.0.1 makes no node ask its own machine."""
    await work.publish(custodian)
    asked: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.json_response({})

    async with (
        liar({"/": note}) as url,
        real_node(net, tmp_path / "strict", TRAINER, private_addresses=False) as strict,
    ):
        await listed(net, 8, url)
        await told(strict, work, custodian)
        await license_to(net, TRAINER, work)
        status, problem = await fetch(strict, work)
        assert (status, problem["code"]) == (403, "address-not-public")
        assert nothing_plain(strict)
    assert asked == []


async def test_a_custodian_that_is_somebody_else_gets_no_signature(
    net: Testnet, custodian: RealNode, trainer: RealNode, work: CreatorsWork
) -> None:
    """Behind the listing's URL answers another node, or one that relays its challenge."""
    await work.publish(custodian)
    await license_to(net, TRAINER, work)

    async def relayed(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        _, answer = await custodian.call("POST", KEY_CHALLENGE_PATH, body=body)
        return web.json_response(answer)

    async with liar({"/viz/v1/keys": relayed}) as url:
        named = [{"node": custodian.address, "url": url}]
        signed = await work.listing(custodian, custodians=named)
        await trainer.call("POST", LISTINGS_PATH, body=signed.to_json())
        status, problem = await fetch(trainer, work)
    assert problem["code"] == "node-not-trusted" and "nothing was signed" in problem["detail"]
    assert status >= 400 and nothing_plain(trainer)


async def test_the_license_that_was_granted_comes_with_the_work(
    net: Testnet, custodian: RealNode, trainer: RealNode, work: CreatorsWork
) -> None:
    """After a change of terms, the text that binds is the one whose hash the grant names."""
    await work.publish(custodian)
    await license_to(net, TRAINER, work)
    new = {"text": "Other conditions.", "max_verbatim_tokens": 5}
    offered = terms(grant_duration_s=7_200)
    call = (work.content_id, keccak(canonical_json(new)), offered.abi())
    await net.done(net.sender(work.account), "ContentRegistry", "setTerms", *call)
    signed = await work.listing(custodian, license=new)
    assert (await trainer.call("POST", LISTINGS_PATH, body=signed.to_json()))[0] == 201
    status, found = await fetch(trainer, work)
    assert status == 200, found
    record = load_record(Path(found["path"]))
    assert record is not None and record.license == LICENSE
