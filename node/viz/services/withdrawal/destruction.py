"""Destroy what a node stores of a work whose use has ended, and certify it.

Owns the order: write a list of what will be destroyed, destroy it, check that it is gone, write the
signed certificate in place of the list, and rename it to its number. If the process is killed at
any point, the next run continues from that file: from the list, and then the certificate names
everything on it, or by giving the certificate its number, so that there is only one.
``viz.services.withdrawal.withdrawal_watch`` decides when a use has ended; the holders
(``viz.domain.ports.holdings``) know where the data is. Each destruction has one certificate, a file
that anybody can ask the node for.

Invariants: a certificate names as destroyed only what is gone when it is signed; what could not be
destroyed is named as left, and is tried again. It goes to strangers, so it shows no folder of the
operator's: a file is named by its path below the data folder, one elsewhere by its name alone. The
node's log has the whole paths.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import structlog

from viz.domain.destruction import HeldItem, LeftItem
from viz.domain.eip712 import Domain
from viz.domain.ports.holdings import EndedUse, WorkHolder, WorkHoldings
from viz.domain.strict_json import load_json
from viz.domain.units import Address, ContentId
from viz.errors import InvalidRequest, StorageUnavailable, VizError
from viz.private import make_private_folder, sync_to_disk, write_private
from viz.protocol.destruction import MAX_CERTIFICATES, DestructionCertificate, certify

MAX_CERTIFICATE_BYTES: Final = 4 * 1024 * 1024
ItemT = TypeVar("ItemT", HeldItem, LeftItem)
_log = structlog.get_logger()


class WorkDestruction:
    """Destroys and certifies for one node; ``folder`` holds its certificates.

    ``data_dir`` is the node's data folder.
    """

    def __init__(
        self,
        holders: Sequence[WorkHolder],
        folder: Path,
        data_dir: Path,
        *,
        key: bytes,
        domain: Domain,
        node: Address,
        named_files: bool = False,
    ) -> None:
        """``named_files``: also destroy the operator's own files that trainings named."""
        self._holders, self._folder, self._data_dir = tuple(holders), folder, data_dir
        self._key, self._domain, self._node = key, domain, node
        self._named_files = named_files
        self._failures: dict[Path, list[str]] = {}
        # One destruction at a time: two would certify the same items.
        self._busy = asyncio.Lock()

    async def destroy(
        self, ended: EndedUse, *, withdrawn_at_s: int, due_at_s: int, time_s: int
    ) -> DestructionCertificate | None:
        """Destroy what is stored of the work; return the certificate, None if nothing was stored.

        Raises StorageUnavailable if the list or the certificate cannot be written.
        """
        if self._named_files and not ended.named_files:
            ended = replace(ended, named_files=True)
        async with self._busy:
            held = await self._holdings(ended)
            begun = await self._begun(ended)
            if isinstance(begun, DestructionCertificate):
                await self._number(ended)
                begun = ()
            listed = set(held.items) | set(begun)
            if not listed:
                return None
            rows = [[each.kind, each.name] for each in sorted(listed)]
            await self._write(self._list_of(ended), rows)
            await self._destroy(ended, sorted(listed))
            after = await self._holdings(ended, failed=True)
            gone = listed - {each.item for each in after.left}
            if not gone:
                return None
            told = await asyncio.to_thread(self._as_told, sorted(gone))
            kept = {each.item: each for each in after.left}.values()
            made = certify(
                self._key,
                self._domain,
                self._node,
                ended.content_id,
                withdrawn_at_s=withdrawn_at_s,
                due_at_s=due_at_s,
                time_s=time_s,
                destroyed=told,
                left=await asyncio.to_thread(self._as_told, sorted(kept), told),
            )
            await self._write(self._list_of(ended), made.to_json())
            await self._number(ended)
            left = [f"{each.kind} {each.name}: {each.reason}" for each in after.left]
            _log.info("a work was destroyed", work=ended.content_id, items=len(gone), left=left)
            return made

    async def _destroy(self, ended: EndedUse, items: Sequence[HeldItem]) -> None:
        """Let all holders destroy these items; a failure is logged, not again while it lasts."""
        failures = []
        for holder in self._holders:
            try:
                await holder.destroy(ended, items)
            except (VizError, OSError) as error:
                failures.append(str(error))
        of = self._list_of(ended)
        for reason in failures:
            if reason not in self._failures.get(of, ()):
                _log.error("a part is not destroyed", work=ended.content_id, reason=reason)
        self._failures[of] = failures

    async def has_any(self, ended: EndedUse) -> bool:
        """Return whether anything here would be destroyed, or began to be; asks no chain.

        A certificate that a kill left without its number counts as begun.
        """
        held = await self._holdings(ended)
        return bool(held.items or await self._begun(ended))

    async def certificates(self, content_id: ContentId) -> tuple[DestructionCertificate, ...]:
        """Return a work's certificates, the oldest first, without damaged ones."""
        return await asyncio.to_thread(self._read, content_id)

    async def _holdings(self, ended: EndedUse, *, failed: bool = False) -> WorkHoldings:
        """Return what all holders have; with ``failed``, what should be gone is left."""
        found = [await holder.holdings(ended) for holder in self._holders]
        items = tuple(item for each in found for item in each.items)
        left = tuple(item for each in found for item in each.left)
        if failed:  # what should be gone now
            why = "it could not be destroyed yet"
            left += tuple(LeftItem(each.kind, each.name, why) for each in items)
        return WorkHoldings(items, left)

    def _as_told(self, items: Sequence[ItemT], told: Sequence[HeldItem] = ()) -> list[ItemT]:
        """Return items as a certificate names them, none as one that was ``told`` already. Blocks.

        Files of one name from several folders are numbered: an item has one fate.
        """
        names = {(each.kind, each.name) for each in told}
        found = []
        for each in items:
            name = bare = _without_folders(each.name, self._data_dir)
            count = 1
            while (each.kind, name) in names:
                name = f"{bare} ({(count := count + 1)})"
            names.add((each.kind, name))
            found.append(replace(each, name=name))
        return found

    def _list_of(self, ended: EndedUse) -> Path:
        # Apart: what a withdrawal began to destroy is judged by all that the withdrawal ended. A
        # listing is destroyed by itself, also while all other uses go on.
        kind = "custody.begun" if ended.by_owner else "begun"
        kind = "listing.begun" if ended.listing else kind
        return self._folder / f"{ended.content_id}.{kind}.json"

    async def _begun(self, ended: EndedUse) -> tuple[HeldItem, ...] | DestructionCertificate:
        """Return what an earlier process began to destroy, or the certificate that it signed."""

        def read() -> tuple[HeldItem, ...] | DestructionCertificate:
            try:
                found = load_json(self._list_of(ended).read_bytes())
                if isinstance(found, dict):
                    return DestructionCertificate.from_json(found)
                return tuple(HeldItem(str(kind), str(name)) for kind, name in found)
            except FileNotFoundError:
                return ()
            except (OSError, ValueError, TypeError, InvalidRequest) as error:
                _log.warning("a list of begun destruction is lost", reason=str(error))
                return ()

        return await asyncio.to_thread(read)

    async def _write(self, path: Path, value: object) -> None:
        def write() -> None:
            make_private_folder(path.parent)
            write_private(path, json.dumps(value, indent=1).encode() + b"\n")

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            raise StorageUnavailable(f"{path} cannot be written: {error.strerror}") from error

    async def _number(self, ended: EndedUse) -> None:
        """Rename the signed certificate from the list's name to its own."""

        def rename() -> None:
            last = max(self._numbers(ended.content_id), default=0)
            self._list_of(ended).rename(self._folder / f"{ended.content_id}-{last + 1}.json")
            sync_to_disk(self._folder)

        try:
            await asyncio.to_thread(rename)
        except OSError as error:
            raise StorageUnavailable(
                f"{self._list_of(ended)} cannot be renamed: {error.strerror}"
            ) from error

    def _numbers(self, content_id: ContentId) -> list[int]:
        named = re.compile(rf"{int(content_id)}-([0-9]{{1,6}})\.json", re.ASCII)
        if not self._folder.is_dir():
            return []
        found = (named.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(name[1]) for name in found if name)

    def _read(self, content_id: ContentId) -> tuple[DestructionCertificate, ...]:
        found = list[DestructionCertificate]()
        for number in self._numbers(content_id)[:MAX_CERTIFICATES]:
            path = self._folder / f"{content_id}-{number}.json"
            try:
                with path.open("rb") as file:
                    value = load_json(file.read(MAX_CERTIFICATE_BYTES))
                made = DestructionCertificate.from_json(value)
                if made not in found:
                    found.append(made)
            except (OSError, ValueError, InvalidRequest) as error:
                _log.warning("a certificate cannot be read", path=str(path), reason=str(error))
        return tuple(found)


def _without_folders(name: str, data_dir: Path) -> str:
    path = Path(name)
    if not path.is_absolute():  # a CID, a digest or an id
        return name
    whole, data = path.resolve(), data_dir.resolve()
    return str(whole.relative_to(data)) if whole.is_relative_to(data) else path.name
