"""What nodes without run or offer still have of a withdrawn work: custody, dropped adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from tests.fakes.engine import fake_adapter_file
from tests.integration.chain.testnet import CLOSE_DELAY_S, Testnet, terms
from tests.integration.network.nodes import RealNode, real_node
from tests.integration.network.works import CreatorsWork, license_to, registered_work

from viz.creator.sealed import publish_listing
from viz.domain.units import AdapterId, ContentId, Hash32
from viz.protocol.destruction import CERTIFICATES_PATH, Certificates
from viz.protocol.listing import LISTING_PATH, LISTINGS_PATH
from viz.services.adapters.publishing import Publication
from viz.services.withdrawal.last_use import FINAL_S

CUSTODIAN, TRAINER, SERVER, THIEF, OWNER = 5, 6, 7, 8, 9
DAY_S = 86_400
PATIENT = 4 * DAY_S


@pytest_asyncio.fixture
async def custodian(net: Testnet, tmp_path: Path) -> AsyncIterator[RealNode]:
    async with real_node(net, tmp_path / "a", CUSTODIAN, serves=False) as running:
        yield running


async def withdraw(net: Testnet, work: CreatorsWork) -> None:
    await net.done(net.sender(work.account), "ContentRegistry", "withdraw", work.content_id)


async def later(net: Testnet, seconds: int, node: RealNode) -> None:
    """Move the chain's time, and take the look that a node takes each minute."""
    await net.anvil.advance_time(seconds)
    await node.withdrawals.step()


async def destroyed(node: RealNode, work: ContentId) -> set[str]:
    """Return the kinds of what the node's certificates say that it destroyed."""
    _, body = await node.call("GET", CERTIFICATES_PATH.format(content_id=work))
    found = Certificates.from_json(body).certificates
    return {item.kind for each in found for item in each.destroyed}


def keys_of(node: RealNode, work: CreatorsWork) -> list[str]:
    """Return the files of a node with the work's key or its sealed bytes."""
    wanted = (work.sealed.key.encode(), work.sealed.path.read_bytes()[-64:])
    files = node.files().items()
    return sorted(name for name, data in files if any(each in data for each in wanted))


async def test_a_pure_custodian_destroys_what_no_grant_permits_any_more(
    net: Testnet, custodian: RealNode, tmp_path: Path
) -> None:
    """Without model, run or adapter: key, blob and record go with the last grant's end, not
    before, and each owner has a certificate; a class 0 grant keeps its work's key to its end."""
    works = [
        await registered_work(
            net,
            tmp_path / f"class {number}",
            text=f"A text of its own, number {number}. " * 40,
            offered=terms(revocation_class=number, notice_s=DAY_S, grant_duration_s=PATIENT),
        )
        for number in (0, 2)
    ]
    kept, ended = works
    for work in works:
        await work.publish(custodian)
        await license_to(net, TRAINER, work)
        await withdraw(net, work)
    await later(net, FINAL_S, custodian)
    assert keys_of(custodian, ended) and keys_of(custodian, kept), "grants are live"
    await later(net, DAY_S, custodian)
    assert keys_of(custodian, ended) == []
    assert len(keys_of(custodian, kept)) == 2
    assert await destroyed(custodian, ended.content_id) == {
        "key of the sealed work", "sealed work", "place in custody", "listing with its sample",
    }  # fmt: skip
    assert await custodian.store.custody(ended.content_id) is None, "its bytes count no more"
    await later(net, PATIENT, custodian)
    assert keys_of(custodian, kept) == []
    status, _ = await custodian.call("GET", f"/ipfs/{ended.sealed.cid}")
    assert status == 451


async def test_who_sold_a_work_cannot_end_its_custody_by_a_twin(
    net: Testnet, custodian: RealNode, tmp_path: Path
) -> None:
    """A creator sells a work, registers it a second time, hands the same sealed bytes over and
    withdraws the twin: the buyer's key stays, and goes with the buyer's own withdrawal."""
    work = await registered_work(net, tmp_path / "creator", offered=terms(revocation_class=2))
    await work.publish(custodian)
    creator, owner = net.sender(work.account), net.sender(OWNER)
    sold = (creator.address, owner.address, work.content_id)
    await net.done(creator, "ContentRegistry", "transferFrom", *sold)
    record = work.record
    again = (record.commitment, record.license_hash, record.terms.abi())
    sent = await net.done(creator, "ContentRegistry", "register", *again)
    second = ContentId(sent.event("ContentRegistered").args["contentId"])
    twin = replace(work, record=replace(record, content_id=second))
    await twin.hand_over(custodian)
    await withdraw(net, twin)
    await later(net, FINAL_S + 60, custodian)
    assert await custodian.store.custody(second) is None
    assert len(keys_of(custodian, work)) == 2, "its owner has not withdrawn"
    assert await destroyed(custodian, second) == {"place in custody"}
    await withdraw(net, replace(work, account=OWNER))
    await later(net, FINAL_S + 60, custodian)
    assert keys_of(custodian, work) == []


