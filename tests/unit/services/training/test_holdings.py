"""What is destroyed of a withdrawn work in runs, files, blobs and keys: all of it, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.ledger import MemoryStore

from viz.domain.destruction import HeldItem
from viz.domain.ports.custody import CustodyRecord, KeyStore
from viz.domain.ports.holdings import EndedUse
from viz.domain.ports.ledger import AdapterRecord, EndedAdapter, TrainingRecord
from viz.domain.ports.services import AdapterEnd
from viz.domain.units import ZERO_ADDRESS, ZERO_HASH, AdapterId, Cid, ContentId, Hash32, hex_of
from viz.errors import StorageUnavailable, StoreError
from viz.services.licensing.licensed_works import LicensedWorks
from viz.services.training.holdings import COPY, RUN, SALT, TrainingHoldings, works_of
from viz.services.withdrawal.adapter_holdings import BLOB, KEY, WEIGHTS, AdapterHoldings
from viz.services.withdrawal.work_holdings import OPENED, WorkHoldingsHere
from viz.storage.deny_list import DenyList
from viz.storage.denying import DenyingBlobStore
from viz.storage.key_folder import KeyFolder

ONE, TWO, ADAPTER = ContentId(1), ContentId(2), AdapterId(7)
WORDS, SALTED = "the oil of the lamp of Varn Point", "0x" + "5a" * 32
WEIGHTS_BYTES = b"weights that learned it"
DIGEST = Hash32(b"\x02" * 32)
END = AdapterEnd(ONE, "work-withdrawn", 5, 9)


@dataclass
class Keys:
    """Keys of sealed blobs, in memory."""

    kept: dict[Cid, str] = field(default_factory=dict)

    async def put(self, cid: Cid, key: str) -> None:
        self.kept[cid] = key

    async def get(self, cid: Cid) -> str | None:
        return self.kept.get(cid)

    async def has(self, cid: Cid) -> bool:
        return cid in self.kept

    async def destroy(self, cid: Cid) -> bool:
        return self.kept.pop(cid, None) is not None


@dataclass
class Place:
    """One node's folders, ledger, blobs and keys, with a run on two works that was published."""

    folder: Path
    ledger: MemoryStore = field(default_factory=MemoryStore)
    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    keys: KeyStore = field(default_factory=Keys)
    cid: Cid = field(init=False)

    @property
    def home(self) -> Path:
        return self.folder / "node"

    @property
    def adapters(self) -> AdapterHoldings:
        blobs = DenyingBlobStore(self.blobs, DenyList(self.home / "withdrawn.deny"))
        return AdapterHoldings(self.ledger, blobs, self.keys, self.home / "adapters")

    @property
    def trainings(self) -> TrainingHoldings:
        return TrainingHoldings(self.ledger, self.adapters, self.home / "runs", self.home)

    def work(self, name: str) -> Path:
        return self.folder / "operator" / name / "work.jsonl"

    async def destroyed(self, ended: EndedUse) -> set[HeldItem]:
        """Destroy as the node does, by both holders; return what they had."""
        items = set[HeldItem]()
        for holder in (self.adapters, self.trainings):
            items |= set((await holder.holdings(ended)).items)
        for holder in (self.adapters, self.trainings):
            await holder.destroy(ended, sorted(items))
        for holder in (self.adapters, self.trainings):
            assert (await holder.holdings(ended)).items == ()
        return items

    def with_words(self) -> set[str]:
        wanted = (WORDS.encode(), SALTED.encode(), WEIGHTS_BYTES)
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {
            str(path.relative_to(self.folder))
            for path in files
            if any(each in path.read_bytes() for each in wanted)
        }


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    for name in ("one", "two"):
        path = made.work(name)
        path.parent.mkdir(parents=True)
        for file in ("work.jsonl", "questions.json"):
            path.with_name(file).write_text(WORDS if name == "one" else "another work")
        for file in ("work.jsonl.registration.json", "work.jsonl.0a1b.registration.json"):
            path.with_name(file).write_text(SALTED if name == "one" else "another salt")
    run = made.home / "runs" / "t1"
    run.mkdir(parents=True)
    for file in ("dataset.jsonl", "worker.log", "metrics.json"):
        (run / file).write_text(WORDS)
    (run / "adapter.safetensors").write_bytes(WEIGHTS_BYTES)
    (run / "manifest.json").write_text("signed")
    weights = made.home / "adapters" / f"{DIGEST.hex()}.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(WEIGHTS_BYTES)
    made.cid = await made.blobs.add(WEIGHTS_BYTES)
    await made.keys.put(made.cid, "AGE-SECRET-KEY")
    works = [
        {"path": str(made.work(name)), "contentId": number, "kind": "dialogue", "salt": SALTED}
        for number, name in ((1, "one"), (2, "two"))
    ]
    result = {
        "shares": [[1, 6_000], [2, 4_000]], "weightsDigest": hex_of(DIGEST), "cid": made.cid,
        "adapterId": int(ADAPTER), "metrics": {"recall": {"wrong": [{"question": WORDS}]}},
    }  # fmt: skip
    record = TrainingRecord("t1", "done", {"works": works, "name": "coast"}, result=result)
    await made.ledger.put_training(record)
    return made


