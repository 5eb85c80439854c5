"""Publishing and activating an adapter: the chain's word, the bytes, the engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.ledger import MemoryStore
from tests.integration.chain.testnet import Testnet, terms
from tests.integration.services.claiming import SystemClock

from viz.chain.keys import development_account
from viz.chain.memory_journal import MemoryJournal
from viz.chain.rpc import Rpc
from viz.chain.sender import Sender
from viz.domain.engines import Engines
from viz.domain.ports.engine import BaseModel
from viz.domain.ports.settlement_ledger import SignedTransaction
from viz.domain.ports.transactions import Call
from viz.domain.units import AdapterId, Cid, ContentId, Hash32
from viz.errors import (
    AdapterNotServable,
    BlobCorrupt,
    InsufficientFunds,
    InvalidRequest,
    NoLiveGrant,
    StorageUnavailable,
    TransactionFailed,
    UnknownAdapter,
)
from viz.outbound import Outbound
from viz.services.adapters.publishing import Publication, Publishing
from viz.services.adapters.sealed_weights import SealedWeights
from viz.services.custody.custodian import Custodian, CustodianIdentity, CustodyPolicy
from viz.services.custody.key_requests import KeyRequests
from viz.storage.key_folder import KeyFolder
from viz.storage.sealing import new_identity
from viz.storage.sources import SourcedBlobs

BASE = Hash32(b"\x0b" * 32)
WEIGHTS = b"not really tensors: this service never looks inside" * 100


class ListeningEngine:
    """Stands for the engine where only what it is handed matters."""

    def __init__(self, digest: Hash32 = BASE) -> None:
        self.model = BaseModel("base", digest, Hash32(b"\1" * 32), 2_048, 49_152, 81)
        self.handed: dict[AdapterId, bytes] = {}

    async def add_adapter(self, adapter_id: AdapterId, weights: Path) -> None:
        self.handed[adapter_id] = weights.read_bytes()


class Desk:
    """A trainer's publishing service with its parts at hand."""

    def __init__(
        self,
        net: Testnet,
        folder: Path,
        *,
        account: int = 4,
        sender: Sender | None = None,
        **engine: Any,
    ) -> None:
        self.engine = cast(Any, ListeningEngine(**engine))
        self.blobs = MemoryBlobStore()
        sender, peers = sender or net.sender(account), Outbound()
        identity = CustodianIdentity(sender.address, "http://node.test", new_identity())
        custodian = Custodian(
            net.chain,
            MemoryStore(),
            KeyFolder(folder / "keys"),
            self.blobs,
            SystemClock(),
            identity=identity,
            policy=CustodyPolicy(0, 0),
            directory=folder / "sealed",
        )
        weights = SealedWeights(
            net.chain,
            self.blobs,
            SourcedBlobs(self.blobs, peers, folder / "incoming"),
            custodian,
            KeyRequests(
                peers,
                net.deployment,
                node=sender.address,
                key=bytes(development_account(account).key),
                age_identity=identity.age_identity,
            ),
            node=sender.address,
            directory=folder / "sealed",
            max_bytes=10**6,
        )
        self.service = Publishing(
            net.chain, sender, weights, folder / "active", engines=Engines([self.engine])
        )


