"""An adapter's successor is planned from the chain's works: before the adapter's end and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.chain import DEPLOYMENT, FakeChain
from tests.fakes.ledger import MemoryStore

from viz.domain.eip712 import settlement_domain
from viz.domain.license import Terms
from viz.domain.ports.chain import AdapterState, ContentState
from viz.domain.ports.holdings import EndedUse
from viz.domain.ports.ledger import TrainingRecord
from viz.domain.units import ZERO_HASH, AdapterId, Cid, ContentId, Hash32, hex_of
from viz.errors import InvalidRequest, LicenseError
from viz.services.licensing.licensed_works import LicensedWorks
from viz.services.training.destroying import DestructionSettings, build_destruction
from viz.services.training.succession import plan_succession
from viz.services.withdrawal.adapter_holdings import AdapterHoldings
from viz.services.work_records import Registration, save_record
from viz.storage.deny_list import DenyList
from viz.storage.denying import DenyingBlobStore
from viz.storage.key_folder import KeyFolder

KEY = b"\x31" * 32
ONE, TWO, ADAPTER = ContentId(1), ContentId(2), AdapterId(7)
DIGEST, BASE = Hash32(b"\x02" * 32), Hash32(b"\x03" * 32)


class Node:
    """A trainer with an adapter on two works that it opened under its grants."""

    def __init__(self, folder: Path) -> None:
        self.home, self.chain, self.ledger = folder, FakeChain(KEY), MemoryStore()
        node = self.chain.address
        state = AdapterState(
            ADAPTER, node, BASE, DIGEST, Cid("bafy"), ZERO_HASH, 3_000, 1_000, 0,
            ((ONE, 6_000), (TWO, 4_000)),
        )  # fmt: skip
        self.chain.adapter_states[ADAPTER] = state
        works = []
        for content_id in (ONE, TWO):
            self.chain.works[content_id] = ContentState(
                content_id, node, node, ZERO_HASH, ZERO_HASH, 0
            )
            self.chain.granted.add(content_id)
            path = self.file(content_id)
            path.parent.mkdir(parents=True)
            path.write_text("words")
            made = Registration(
                "a book", "text", path.name, node, ZERO_HASH, ZERO_HASH, ZERO_HASH,
                Terms(0, 0, 0, 0, 0, 7, False), {}, ZERO_HASH, content_id=content_id,
            )  # fmt: skip
            save_record(path, made)
            works.append({"path": str(path)})
        result = {"shares": [[1, 6_000], [2, 4_000]], "weightsDigest": hex_of(DIGEST)}
        request = {"works": works, "name": "coast", "settings": {"steps": 9}}
        self.ledger.training_rows["t1"] = TrainingRecord("t1", "done", request, result=result)

    def file(self, content_id: ContentId) -> Path:
        return self.home / "works" / str(content_id) / "work.txt"

    def withdraw(self, *works: ContentId) -> None:
        for content_id in works:
            self.chain.granted.discard(content_id)

    async def end(self, content_id: ContentId) -> None:
        """Destroy as the node does after the end of its own use of a work."""
        unused: Any = None
        works = LicensedWorks(
            unused, unused, unused, unused, unused,
            peers=unused, node=self.chain.address, directory=self.home / "works",
        )  # fmt: skip
        blobs = DenyingBlobStore(MemoryBlobStore(), DenyList(self.home / "withdrawn.deny"))
        keys = KeyFolder(self.home / "keys")
        destruction = build_destruction(
            DestructionSettings(
                self.home, self.home / "runs", self.home / "certificates", named_files=False
            ),
            self.ledger, blobs, keys, works,
            adapters=AdapterHoldings(self.ledger, blobs, keys, self.home / "adapters"),
            key=KEY,
            domain=settlement_domain(DEPLOYMENT.chain_id, DEPLOYMENT.settlement),
            node=self.chain.address,
        )  # fmt: skip
        use = EndedUse(content_id, frozenset({ADAPTER}), own=True)
        assert await destruction.destroy(use, withdrawn_at_s=5, due_at_s=6, time_s=7) is not None
        assert not self.file(content_id).exists()

    async def planned(self) -> tuple[list[int], list[int], dict[str, Any]]:
        found = await plan_succession(ADAPTER, self.chain, self.ledger, self.chain.address)
        kept = [int(each["contentId"]) for each in found.request["works"]]
        return kept, [int(each) for each in found.without], dict(found.request)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize("ended", [False, True], ids=["notice period", "after the destruction"])
async def test_the_works_that_stay_are_planned_before_and_after_the_end(
    node: Node, ended: bool
) -> None:
    """After it the run's record lacked the withdrawn work, and no successor was "needed"."""
    node.withdraw(ONE)
    if ended:
        await node.end(ONE)
    kept, without, request = await node.planned()
    assert (kept, without) == ([2], [1])
    assert request["works"][0]["path"] == str(node.file(TWO))
    assert (request["name"], request["settings"]) == ("coast", {"steps": 9})
    assert request["base"] == hex_of(BASE), "the same base model, also if it is not the first"


async def test_a_record_that_an_end_left_without_the_work_s_id_still_counts(node: Node) -> None:
    """Protects operators whose node destroyed before: what an adapter has, the chain says."""
    node.withdraw(ONE)
    node.file(ONE).with_name("work.txt.registration.json").unlink()
    assert (await node.planned())[:2] == ([2], [1])


@pytest.mark.parametrize("ended", [False, True], ids=["notice period", "after the destruction"])
async def test_without_any_work_left_there_is_no_successor(node: Node, ended: bool) -> None:
    """It is said plainly, whether the works' data is still there or gone."""
    node.withdraw(ONE, TWO)
    if ended:
        await node.end(ONE)
        await node.end(TWO)
    with pytest.raises(LicenseError, match=r"no work of adapter 7 .* can have no successor"):
        await node.planned()


async def test_only_an_adapter_whose_works_may_all_stay_needs_none(node: Node) -> None:
    """The words that were wrong after an end are right here."""
    with pytest.raises(InvalidRequest, match=r"it needs no successor"):
        await node.planned()


async def test_a_work_whose_file_is_not_known_is_named(node: Node) -> None:
    """A successor is never trained on fewer works than may stay, in silence."""
    node.withdraw(ONE)
    node.file(TWO).with_name("work.txt.registration.json").unlink()
    with pytest.raises(InvalidRequest, match=r"no record of the file of work 2.*--succeeds"):
        await node.planned()


async def test_an_end_keeps_the_ids_of_a_run_s_works(node: Node) -> None:
    """The next look at a killed end finds the work's files by them."""
    node.withdraw(ONE)
    await node.end(ONE)
    works = node.ledger.training_rows["t1"].request["works"]
    assert [each["contentId"] for each in works] == [1, 2]