def offered(place: Place) -> AdapterRecord:
    return AdapterRecord(ADAPTER, "coast", "", ZERO_HASH, DIGEST, place.cid, ZERO_HASH, "", 1, 1, 1)


async def test_nothing_of_the_work_is_left_where_the_node_may_destroy(place: Place) -> None:
    """Weights, blob, key, run, words, salt and copies; the manifest and the other work stay."""
    await place.ledger.put_adapter(offered(place))
    await place.ledger.put_end(EndedAdapter(ADAPTER, END, DIGEST, place.cid))
    ended = EndedUse(ONE, frozenset({ADAPTER}), own=True, named_files=True)
    items = await place.destroyed(ended)
    assert {item.kind for item in items} == {WEIGHTS, BLOB, KEY, RUN, COPY, SALT}
    assert len([item for item in items if item.kind == SALT]) == 2, "earlier terms have it too"
    assert place.with_words() == set()
    assert not place.blobs.blocks and not await place.keys.has(place.cid)
    assert (place.home / "runs" / "t1" / "manifest.json").exists()
    assert place.work("two").exists()
    record = await place.ledger.training("t1")
    assert record is not None and WORDS not in str(record)
    first, second = record.request["works"]
    assert "salt" not in first and second["salt"] == SALTED, "only the withdrawn work's"
    assert works_of(record) == {ONE, TWO}, "what was trained is still known"


async def test_the_salt_of_a_runs_second_work_goes_with_that_work(place: Place) -> None:
    """The run counted as destroyed since the first withdrawal, and its record kept the salt."""
    for work in (ONE, TWO):
        ended = EndedUse(work, own=True, named_files=True)
        assert HeldItem(RUN, "t1") in await place.destroyed(ended)
    record = await place.ledger.training("t1")
    assert record is not None and SALTED not in str(record) and works_of(record) == {ONE, TWO}


async def test_files_elsewhere_stay_and_are_named(place: Place) -> None:
    """They may be a creator's originals: without the operator's word only the node's own goes."""
    await place.ledger.put_end(EndedAdapter(ADAPTER, END, DIGEST, place.cid))
    ended = EndedUse(ONE, frozenset({ADAPTER}), own=True)
    items = await place.destroyed(ended)
    assert {item.kind for item in items} == {WEIGHTS, BLOB, KEY, RUN}
    assert all(name.startswith("operator/one/") for name in place.with_words())
    left = (await place.trainings.holdings(ended)).left
    assert {each.kind for each in left} == {COPY, SALT} and len(left) == 4
    assert all("destroy_named_files" in each.reason for each in left)


async def test_a_licensed_adapter_with_the_same_bytes_keeps_them(place: Place) -> None:
    """What is still sold under a license is not pulled from under it."""
    await place.ledger.put_adapter(offered(place))
    ended = EndedUse(ONE, own=True)
    found = await place.trainings.holdings(ended)
    assert {item.kind for item in found.items} == {RUN}
    assert {each.kind for each in found.left if "is licensed" in each.reason} == {
        WEIGHTS, BLOB, KEY,
    }  # fmt: skip


async def test_another_work_and_a_run_under_way_are_not_touched(place: Place) -> None:
    """Only what used the work, and only what has ended."""
    assert (await place.trainings.holdings(EndedUse(ContentId(3), own=True))).items == ()
    assert (await place.trainings.holdings(EndedUse(TWO))).items == (), "the own use goes on"
    request = {"works": [{"path": "/nowhere", "contentId": 2}]}
    await place.ledger.put_training(TrainingRecord("t2", "running", request))
    found = await place.trainings.holdings(EndedUse(TWO, own=True))
    assert [each.name for each in found.left if each.kind == RUN] == ["t2"]