def publication(folder: Path, works: list[ContentId], **changes: Any) -> Publication:
    weights = folder / "adapter.safetensors"
    weights.write_bytes(WEIGHTS)
    parts = [10_000 // len(works)] * len(works)
    parts[0] += 10_000 - sum(parts)
    values: dict[str, Any] = {
        "weights": weights,
        "base_model": BASE,
        "manifest_hash": Hash32(b"\x0c" * 32),
        "royalty_bps": 3_000,
        "trainer_bps": 1_000,
        "shares": list(zip(works, parts, strict=True))[::-1],
    }
    return Publication(**(values | changes))


async def licensed(net: Testnet) -> list[ContentId]:
    """Two works with grants of account 4."""
    works = [await net.register_work(net.sender(index)) for index in (1, 2)]
    await net.register_adapter(net.sender(4), works)
    return works


async def test_published_weights_come_back_and_reach_the_engine(
    net: Testnet, tmp_path: Path
) -> None:
    """CID, digest, rates and share table are read back from the chain; the bytes are the same."""
    works = await licensed(net)
    desk = Desk(net, tmp_path)
    made = await desk.service.publish(publication(tmp_path, works))
    state = await desk.service.activate(made.adapter_id)
    assert (state.cid, state.weights_digest) == (made.cid, made.weights_digest)
    assert state.shares == ((works[0], 5_000), (works[1], 5_000))
    assert (state.royalty_bps, state.trainer_bps) == (3_000, 1_000)
    assert desk.engine.handed == {made.adapter_id: WEIGHTS}
    assert not [block for block in desk.blobs.blocks.values() if WEIGHTS[:40] in block]
    assert list((tmp_path / "sealed").iterdir()) == []


class Killed(BaseException):
    """The process ends here."""


class DyingJournal(MemoryJournal):
    """Dies with a transaction recorded, before it is broadcast."""

    async def record(self, transaction: SignedTransaction) -> None:
        await super().record(transaction)
        raise Killed


class DyingRpc(Rpc):
    """Dies with a transaction broadcast, before its outcome is known."""

    async def receipt(self, transaction_hash: Hash32) -> Any:
        raise Killed


@pytest.mark.parametrize("moment", ["recorded", "broadcast"])
async def test_a_registration_that_a_kill_cut_off_is_taken_up_and_not_repeated(
    net: Testnet, tmp_path: Path, moment: str
) -> None:
    """What is in the journal decides: one adapter, under the CID that is kept here."""
    works = await licensed(net)
    before = await net.chain.adapters.count()
    dying = DyingJournal() if moment == "recorded" else MemoryJournal()
    rpc = DyingRpc(net.anvil.url) if moment == "broadcast" else Rpc(net.anvil.url)
    account = development_account(4)
    desk = Desk(net, tmp_path, sender=Sender(rpc, account, net.deployment, journal=dying))
    wanted = publication(tmp_path, works)
    with pytest.raises(Killed):
        await desk.service.publish(wanted)
    await rpc.close()
    journal = MemoryJournal()
    for entry in await dying.pending(desk.service._writer.address):
        await journal.record(entry)
    restarted = Desk(net, tmp_path, sender=net.sender(4, journal=journal))
    restarted.blobs.blocks.update(desk.blobs.blocks)
    made = await restarted.service.publish(wanted)
    assert await net.chain.adapters.count() == made.adapter_id == before + 1
    assert (await restarted.service.activate(made.adapter_id)).cid == made.cid
    assert await restarted.service.publish(wanted) == made
    other = await restarted.service.publish(publication(tmp_path, works, royalty_bps=2_000))
    assert other.adapter_id == made.adapter_id + 1


class SilentRpc(Rpc):
    """Takes a transaction, and stops its sender in the wait for the block, once."""

    stops = True

    async def receipt(self, transaction_hash: Hash32) -> Any:
        if self.stops:
            self.stops = False
            raise Killed
        return await super().receipt(transaction_hash)


async def test_a_registration_that_was_sent_shares_no_blob_with_the_next(
    net: Testnet, tmp_path: Path
) -> None:
    """The end of one of two adapters would destroy the key of both."""
    works = await licensed(net)
    rpc = SilentRpc(net.anvil.url)
    desk = Desk(net, tmp_path, sender=Sender(rpc, development_account(4), net.deployment))
    with pytest.raises(Killed):
        await desk.service.publish(publication(tmp_path, works))
    other = await desk.service.publish(publication(tmp_path, works, royalty_bps=2_000))
    made = await desk.service.publish(publication(tmp_path, works))
    assert other.adapter_id == made.adapter_id + 1 and other.cid != made.cid
    await rpc.close()


@pytest.mark.parametrize("lost", ["nothing", "blob", "key"])
async def test_what_was_stored_for_a_refused_registration_is_used_while_it_is_there(
    net: Testnet, tmp_path: Path, lost: str
) -> None:
    """An adapter must not be registered with a blob that nobody has, or nobody can open."""
    works = await licensed(net)
    desk = Desk(net, tmp_path)
    trainer = net.sender(4).address
    await net.anvil.fund(trainer, 1)
    with pytest.raises(InsufficientFunds):
        await desk.service.publish(publication(tmp_path, works))
    (first,) = desk.blobs.pins
    await net.anvil.fund(trainer)
    if lost == "blob":
        await desk.blobs.erase(first)
    elif lost == "key":
        (tmp_path / "keys" / f"{first}.key").unlink()
    made = await desk.service.publish(publication(tmp_path, works))
    assert (made.cid == first) is (lost == "nothing")
    await desk.service.activate(made.adapter_id)
    assert desk.engine.handed == {made.adapter_id: WEIGHTS}
    other = await desk.service.publish(publication(tmp_path, works, royalty_bps=2_000))
    assert other.cid != made.cid


async def test_no_key_is_left_of_weights_that_were_not_stored(
    net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publication is tried again every 15 seconds, with a fresh key each time."""
    works = await licensed(net)
    desk = Desk(net, tmp_path)
    storing = asyncio.Event()

    async def full(_: Path) -> Cid:
        assert len(list((tmp_path / "keys").iterdir())) == 1
        raise StorageUnavailable("the disk is full")

    async def hanging(_: Path) -> Cid:
        storing.set()
        return await asyncio.Future()

    monkeypatch.setattr(desk.blobs, "_store", full)
    with pytest.raises(StorageUnavailable, match="the disk is full"):
        await desk.service.publish(publication(tmp_path, works))
    assert list((tmp_path / "keys").iterdir()) == []
    monkeypatch.setattr(desk.blobs, "_store", hanging)
    cut_off = asyncio.create_task(desk.service.publish(publication(tmp_path, works)))
    await storing.wait()
    cut_off.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cut_off
    assert list((tmp_path / "keys").iterdir()) == []


async def test_without_a_grant_nothing_is_stored_or_sent(net: Testnet, tmp_path: Path) -> None:
    """The contract's own reason comes before any work is done."""
    work = await net.register_work(net.sender(1))
    desk = Desk(net, tmp_path)
    with pytest.raises(NoLiveGrant, match="Unlicensed: content id 1"):
        await desk.service.publish(publication(tmp_path, [work]))
    assert desk.blobs.blocks == {} and not (tmp_path / "keys").exists()
    assert await net.rpc.transaction_count(net.sender(4).address) == 0


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"royalty_bps": 100}, TransactionFailed, "less than its license asks"),
        ({"royalty_bps": 9_500}, InvalidRequest, "more than 10,000"),
        ({"shares": []}, InvalidRequest, "1 to 128"),
        ({"shares": [(1, 6_000), (2, 5_000)]}, InvalidRequest, "sum to 10,000"),
    ],
)
async def test_a_registration_that_would_fail_stores_nothing(
    net: Testnet, tmp_path: Path, changes: dict[str, Any], error: type[Exception], reason: str
) -> None:
    """Rates and shares are judged before the weights are added."""
    works = await licensed(net)
    desk = Desk(net, tmp_path)
    with pytest.raises(error, match=reason):
        await desk.service.publish(publication(tmp_path, works, **changes))
    assert desk.blobs.blocks == {}


