"""Copy the listings of other nodes, each verified as if its owner had sent it.

Owns how many of a node's listings are read in one round, and what is not read again. Invariants: a
page that did not change costs one small answer; a refused listing is not verified again within
``REFUSED_S``; a node that passes on ``REFUSED_ALLOWED`` refused listings in a round, or answers
something else, is named in the log and not asked for listings during ``REFUSED_S``. Fewer are
tolerated: a true listing becomes untrue when its work is sold or withdrawn. A node that cannot be
reached is asked again after ``UNREACHED_S``: it may only be starting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from viz.domain.eip712 import keccak
from viz.domain.ports.clock import Clock
from viz.domain.ports.peers import PeerHttp, PeerReply
from viz.domain.units import Address, ContentId, Hash32
from viz.errors import (
    AddressNotPublic,
    ChainError,
    InvalidListing,
    InvalidRequest,
    ListingStale,
    ListingUnknown,
    NodeUnreachable,
    VizError,
)
from viz.protocol.listing import LISTINGS_PAGE, LISTINGS_PATH, SignedListing, listings_from_json
from viz.protocol.wire import parse_json
from viz.services.market.listings import Listings

PAGES_A_ROUND: Final = 4
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
MAX_PAGE_VALUES: Final = 262_144
TIMEOUT_S: Final = 10.0
NEW_A_ROUND: Final = 512
REFUSED_ALLOWED: Final = 8
REFUSED_S: Final = 3_600
REFUSED_KEPT: Final = 16_384
UNREACHED_S: Final = 60
_log = structlog.get_logger()


@dataclass(slots=True)
class _Place:
    """How far a node's listings were read, and the ETag of each of its pages."""

    after: int
    tags: dict[int, tuple[str, int]]
    ask_again_s: int = 0


class ListingExchange:
    """Reads the listings of other nodes, page by page."""

    def __init__(self, listings: Listings, http: PeerHttp, clock: Clock) -> None:
        self._listings, self._http, self._clock = listings, http, clock
        self._places: dict[Address, _Place] = {}
        self._refused: dict[Hash32, int] = {}

    async def take(self, nodes: Sequence[tuple[Address, str]]) -> None:
        """Continue reading the listings of each node (its address and URL), and keep those that
        are new and true. Raises ChainError.
        """
        for node in set(self._places) - {node for node, _ in nodes}:
            del self._places[node]
        new = NEW_A_ROUND
        for node, url in nodes:
            place = self._places.setdefault(node, _Place(0, {}))
            if place.ask_again_s > self._clock.now_s():
                continue
            try:
                new -= await self._take_of(place, url, new)
            except ChainError:
                raise
            except VizError as error:
                wait_s = UNREACHED_S if _is_away(error) else REFUSED_S
                place.ask_again_s = self._clock.now_s() + wait_s
                _log.warning(
                    "a node's listings are left out", node=node, url=url, reason=error.detail
                )

    async def _take_of(self, place: _Place, url: str, most: int) -> int:
        taken = refused = 0
        for _ in range(PAGES_A_ROUND):
            page, after = await self._page(place, url)
            for signed in page:
                if refused >= REFUSED_ALLOWED:
                    raise InvalidListing(f"{refused} of its listings are invalid")
                if taken >= most:
                    place.tags.pop(place.after, None)  # the rest of this page is read again
                    return taken
                kept = await self._accept(signed, url)
                taken += kept is True
                refused += kept is False
            place.after = after
            if not after:
                break
        return taken

    async def _page(self, place: _Place, url: str) -> tuple[Sequence[SignedListing], int]:
        """Return the next page's listings (none if it did not change) and where to continue."""
        begin = place.after
        tag, following = place.tags.get(begin, ("", 0))
        reply = await self._http.call(
            "GET",
            f"{url}{LISTINGS_PATH}?after={begin}&limit={LISTINGS_PAGE}",
            headers={"If-None-Match": tag} if tag else {},
            max_bytes=MAX_PAGE_BYTES,
            timeout_s=TIMEOUT_S,
        )
        if reply.status == 304 and tag:
            return (), following
        page, after = await asyncio.to_thread(_read, reply)
        if after is not None and after <= begin:
            raise InvalidListing(f"the page after {begin} continues at {after}")
        given = reply.headers.get("etag", "")
        if given and len(given) <= 128 and given.isascii():
            place.tags[begin] = given, int(after or 0)
        return page, int(after or 0)

    async def _accept(self, signed: SignedListing, url: str) -> bool | None:
        """Keep a listing from ``url``; return False if it is refused, None if it was known already.

        Raises ChainError.
        """
        now_s, name = self._clock.now_s(), keccak(signed.document + signed.signature)
        if self._refused.get(name, 0) > now_s or await self._is_known(signed):
            return None
        try:
            await self._listings.accept(signed)
        except ListingStale:
            return None
        except ChainError:
            raise
        except VizError as error:
            work, reason = signed.listing.content_id, error.detail
            _log.info("a listing is refused", url=url, work=work, reason=reason)
            self._refused[name] = now_s + REFUSED_S
            while len(self._refused) > REFUSED_KEPT:
                del self._refused[next(iter(self._refused))]
            return False
        return True

    async def _is_known(self, signed: SignedListing) -> bool:
        try:
            kept = await self._listings.get(signed.listing.content_id)
        except ListingUnknown:
            return False
        return kept.listing.issued_at >= signed.listing.issued_at


def _is_away(error: VizError) -> bool:
    """Return whether the node was not reached, so that it did not lie."""
    return isinstance(error, NodeUnreachable) and not isinstance(error, AddressNotPublic)


def _read(reply: PeerReply) -> tuple[tuple[SignedListing, ...], ContentId | None]:
    if reply.status >= 500:  # also what a server before a node says while it starts
        raise NodeUnreachable(f"the node answered {reply.status} to a request for listings")
    if reply.status != 200:
        raise InvalidRequest(f"the node answered {reply.status} to a request for listings")
    answer = parse_json(reply.body, max_bytes=MAX_PAGE_BYTES, max_values=MAX_PAGE_VALUES)
    return listings_from_json(answer)