async def test_an_adapter_under_the_cid_of_a_work_in_custody_costs_no_key(place: Place) -> None:
    """Anybody may register an adapter under any CID: its end leaves a custodian's keys alone."""
    kept = CustodyRecord(TWO, ZERO_ADDRESS, place.cid, 9, 1)
    await place.ledger.put_custody(kept, most_each_bytes=9, most_bytes=9)
    await place.ledger.put_end(EndedAdapter(ADAPTER, END, DIGEST, place.cid))
    items = await place.destroyed(EndedUse(ONE, frozenset({ADAPTER})))
    assert {item.kind for item in items} == {WEIGHTS, RUN}
    assert await place.keys.has(place.cid) and place.blobs.blocks


@pytest.mark.parametrize("left", [b"#" * 90, b"damaged"], ids=["overwritten", "damaged"])
async def test_a_key_is_still_held_whatever_its_file_has(place: Place, left: bytes) -> None:
    """A kill leaves an overwritten key: looking for it raised, and nothing of any work went."""
    keys = KeyFolder(place.home / "keys")
    await keys.put(place.cid, "AGE-SECRET-KEY-1")
    (place.home / "keys" / f"{place.cid}.key").write_bytes(left)
    place.keys = keys
    await place.ledger.put_end(EndedAdapter(ADAPTER, END, DIGEST, place.cid))
    items = await place.destroyed(EndedUse(ONE, frozenset({ADAPTER})))
    assert HeldItem(KEY, place.cid) in items and not await keys.has(place.cid)


@pytest.mark.parametrize("rest", ["work.txt.registration.json", "questions.json", "work.txt"])
async def test_one_file_of_an_opened_work_is_held_too(place: Place, rest: str) -> None:
    """A kill leaves the record with the salt, or the questions, without the work: they go too."""
    unused: Any = None
    works = LicensedWorks(
        unused, unused, unused, unused, unused,
        peers=unused, node=ZERO_ADDRESS, directory=place.home / "works",
    )  # fmt: skip
    file = place.home / "works" / "1" / rest
    file.parent.mkdir(parents=True)
    file.write_text(SALTED)
    holder = WorkHoldingsHere(place.ledger, unused, place.keys, works)
    ended = EndedUse(ONE, own=True)
    found = (await holder.holdings(ended)).items
    assert found == (HeldItem(OPENED, "1"),)
    await holder.destroy(ended, found)
    assert not file.exists() and not (await holder.holdings(ended)).items


class Failing(MemoryBlobStore):
    """A store that deletes nothing while it fails, as while another process holds its lock."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = True

    async def _delete(self, cids: Sequence[Cid]) -> None:
        if self.fails:
            raise StorageUnavailable("blocks cannot be deleted")
        await super()._delete(cids)


async def test_a_denied_blob_that_could_not_be_erased_is_still_held(place: Place) -> None:
    """It is refused at once; a certificate said that it was gone, and nothing tried again."""
    store = place.blobs = Failing()
    assert place.cid == await store.add(WEIGHTS_BYTES)
    await place.ledger.put_end(EndedAdapter(ADAPTER, END, DIGEST, place.cid))
    ended, item = EndedUse(ONE, frozenset({ADAPTER})), HeldItem(BLOB, place.cid)
    with pytest.raises(StorageUnavailable):
        await place.adapters.destroy(ended, [item])
    assert item in (await place.adapters.holdings(ended)).items and store.blocks
    store.fails = False
    await place.adapters.destroy(ended, [item])
    assert item not in (await place.adapters.holdings(ended)).items and not store.blocks


class BusyStore(MemoryStore):
    """A ledger whose log cannot be emptied while it is busy."""

    busy = True

    async def leave_no_trace(self) -> None:
        if self.busy:
            raise StoreError("the ledger is read or written, so its log cannot be emptied")


async def test_a_run_in_the_ledgers_log_is_still_held(place: Place) -> None:
    """Its texts may be there: a certificate said that they were gone, and nothing tried again."""
    ledger, run = BusyStore(), await place.ledger.training("t1")
    assert run is not None
    await ledger.put_training(run)
    place.ledger = ledger
    ended, item = EndedUse(ONE, own=True, named_files=True), HeldItem(RUN, "t1")
    with pytest.raises(StoreError):
        await place.trainings.destroy(ended, [item, HeldItem(COPY, str(place.work("one")))])
    assert not place.work("one").exists(), "no file waits for the log"
    assert item in (await place.trainings.holdings(ended)).items, "also in the next process"
    ledger.busy = False
    await place.trainings.destroy(ended, [item])
    assert item not in (await place.trainings.holdings(ended)).items