async def test_wrong_bytes_are_never_loaded(net: Testnet, tmp_path: Path) -> None:
    """A trainer whose CID holds other bytes than its digest says gets nothing served."""
    works = await licensed(net)
    desk = Desk(net, tmp_path)
    cid = await desk.blobs.add(b"something else")
    words = [works[0] << 16 | 10_000]
    arguments = (BASE, b"\2" * 32, cid, b"\3" * 32, 3_000, 1_000, words)
    sent = await net.done(net.sender(4), "AdapterRegistry", "register", *arguments)
    adapter_id = AdapterId(sent.event("AdapterRegistered").args["adapterId"])
    with pytest.raises(BlobCorrupt, match="do not hash"):
        await desk.service.activate(adapter_id)
    assert desk.engine.handed == {}
    assert list((tmp_path / "active").iterdir()) == []


async def test_a_damaged_local_copy_is_fetched_anew(net: Testnet, tmp_path: Path) -> None:
    """What lies on the disk is checked against the chain at every activation."""
    desk = Desk(net, tmp_path)
    made = await desk.service.publish(publication(tmp_path, await licensed(net)))
    await desk.service.activate(made.adapter_id)
    desk.service.path_of(made.weights_digest).write_bytes(b"rot")
    await desk.service.activate(made.adapter_id)
    assert desk.engine.handed == {made.adapter_id: WEIGHTS}


async def test_an_activation_pins_the_blob_also_where_the_plain_weights_are(
    net: Testnet, tmp_path: Path
) -> None:
    """A kill between writing the weights and pinning their blob must not lose the pin for good:
    the node would offer an adapter that it cannot pass on. A blob that is gone is said so."""
    desk = Desk(net, tmp_path)
    made = await desk.service.publish(publication(tmp_path, await licensed(net)))
    await desk.service.activate(made.adapter_id)
    desk.blobs.pins.clear()
    await desk.service.activate(made.adapter_id)
    assert desk.blobs.pins == {made.cid}
    desk.blobs.pins.clear()
    desk.blobs.blocks.clear()
    with structlog.testing.capture_logs() as logs:
        await desk.service.activate(made.adapter_id)
    assert any("nowhere" in each["event"] and each["cid"] == made.cid for each in logs)
    assert list((tmp_path / "sealed").iterdir()) == []


async def test_only_what_may_be_served_here_is_activated(net: Testnet, tmp_path: Path) -> None:
    """Another base model, no permission, retired, unknown: each refused with its reason."""
    works = await licensed(net)
    trainer = Desk(net, tmp_path)
    made = await trainer.service.publish(publication(tmp_path, works))
    with pytest.raises(AdapterNotServable, match="belongs to base model"):
        await Desk(net, tmp_path, digest=Hash32(b"\1" * 32)).service.activate(made.adapter_id)
    with pytest.raises(AdapterNotServable, match="has not permitted"):
        await Desk(net, tmp_path, account=7).service.activate(made.adapter_id)
    with pytest.raises(UnknownAdapter):
        await trainer.service.activate(AdapterId(99))
    await net.done(net.sender(4), "AdapterRegistry", "retire", made.adapter_id)
    await net.anvil.advance_time(3 * 3_600)
    with pytest.raises(AdapterNotServable, match="retired"):
        await trainer.service.activate(made.adapter_id)


async def test_a_grant_that_forbids_serving_is_refused(net: Testnet, tmp_path: Path) -> None:
    """A license to train is not a license to serve."""
    work = await net.register_work(net.sender(1), terms(uses=3, training_fee_units=0))
    state = await net.chain.content(work)
    assert state is not None
    trainer = net.sender(4)
    await trainer.submit(Call("ContentRegistry", "acquireGrant", (work, state.terms_hash)))
    with pytest.raises(TransactionFailed, match="does not permit"):
        await Desk(net, tmp_path).service.publish(publication(tmp_path, [work]))
