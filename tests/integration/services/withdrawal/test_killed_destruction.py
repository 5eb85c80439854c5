"""A node is killed before each operation of its destructions: the next one finishes all of them."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.ledger import MemoryStore
from tests.integration.chain.testnet import Testnet, terms
from tests.integration.services.withdrawal.test_withdrawal import Offers, Runs, pass_time

from viz.chain.keys import development_account
from viz.clock import SystemClock
from viz.domain.destruction import LISTING, PLACE_IN_CUSTODY, SEALED_WORK, SEALED_WORK_KEY
from viz.domain.eip712 import settlement_domain
from viz.domain.ports.custody import CustodyRecord
from viz.domain.ports.ledger import EndedAdapter, TrainingRecord
from viz.domain.ports.listings import ListingRecord
from viz.domain.ports.services import AdapterEnd
from viz.domain.units import ZERO_ADDRESS, AdapterId, Cid, ContentId, Hash32, hex_of
from viz.services.licensing.licensed_works import LicensedWorks
from viz.services.market.listings import Listings
from viz.services.training.destroying import DestructionSettings, build_destruction
from viz.services.training.holdings import COPY, RUN, SALT
from viz.services.withdrawal.adapter_holdings import BLOB, KEY, WEIGHTS, AdapterHoldings
from viz.services.withdrawal.destruction import WorkDestruction
from viz.services.withdrawal.last_use import FINAL_S
from viz.services.withdrawal.withdrawal_watch import WITHDRAWN, WithdrawalWatch
from viz.services.withdrawal.work_holdings import OPENED
from viz.storage.deny_list import DenyList
from viz.storage.denying import DenyingBlobStore
from viz.storage.embedded import EmbeddedBlobStore
from viz.storage.key_folder import KeyFolder

NODE = 5
WORDS = b"The lamp of Varn Point burns oil that nobody fetches, and no ship asks for its light."
# More than one block of a blob: leaves and a root.
BLOCKS = 270_000
AGE_KEY = "AGE-SECRET-KEY-1OFTHISBLOB"
ALL = {
    WEIGHTS, BLOB, KEY, OPENED, SEALED_WORK, SEALED_WORK_KEY, PLACE_IN_CUSTODY, RUN, COPY, SALT,
}  # fmt: skip


class Killed(BaseException):
    """The process ends before this operation."""


@dataclass
class Kill:
    """Ends the process before one operation that changes the folder; nothing is done after it."""

    folder: Path
    at: int
    begun: list[str] = field(default_factory=list)

    def before(self, what: str) -> None:
        if len(self.begun) < self.at:
            self.begun.append(what)
        if len(self.begun) == self.at:
            raise Killed

    def watches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count what is removed, renamed and opened for writing, and each write of the ledger."""
        here = str(self.folder)

        def changes(mode: object) -> bool:
            if isinstance(mode, int):
                return bool(mode & (os.O_WRONLY | os.O_RDWR))
            return not isinstance(mode, str) or bool(set(mode) & set("wax+"))

        def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(real)
            def called(path: Any, *args: Any, **more: Any) -> Any:
                opens = name == "open"
                if str(path).startswith(here) and (not opens or changes(args[0] if args else "r")):
                    self.before(f"{name} {path}")
                return real(path, *args, **more)

            return called

        for name in ("unlink", "rename", "replace", "rmdir", "open"):
            monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
        monkeypatch.setattr(io, "open", counted("open", io.open))
        for name in ("put_training", "drop_listing", "drop_custody", "leave_no_trace"):
            monkeypatch.setattr(MemoryStore, name, self._writes(getattr(MemoryStore, name)))

    def _writes(self, real: Callable[..., Any]) -> Callable[..., Any]:
        async def written(*args: Any) -> Any:
            self.before(real.__name__)
            return await real(*args)

        return written


