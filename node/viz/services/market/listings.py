"""Keep the listings of works that this node was given, and pass them on.

Owns the comparison of a listing with the chain. Anybody may hand in a listing, since the owner's
signature proves it. Invariants: a listing is kept only if the work is registered and not withdrawn,
its owner signed it, and its license is the one on the chain; of two listings of a work the one
issued later is kept; a listing that no longer agrees with the chain is dropped at the next check.
The listing of a withdrawn work is not shown (its sample is a text of the work), and
``viz.services.withdrawal`` destroys it when the withdrawal is final.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from viz.domain.display import moment
from viz.domain.eip712 import content_registry_domain
from viz.domain.http_url import http_origin
from viz.domain.ports.chain import ChainReader
from viz.domain.ports.clock import Clock
from viz.domain.ports.listings import ListingLedger, ListingRecord
from viz.domain.units import ContentId, hex_of
from viz.errors import (
    ChainUnreachable,
    InvalidListing,
    InvalidRequest,
    InvalidSignature,
    LicenseError,
    LicenseMismatch,
    ListingStale,
    ListingUnknown,
    VizError,
)
from viz.protocol.listing import LISTINGS_PAGE, SignedListing, WorkListing
from viz.services.account_signatures import is_signed
from viz.services.upkeep.supervision import periodically
from viz.storage.cid import to_binary

MAX_LISTINGS: Final = 20_000
# How far a listing's time may be ahead of this node's clock.
MAX_AHEAD_S: Final = 300
LOOK_INTERVAL_S: Final = 3_600.0
# Pause between two chain reads, so that checking all listings does not make a burst.
LOOK_PAUSE_S: Final = 0.2
# What drops a kept listing. Any other error is an odd answer, which says nothing of the listing.
CONTRADICTED: Final = (InvalidListing, InvalidSignature, LicenseError)
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*", re.ASCII)
_log = structlog.get_logger()


class Listings:
    """The listings of one node."""

    def __init__(self, ledger: ListingLedger, chain: ChainReader, clock: Clock) -> None:
        self._ledger, self._chain, self._clock = ledger, chain, clock
        self._withdrawn: set[ContentId] = set()
        # Works whose withdrawal a reorganisation undid; the logs that tell of it may still be read.
        self._restored: set[ContentId] = set()

    @property
    def withdrawn(self) -> frozenset[ContentId]:
        """The works whose listings are not shown, since they were withdrawn."""
        return frozenset(self._withdrawn)

    def hide(self, works: Iterable[ContentId]) -> None:
        """Show the listings of these withdrawn works no more."""
        self._withdrawn.update(set(works) - self._restored)

    async def accept(self, signed: SignedListing) -> WorkListing:
        """Verify a listing, store it durably, and return it; repeating the call changes nothing.

        Raises what ``require_true`` raises, ListingStale if the kept one is newer, StoreError.
        """
        listing = signed.listing
        await require_true(signed, self._chain, now_s=self._clock.now_s())
        record = ListingRecord(
            listing.content_id,
            listing.issued_at,
            signed.document,
            signed.signature,
            self._clock.now_s(),
        )
        kept = await self._ledger.put_listing(record, most=MAX_LISTINGS)
        if kept.document != signed.document:
            raise ListingStale(
                f"this node keeps a listing of work {listing.content_id} that was issued at "
                f"{kept.issued_at}, and yours at {listing.issued_at}: sign one with a later time",
                issuedAt=kept.issued_at,
            )
        return listing

    async def get(self, content_id: ContentId) -> SignedListing:
        """Return the stored listing of a work; raise ListingUnknown if there is none."""
        kept = await self.kept(content_id)
        return SignedListing.read(kept.document, kept.signature)

    async def kept(self, content_id: ContentId) -> ListingRecord:
        """Return the stored listing as its bytes came in; raise ListingUnknown if there is none."""
        kept = await self._ledger.listing(content_id)
        if kept is None:
            raise ListingUnknown(
                f"this node keeps no listing of work {content_id}: ask another node, or its owner"
            )
        return kept

    async def shown(self, content_id: ContentId) -> ListingRecord:
        """Return the stored listing as its bytes came in, to pass it on without parsing.

        Raises ListingUnknown if there is none, or the work was withdrawn.
        """
        if content_id in self._withdrawn:
            raise ListingUnknown(
                f"work {content_id} was withdrawn, so its listing is shown no more: "
                "`viz content show` has the date"
            )
        return await self.kept(content_id)

    async def page(
        self, after: ContentId, limit: int = LISTINGS_PAGE
    ) -> tuple[tuple[SignedListing, ...], ContentId | None]:
        """Return the listings of works above ``after``, and where the next page begins, if any.

        Those of withdrawn works are left out.
        """
        found, following = await self.kept_page(after, limit)
        return tuple(SignedListing.read(each.document, each.signature) for each in found), following

    async def kept_page(
        self, after: ContentId, limit: int = LISTINGS_PAGE
    ) -> tuple[Sequence[ListingRecord], ContentId | None]:
        """Return the same page with the stored bytes, to pass them on without parsing."""
        found = await self._ledger.listings(after=after, limit=min(limit, LISTINGS_PAGE))
        more = len(found) == min(limit, LISTINGS_PAGE)
        shown = [each for each in found if each.content_id not in self._withdrawn]
        return shown, found[-1].content_id if found and more else None

    async def in_custody(self, limit: int) -> Sequence[ContentId]:
        """Return up to ``limit`` works whose listing and sealed bytes this node keeps, by id."""
        return await self._ledger.listed_in_custody(limit=limit)

    async def run(self) -> None:
        """Check all listings periodically, and drop those that the chain contradicts."""
        await periodically(self.drop_untrue, LOOK_INTERVAL_S, _log.warning, "listings unchecked")

    async def drop_untrue(self) -> None:
        """Drop every listing that the chain contradicts, and hide those of withdrawn works.

        One of which the chain's answer cannot be used is kept. Raises ChainUnreachable.
        """
        after = ContentId(0)
        while page := await self._ledger.listings(after=after, limit=LISTINGS_PAGE):
            await self._look_at(page)
            after = page[-1].content_id

    async def _look_at(self, page: Sequence[ListingRecord]) -> None:
        for record in page:
            try:
                if await self._is_withdrawn(record.content_id):
                    continue
                signed = SignedListing.read(record.document, record.signature)
                # Its time was right when it came in: a clock that was set back contradicts nothing.
                now_s = max(self._clock.now_s(), signed.listing.issued_at)
                await require_true(signed, self._chain, now_s=now_s)
            except ChainUnreachable:
                raise
            except CONTRADICTED as error:
                _log.info("listing dropped", content_id=record.content_id, reason=error.detail)
                await self._ledger.drop_listing(record)
            except VizError as error:
                _log.warning("listing unchecked", content_id=record.content_id, reason=error.detail)
            await asyncio.sleep(LOOK_PAUSE_S)

    async def _is_withdrawn(self, content_id: ContentId) -> bool:
        """Hide a withdrawn work's listing; show one again whose withdrawal is undone by a
        reorganisation.
        """
        state = await self._chain.content(content_id)
        if state is None or not state.withdrawn_at:
            if content_id in self._withdrawn:
                self._withdrawn.discard(content_id)
                self._restored.add(content_id)
            return False
        self._restored.discard(content_id)
        self._withdrawn.add(content_id)
        return True


async def require_true(signed: SignedListing, chain: ChainReader, *, now_s: int) -> None:
    """Raise an error if a listing is not well formed, not its owner's or not what the chain says.

    Costs at most three chain reads. Raises InvalidListing, LicenseError if the work does not exist
    or was withdrawn, InvalidSignature, LicenseMismatch, ChainUnreachable.
    """
    listing, deployment = signed.listing, chain.deployment
    _require_well_formed(listing, now_s)
    if (listing.chain_id, listing.content_registry) != (
        deployment.chain_id,
        deployment.content_registry,
    ):
        raise InvalidListing(
            f"the listing is for chain {listing.chain_id} and registry {listing.content_registry}; "
            f"this node works on {deployment.chain_id} and {deployment.content_registry}"
        )
    state = await chain.content(listing.content_id)
    if state is None:
        raise LicenseError(f"there is no work {listing.content_id}: check the id")
    if state.withdrawn_at:
        raise LicenseError(
            f"work {listing.content_id} was withdrawn, {moment(state.withdrawn_at)}: it is listed "
            "no more"
        )
    domain = content_registry_domain(deployment.chain_id, deployment.content_registry)
    if not await is_signed(chain, domain.digest(signed.struct), signed.signature, state.owner):
        raise InvalidSignature(
            f"the listing of work {listing.content_id} is not signed by its owner, {state.owner}: "
            "sign it with the owner's key, for this chain and registry"
        )
    terms = await chain.terms(state.terms_hash)
    if terms is None:
        raise ChainUnreachable(
            f"the chain's endpoint does not know the terms {hex_of(state.terms_hash)} of work "
            f"{listing.content_id}: try again, or use another endpoint (chain.rpc_url)"
        )
    if listing.license_hash != terms.license_hash:
        raise LicenseMismatch(
            f"the listing's license hashes to {hex_of(listing.license_hash)}, and the chain has "
            f"{hex_of(terms.license_hash)} for work {listing.content_id}: list the license that "
            "was registered last",
            fields=["licenseHash"],
        )


def _require_well_formed(listing: WorkListing, now_s: int) -> None:
    if listing.issued_at > now_s + MAX_AHEAD_S:
        raise InvalidListing(
            f"issuedAt is {listing.issued_at}, which is more than {MAX_AHEAD_S} s ahead of this "
            f"node's clock ({now_s}): check your clock"
        )
    for name in ("title", "credit"):
        shown = getattr(listing, name)
        if not shown.strip() or not shown.isprintable():
            raise InvalidListing(f"{name} is empty or has characters that cannot be printed")
    if not _LANGUAGE.fullmatch(listing.language):
        raise InvalidListing(f"language is {listing.language!r}: write a BCP 47 tag, such as en")
    if not listing.size_bytes or not listing.sealed.size_bytes:
        raise InvalidListing("sizeBytes is 0: neither the work nor its sealed bytes are empty")
    if not listing.custodians:
        raise InvalidListing("custodians is empty: name the nodes that hold the work's key")
    for custodian in listing.custodians:
        if http_origin(custodian.url) is None:
            raise InvalidListing(
                f"{custodian.url!r} is not a custodian's URL: write http(s)://host[:port]"
            )
    try:
        to_binary(listing.sealed.cid)
    except InvalidRequest as error:
        raise InvalidListing(error.detail) from error
