"""Fetch, open and keep the works that this node is licensed to train on.

Owns the folder of opened works: ``<content id>/`` with the work's file and its registration record.
A creator's own folder looks the same, so that training reads either. Invariants: nothing is asked
for without a live grant; a work is opened in memory, compared with the commitment on the chain, and
only then written, mode 0600, in a folder of mode 0700; its key is not kept; after a failure no
plain byte is on the disk.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from viz.domain.http_url import http_origin
from viz.domain.missing_grant import no_live_grant
from viz.domain.ports.chain import ChainReader, ContentState
from viz.domain.ports.custody import BlobSources, KeyKind
from viz.domain.ports.peers import PeerHttp
from viz.domain.questions import QUESTIONS_FILE
from viz.domain.units import Address, ContentId, Hash32, hex_of
from viz.errors import (
    ChainUnreachable,
    KeyUnknown,
    LicenseError,
    LicenseMismatch,
    ListingUnknown,
    StorageUnavailable,
    VizError,
)
from viz.private import make_private_folder, write_private
from viz.protocol.custody import sealed_name
from viz.protocol.listing import (
    LISTING_PATH,
    CustodianAddress,
    SignedListing,
    WorkListing,
)
from viz.protocol.notices import NOTICES_PATH, NoticePage, NoticeView
from viz.protocol.wire import license_hash_of
from viz.services.custody.custodian import Custodian
from viz.services.custody.key_requests import KeyRequests
from viz.services.custody.sealed_works import (
    FILE_NAMES,
    MAX_PLAIN_BYTES,
    OpenedWork,
    opened_work,
)
from viz.services.market.listings import Listings
from viz.services.market.remote_nodes import directory_entries
from viz.services.work_records import record_path, save_record
from viz.storage.sealing import unseal_bytes

# How many nodes of the directory are asked in turn for a blob that this node lacks.
MAX_NODES: Final = 16
# How many are asked for a listing, how many at once, and how long all of them may take. Entries
# cost little: the first ones must not hide the node that has it.
ASKED_FOR_LISTING: Final = 256
_AT_ONCE: Final = 32
_SEARCH_S: Final = 60.0
_ASK_S: Final = 10.0
_LISTING_BYTES: Final = 256 * 1024
_NOTICES_BYTES: Final = 256 * 1024
_log = structlog.get_logger()


class LicensedWorks:
    """The opened works of one trainer."""

    def __init__(
        self,
        chain: ChainReader,
        listings: Listings,
        custodian: Custodian,
        requests: KeyRequests,
        sources: BlobSources,
        *,
        peers: PeerHttp,
        node: Address,
        directory: Path,
    ) -> None:
        """Create it; ``directory`` holds the opened works."""
        self._chain, self._listings, self._custodian = chain, listings, custodian
        self._requests, self._sources, self._peers = requests, sources, peers
        self._node, self._directory = node, directory
        self._locks: dict[ContentId, asyncio.Lock] = {}

    async def path(self, content_id: ContentId) -> Path:
        """Return the path of a licensed work; fetch and open the work first if necessary.

        Raises NoLiveGrant, LicenseError, ListingUnknown, KeyUnknown, BlobNotFound, SealBroken,
        CommitmentMismatch, LicenseMismatch, StorageUnavailable, ChainUnreachable, and the refusal
        of the last custodian that was asked.
        """
        # One fetch at a time for each work. Locks are never removed: licensed works are few.
        async with self._locks.setdefault(content_id, asyncio.Lock()):
            kept = await asyncio.to_thread(self._kept, content_id)
            return kept or await self._fetch(content_id)

    async def require_listed(self, content_id: ContentId) -> None:
        """Raise ListingUnknown if a work is not here and no node that is asked lists it."""
        if not await self.has(content_id):
            await self._listing(content_id)

    async def has(self, content_id: ContentId) -> bool:
        """Return whether an opened work is on the disk."""
        return await asyncio.to_thread(self._kept, content_id) is not None

    async def has_any_of(self, content_id: ContentId) -> bool:
        """Return whether any file of an opened work is on the disk, also one that a kill left."""
        paths = self._files(content_id)
        return await asyncio.to_thread(lambda: any(path.exists() for path in paths))

    async def notices(self, content_id: ContentId) -> list[tuple[str, NoticeView]]:
        """Return the notices on a work that its custodians show, each with the custodian's URL.

        This only informs: a custodian that does not answer, or a work without a listing here, adds
        nothing.
        """
        try:
            listing = (await self._listings.get(content_id)).listing
        except ListingUnknown:
            return []
        urls = [http_origin(each.url) for each in listing.custodians if each.node != self._node]
        asked = [self._notices_at(url, content_id) for url in urls if url is not None]
        return [found for each in await asyncio.gather(*asked) for found in each]

    async def _notices_at(self, url: str, content_id: ContentId) -> list[tuple[str, NoticeView]]:
        path = f"{NOTICES_PATH}?work={content_id}"
        try:
            answer = await self._peers.ask(
                "GET", url + path, max_bytes=_NOTICES_BYTES, timeout_s=_ASK_S
            )
            page = NoticePage.from_json(answer)
        except VizError as error:
            _log.info("no notices from a custodian", url=url, reason=error.detail)
            return []
        return [(url, each) for each in page.notices if each.content_id == content_id]

    async def forget(self, content_id: ContentId) -> None:
        """Remove an opened work from the disk."""
        async with self._locks.setdefault(content_id, asyncio.Lock()):
            await asyncio.to_thread(self._remove, content_id)

    async def _fetch(self, content_id: ContentId) -> Path:
        content = await self._chain.content(content_id)
        if content is None:
            raise LicenseError(f"there is no work {content_id}: check the id")
        license_hash = await self._granted_license(content)
        listing = (await self._listing(content_id)).listing
        key = await self._key(listing)
        sealed = self._directory / f".{uuid.uuid4().hex}.{sealed_name(listing.sealed.cid)}"
        try:
            await asyncio.to_thread(make_private_folder, self._directory)
            await self._sources.fetch(
                listing.sealed.cid,
                sealed,
                urls=await self._urls(listing.custodians),
                max_bytes=listing.sealed.size_bytes,
            )
            opened = await asyncio.to_thread(_opened, sealed, key, content)
        finally:
            await asyncio.to_thread(sealed.unlink, missing_ok=True)
        opened = _under_license(opened, listing, license_hash)
        return await asyncio.to_thread(self._write, content_id, opened)

    async def _granted_license(self, content: ContentState) -> Hash32:
        """Return the hash of the license that this node's live grant names."""
        content_id = content.content_id
        grant = await self._chain.grant(content_id, self._node)
        if grant is None or not grant.live:
            raise no_live_grant(content_id, self._node, content.withdrawn_at)
        terms = await self._chain.terms(grant.terms_hash)
        if terms is None:
            raise ChainUnreachable(
                f"the chain's endpoint knows no terms {hex_of(grant.terms_hash)}: try again"
            )
        return terms.license_hash

    async def _listing(self, content_id: ContentId) -> SignedListing:
        """Return this node's listing of the work, else one from a node of the directory."""
        try:
            return await self._listings.get(content_id)
        except ListingUnknown:
            pass
        urls = await self._urls((), ASKED_FOR_LISTING)
        asked = asyncio.Semaphore(_AT_ONCE)
        tasks = [asyncio.create_task(self._listing_at(url, content_id, asked)) for url in urls]
        try:
            async with asyncio.timeout(_SEARCH_S):
                for answered in asyncio.as_completed(tasks):
                    if (signed := await answered) is not None and await self._accepted(signed):
                        return signed
        except TimeoutError:
            _log.info("the search for a listing took too long", work=content_id)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise ListingUnknown(
            f"no node that was asked has a listing of work {content_id} ({len(urls)} were to be "
            f"asked, in {_SEARCH_S:g} s): try again in some minutes if it was published lately; "
            "else ask its owner to publish one, or get its file and record from the owner and name "
            "the folder"
        )

    async def _listing_at(
        self, url: str, content_id: ContentId, asked: asyncio.Semaphore
    ) -> SignedListing | None:
        """Return what a node gives as the work's listing, not verified; None if it gives none."""
        path = LISTING_PATH.format(content_id=content_id)
        async with asked:
            try:
                answer = await self._peers.ask(
                    "GET", url + path, max_bytes=_LISTING_BYTES, timeout_s=_ASK_S
                )
                signed = SignedListing.from_json(answer)
            except VizError as error:
                _log.info("no listing from a node", url=url, reason=error.detail)
                return None
        return signed if signed.listing.content_id == content_id else None

    async def _accepted(self, signed: SignedListing) -> bool:
        try:
            await self._listings.accept(signed)
        except VizError as error:
            _log.info("a node's listing is not the owner's", reason=error.detail)
            return False
        return True

    async def _key(self, listing: WorkListing) -> str:
        """Return this node's own copy of the key, else ask the custodians in turn."""
        if (own := await self._custodian.key_of(listing.sealed.cid)) is not None:
            return own
        last: VizError = KeyUnknown(
            f"the listing of work {listing.content_id} names no custodian that can be asked"
        )
        for each in listing.custodians:
            if each.node == self._node:
                continue
            try:
                return await self._requests.key(
                    each.url, each.node, KeyKind.WORK, listing.content_id, listing.sealed.cid
                )
            except VizError as error:
                _log.warning("no key from a custodian", url=each.url, reason=error.detail)
                last = error
        raise last

    async def _urls(
        self, custodians: Iterable[CustodianAddress], most: int = MAX_NODES
    ) -> list[str]:
        """Return the origins to ask: custodians, then at most ``most`` nodes of the directory.

        Of a larger directory these are random ones, others at each call.
        """
        named = [(each.node, each.url) for each in custodians]
        try:
            entries = await directory_entries(self._chain)
            entries = secrets.SystemRandom().sample(entries, min(most, len(entries)))
            named += [(entry.node, entry.url) for entry in entries]
        except ChainUnreachable as error:
            _log.info("the directory cannot be read", reason=error.detail)
        found = [http_origin(url) for node, url in named if node != self._node]
        return [url for url in dict.fromkeys(found) if url is not None]

    def _kept(self, content_id: ContentId) -> Path | None:
        """Return the path of an opened work if its record is there too, else None. Blocks."""
        folder = self._directory / str(int(content_id))
        for name in FILE_NAMES.values():
            path = folder / name
            if path.is_file() and record_path(path).is_file():
                return path
        return None

    def _files(self, content_id: ContentId) -> list[Path]:
        """Return the paths that an opened work's files may have."""
        folder = self._directory / str(int(content_id))
        works = [folder / name for name in FILE_NAMES.values()]
        return [*works, *(record_path(path) for path in works), folder / QUESTIONS_FILE]

    def _remove(self, content_id: ContentId) -> None:
        for path in self._files(content_id):
            path.unlink(missing_ok=True)

    def _write(self, content_id: ContentId, opened: OpenedWork) -> Path:
        """Write record and work atomically, readable by this user only. Blocks."""
        folder = self._directory / str(int(content_id))
        path = folder / opened.record.file
        try:
            make_private_folder(folder)
            save_record(path, opened.record)
            if opened.questions:
                write_private(folder / QUESTIONS_FILE, opened.questions)
            write_private(path, opened.raw)
        except OSError as error:
            raise StorageUnavailable(f"{path} cannot be written: {error.strerror}") from error
        return path


def _opened(sealed: Path, key: str, content: ContentState) -> OpenedWork:
    return opened_work(unseal_bytes(sealed, key, max_bytes=MAX_PLAIN_BYTES), content)


def _under_license(opened: OpenedWork, listing: WorkListing, granted: Hash32) -> OpenedWork:
    """Return the work with the license text that the grant names; raise LicenseMismatch.

    The owner may have changed the terms after sealing the work or after the grant.
    """
    for text in (opened.record.license, listing.license):
        if license_hash_of(text) == granted:
            record = replace(opened.record, license=dict(text), license_hash=granted)
            return replace(opened, record=record)
    raise LicenseMismatch(
        f"the license that was granted hashes to {hex_of(granted)}, and neither the listing nor "
        f"the sealed work {listing.content_id} has its text: ask the owner for it",
        fields=["licenseHash"],
    )