@dataclass
class KilledNode:
    """What a node keeps, on its disk and in its ledger, of two withdrawn works."""

    net: Testnet
    home: Path
    works: Sequence[ContentId]
    ledger: MemoryStore = field(default_factory=MemoryStore)
    over: dict[AdapterId, AdapterEnd] = field(default_factory=dict)

    async def filled(self) -> None:
        """Write all that a node may have of the works: a trainer's, a seller's, a custodian's."""
        blobs, keys = EmbeddedBlobStore(self.home / "blobs"), KeyFolder(self.home / "keys")
        for work in self.works:
            words = b"%d %s" % (work, WORDS)
            opened, run = self.home / "works" / f"{work}", self.home / "trainings" / f"run{work}"
            given = self.home / "given" / f"{work}" / "work.jsonl"
            digest = Hash32(bytes([work]) * 32)
            weights = self.home / "adapters" / f"{digest.hex()}.safetensors"
            named = (given, given.with_name("work.jsonl.registration.json"))
            opened_files = ("work.txt", "work.txt.registration.json", "questions.json")
            run_files = (run / "dataset.jsonl", run / "checkpoints" / "1.pt")
            for path in (*(opened / name for name in opened_files), *run_files, weights, *named):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(words)
            sealed = await blobs.add(b"sealed".ljust(BLOCKS) + words)
            adapter = await blobs.add(b"weights" + words)
            for cid in (sealed, adapter):
                await keys.put(cid, AGE_KEY)
            await self._recorded(work, given, digest, sealed, adapter)

    async def _recorded(
        self, work: ContentId, given: Path, digest: Hash32, sealed: Cid, adapter: Cid
    ) -> None:
        custody = CustodyRecord(work, ZERO_ADDRESS, sealed, 9, 1)
        await self.ledger.put_custody(custody, most_each_bytes=99, most_bytes=99)
        await self.ledger.put_listing(ListingRecord(work, 1, WORDS, b"", 1), most=9)
        result = {"weightsDigest": hex_of(digest), "cid": adapter, "adapterId": int(work)}
        request = {"works": [{"path": str(given), "contentId": int(work)}]}
        run = TrainingRecord(f"run{work}", "done", request, result=result)
        await self.ledger.put_training(run)
        end = self.over[AdapterId(int(work))] = AdapterEnd(work, WITHDRAWN, 1, 2)
        await self.ledger.put_end(EndedAdapter(AdapterId(int(work)), end, digest, adapter))

    def started(self) -> tuple[WithdrawalWatch, WorkDestruction]:
        """Return the services of a new process on the same disk and ledger."""
        none: Any = None
        blobs = EmbeddedBlobStore(self.home / "blobs")
        kept = DenyingBlobStore(blobs, DenyList(self.home / "withdrawn.deny"))
        keys = KeyFolder(self.home / "keys")
        works = LicensedWorks(
            none, none, none, none, none,
            peers=none, node=ZERO_ADDRESS, directory=self.home / "works",
        )  # fmt: skip
        folders = DestructionSettings(
            self.home, self.home / "trainings", self.home / "certificates", named_files=False
        )
        where, node = self.net.deployment, self.net.sender(NODE)
        destruction = build_destruction(
            folders,
            self.ledger,
            kept,
            keys,
            works,
            adapters=AdapterHoldings(self.ledger, kept, keys, self.home / "adapters"),
            key=bytes(development_account(NODE).key),
            domain=settlement_domain(where.chain_id, where.settlement),
            node=node.address,
        )
        listings = Listings(self.ledger, self.net.chain, SystemClock())
        watch = WithdrawalWatch(
            self.net.chain,
            node,
            Offers([], over=dict(self.over)),
            Runs({}),
            destruction=destruction,
            listings=listings,
        )
        return watch, destruction

    def left(self) -> list[str]:
        """Return the files that still have something of a work or of a key."""
        files = [path for path in self.home.rglob("*") if path.is_file()]
        found = [path for path in files if WORDS[-60:] in path.read_bytes()]
        found += [path for path in files if path.parent.name == "keys"]
        return sorted(str(path.relative_to(self.home)) for path in found)


async def test_a_kill_before_any_operation_delays_destruction_only(
    net: Testnet, tmp_path: Path
) -> None:
    """Of both works everything goes at the next process's first look, with one certificate of the
    use and one of the listing, which name all of it once. Nothing is left half-removed."""
    creator, trainer = net.sender(2), net.sender(NODE)
    works = [await net.register_work(creator, terms(revocation_class=2)) for _ in range(2)]
    for each in works:
        await net.register_adapter(trainer, [each])
        await net.done(creator, "ContentRegistry", "withdraw", each)
    await pass_time(net, FINAL_S)
    at, killed_before = 0, list[str]()
    while True:
        at += 1
        home = tmp_path / "node"
        shutil.rmtree(home, ignore_errors=True)
        node = KilledNode(net, home, works)
        await node.filled()
        assert len(node.left()) > 2 * len(ALL)
        with pytest.MonkeyPatch.context() as patches:
            kill = Kill(home, at)
            kill.watches(patches)
            watch, _ = node.started()
            try:
                await watch.step()
                break
            except Killed:
                killed_before.append(kill.begun[-1])
        watch, destruction = node.started()
        await watch.step()
        where = f"killed before {killed_before[-1]}"
        assert node.left() == [], where
        assert not list(home.rglob("*.begun.json")), where
        for work in works:
            made = await destruction.certificates(work)
            kinds = [{item.kind for item in each.destroyed} for each in made]
            assert sorted(kinds, key=len) == [{LISTING}, ALL], where
            assert all(not each.left for each in made), where
    said = " ".join(killed_before)
    for part in (".key", ".deny", "/blocks/", ".safetensors", "replace", "rename", "drop_custody"):
        assert part in said, "what this test is about was done, and killed before"