async def test_a_withdrawn_work_s_sample_is_shown_no_more_and_destroyed(
    net: Testnet, custodian: RealNode, tmp_path: Path
) -> None:
    """In every class, also where all use goes on: the listing offers a license that nobody can get.
    No class permits a node to publish the work's text, and no file of the ledger keeps it."""
    for number in (0, 1, 2):
        offered = terms(revocation_class=number, notice_s=DAY_S, grant_duration_s=PATIENT)
        text = f"A text of its own, number {number}. " * 40
        home = tmp_path / f"class {number}"
        work = await registered_work(net, home, text=text, offered=offered)
        await work.hand_over(custodian)
        sample = f"Nobody else keeps the light number {number}."
        listing = await work.listing(custodian, sample=sample)
        await publish_listing(work.path, listing, [custodian.url])
        await license_to(net, TRAINER, work)
        path = LISTING_PATH.format(content_id=int(work.content_id))
        assert sample in str(await custodian.call("GET", path))
        await withdraw(net, work)
        await later(net, 60, custodian)
        status, problem = await custodian.call("GET", path)
        assert status == 404 and "was withdrawn" in problem["detail"]
        assert sample not in str(await custodian.call("GET", LISTINGS_PATH))
        assert await destroyed(custodian, work.content_id) == set(), "a block may vanish"
        await later(net, FINAL_S, custodian)
        kept = [name for name, data in custodian.files().items() if sample.encode() in data]
        assert kept == [], "neither the ledger nor its log has it"
        assert await destroyed(custodian, work.content_id) == {"listing with its sample"}
        assert keys_of(custodian, work), "the grant is live"
        status, problem = await custodian.call("POST", LISTINGS_PATH, body=listing.to_json())
        assert problem["code"] == "license" and "was withdrawn, 20" in problem["detail"]
        assert (await custodian.call("GET", path))[0] == 404


@pytest.mark.parametrize("dropped", [True, False], ids=["dropped", "not loaded"])
async def test_an_adapter_that_was_dropped_before_the_withdrawal_goes_too(
    net: Testnet, tmp_path: Path, dropped: bool
) -> None:
    """Weights lie on the disk of a node that stopped selling them, or could not load them at its
    start: at the retirement they go, and not before; another's adapter with the same digest, which
    is withdrawn first, ends nothing."""
    work = await registered_work(net, tmp_path / "creator", offered=terms(revocation_class=2))
    async with (
        real_node(net, tmp_path / "b", TRAINER) as trainer,
        real_node(net, tmp_path / "c", SERVER) as server,
    ):
        adapter, weights = await _second_server(net, trainer, server, work, tmp_path)
        if dropped:
            assert (await server.operate("DELETE", f"/adapters/{adapter}"))[0] < 300
        else:  # as after a start at which it was left out
            server.parts.catalogue._records.clear()
        await _same_weights_withdrawn(net, adapter, work)
        await later(net, 2 * CLOSE_DELAY_S + 60, server)
        assert _weights(server, weights), "the first adapter is licensed still"
        await withdraw(net, work)
        await later(net, 2 * CLOSE_DELAY_S - 60, server)
        assert _weights(server, weights), "its notice runs"
        await later(net, 7_200, server)
        assert not _weights(server, weights)
        state = await net.chain.adapter(adapter)
        assert state is not None
        status, _ = await server.call("GET", f"/ipfs/{state.cid}")
        assert status == 451, "its blob is denied"
        assert await destroyed(server, work.content_id) == {"weights", "blob"}


async def _second_server(
    net: Testnet, trainer: RealNode, server: RealNode, work: CreatorsWork, folder: Path
) -> tuple[AdapterId, bytes]:
    """Publish an adapter at one node, and sell it at another."""
    await license_to(net, TRAINER, work)
    weights = fake_adapter_file(folder / "adapter.safetensors")
    shares = [(work.content_id, 10_000)]
    made = await trainer.parts.publishing.publish(
        Publication(
            weights, trainer.engine.model.digest, Hash32(b"\x0c" * 32), 3_000, 1_000, shares
        )
    )
    await trainer.announce()
    body = {"adapterId": int(made.adapter_id), "node": server.address, "allowed": True}
    assert (await trainer.operate("POST", "/adapters/permissions", body))[0] == 200
    body = {"adapterId": int(made.adapter_id)}
    assert (await server.operate("POST", "/adapters", body))[0] == 201
    return made.adapter_id, weights.read_bytes()


async def _same_weights_withdrawn(net: Testnet, adapter: AdapterId, work: CreatorsWork) -> None:
    """Let a stranger register the same weights over its own work, and withdraw that."""
    state = await net.chain.adapter(adapter)
    assert state is not None
    own = await net.register_work(net.sender(THIEF), terms(revocation_class=2))
    content = await net.chain.content(own)
    assert content is not None
    thief = net.sender(THIEF)
    await net.mint(thief.address, 100)
    await net.done(thief, "Token", "approve", net.deployment.content_registry, 100)
    await net.done(thief, "ContentRegistry", "acquireGrant", own, content.terms_hash)
    row = (state.base_model, state.weights_digest, state.cid, state.manifest_hash, 3_000, 1_000)
    await net.done(thief, "AdapterRegistry", "register", *row, [own << 16 | 10_000])
    await net.done(thief, "ContentRegistry", "withdraw", own)


def _weights(node: RealNode, weights: bytes) -> bool:
    return any(weights[-64:] in data for data in node.files().values())
