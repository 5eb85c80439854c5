"""Fetch the pages that a site's sitemap names, as the site's own rules permit.

Owns the order of the requests, their pace and bounds, and which page is left out and why. Collects
what the site says about training; ``rights`` decides by it. Requests go through ``viz.outbound``:
to public addresses only, without redirects, bounded. Invariants: no page that robots.txt bars for
this program is requested, and no page of another host; only lists of addresses and rules are parsed
here; a site whose rules cannot be fetched is not fetched. Rules see each address as it is
requested (``as_sent``), so that none goes around them by ``/../``.
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final
from urllib.parse import urljoin, urlsplit

from viz.creator.intake.found import OptOut
from viz.creator.intake.rights import in_force
from viz.creator.intake.rsl_rules import RslRules
from viz.creator.intake.site_paths import climbs
from viz.creator.intake.site_rules import (
    AGENT,
    AiTxt,
    Robots,
    TdmRules,
    header_statements,
    license_links,
)
from viz.domain.http_url import http_origin
from viz.errors import InvalidRequest, InvalidWork, NodeRefused, NodeUnreachable
from viz.outbound import Outbound, OutboundReply, as_sent

MAX_PAGES: Final = 500
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
MAX_SITE_BYTES: Final = 64 * 1024 * 1024
MAX_SITE_S: Final = 1_800.0
DELAY_S: Final = 1.0
_MAX_DELAY_S: Final = 30.0
_TOO_OFTEN: Final = 429
_MAX_RULE_BYTES: Final = 1024 * 1024
_MAX_SITEMAP_BYTES: Final = 8 * 1024 * 1024
_MAX_SITEMAPS: Final = 50
_MAX_LICENSES: Final = 8
_TOLD: Final = 40
_LOC: Final = re.compile(rb"<(?:\w+:)?loc\s*>\s*(?:<!\[CDATA\[)?\s*([^<\]\s]{1,2000})")
_READ: Final = ("text/html", "application/xhtml+xml", "text/plain", "text/markdown")


@dataclass(frozen=True, slots=True)
class SitePage:
    """One page as the site sent it."""

    url: str
    body: bytes
    is_html: bool


@dataclass(slots=True)
class FetchedSite:
    """What was fetched of a site, what it says about training, and what was left out and why."""

    pages: list[SitePage] = field(default_factory=list)
    opt_outs: list[OptOut] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def leave_out(self, url: str, why: str) -> None:
        if len(self.left_out) < _TOLD:
            self.left_out.append({"name": url, "why": why})


@dataclass(frozen=True, slots=True)
class SiteBounds:
    """Limits of one site's fetch, and its pace: ``delay_s`` between two requests."""

    pages: int = 200
    bytes: int = MAX_SITE_BYTES
    seconds: float = MAX_SITE_S
    delay_s: float = DELAY_S


class SiteReader:
    """Reads one site, from ``start``: a sitemap, or the address below which pages are wanted."""

    def __init__(
        self,
        http: Outbound,
        start: str,
        bounds: SiteBounds,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Raises InvalidRequest if ``start`` is not the address of a page."""
        origin = http_origin(start.partition("?")[0].partition("#")[0])
        if origin is None:
            raise InvalidRequest(f"{start[:200]!r} is not an address: write https://host/path")
        if not 0 < bounds.pages <= MAX_PAGES:
            raise InvalidRequest(f"1 to {MAX_PAGES} pages are fetched at once")
        self._http, self._start, self._origin = http, as_sent(start), origin
        self._bounds, self._sleep = bounds, sleep
        self._robots, self._ai = Robots(), AiTxt()
        self._tdm, self._rsl = TdmRules(), RslRules()
        self._licenses: set[str] = set()
        self._delay_s, self._asked, self._bytes = bounds.delay_s, False, 0
        self._site = FetchedSite()

    async def read(self, *, reserved_too: bool) -> FetchedSite:
        """Return the site's pages.

        Without ``reserved_too`` nothing more is fetched once a reservation was found: then pages
        are missing, and ``opt_outs`` say why. Raises InvalidWork if robots.txt bars us, or no page
        is left, and NodeUnreachable if the site, or its rules, cannot be read.
        """
        try:
            async with asyncio.timeout(self._bounds.seconds):
                await self._rules()
                for url in await self._addresses():
                    self._add(self._said(url))
                    if not reserved_too and in_force(self._site.opt_outs):
                        return self._site
                    await self._page(url)
        except TimeoutError as error:
            raise NodeUnreachable(
                f"{self._origin} gave {len(self._site.pages)} pages in {self._bounds.seconds:g} s: "
                "name fewer with --max-pages, or a part of the site"
            ) from error
        if not self._site.pages and not in_force(self._site.opt_outs):
            why = "; ".join(f"{each['name']}: {each['why']}" for each in self._site.left_out[:3])
            raise InvalidWork(f"{self._start} gives no page{f': {why}' if why else ''}")
        return self._site

    async def _rules(self) -> None:
        """Read robots.txt, ai.txt, tdmrep.json, and the RSL documents that robots.txt names."""
        if (found := await self._rule("/robots.txt")) is not None:
            self._robots = Robots.parse(found)
        self._delay_s = max(self._delay_s, min(self._robots.delay_s(), _MAX_DELAY_S))
        if not self._robots.permits(self._start):
            raise InvalidWork(
                f"robots.txt of {self._origin} bars {AGENT} from {self._start}: nothing was "
                "fetched. If the site is yours, allow it there, or import its files"
            )
        if (found := await self._rule("/ai.txt")) is not None:
            self._ai = AiTxt.parse(found)
        if (found := await self._rule("/.well-known/tdmrep.json")) is not None:
            self._tdm = TdmRules.parse(found)
        for address in self._robots.licenses():
            await self._license(address, self._origin)

    async def _rule(self, path: str) -> bytes | None:
        """Return a file of rules; None if the site has none. An error bars the site (RFC 9309)."""
        try:
            reply = await self._ask(self._origin + path, _MAX_RULE_BYTES)
        except NodeRefused as error:
            raise InvalidWork(
                f"{error.detail}. While the site's rules cannot be read, nothing is fetched: if it "
                "redirects, name the site by the address to which it leads; else import its files"
            ) from error
        if 400 <= reply.status < 500 and reply.status != _TOO_OFTEN:
            return None
        if reply.status != 200:
            raise NodeUnreachable(
                f"{self._origin}{path} answers {reply.status}: while its rules cannot be read, "
                "nothing is fetched. Try again later"
            )
        return reply.body

    async def _license(self, address: str, base: str) -> None:
        (url,) = _absolute(base, [address])
        if url in self._licenses or len(self._licenses) >= _MAX_LICENSES:
            return
        self._licenses.add(url)
        if not self._is_here(url):
            # Whoever reads this site asks no other host: a person has to read that license.
            self._rsl.add(url, None)
            return
        try:
            reply = await self._ask(url, _MAX_RULE_BYTES)
            self._rsl.add(url, reply.body if reply.status == 200 else None)
        except NodeRefused:
            self._rsl.add(url, None)

    async def _addresses(self) -> list[str]:
        """Return the pages to request, in the sitemap's order."""
        below, maps = self._start, self._robots.sitemaps() or [f"{self._origin}/sitemap.xml"]
        if urlsplit(self._start).path.endswith(".xml"):
            below, maps = f"{self._origin}/", [self._start]
        found = dict.fromkeys(await self._listed(maps))
        wanted = [url for url in found if self._is_here(url) and url.startswith(below)]
        if elsewhere := len(found) - len(wanted):
            self._site.leave_out(self._origin, f"{elsewhere} addresses are elsewhere")
        if not found:
            self._site.leave_out(self._origin, "it has no sitemap: the one page was asked for")
            wanted = [self._start]
        for url in wanted[self._bounds.pages :][:1]:
            more = len(wanted) - self._bounds.pages
            self._site.leave_out(url, f"and {more - 1} more are beyond --max-pages")
        return wanted[: self._bounds.pages]

    async def _listed(self, maps: list[str]) -> list[str]:
        """Return the addresses in sitemaps, and in the sitemaps that these name."""
        waiting, seen, found = _absolute(self._origin, maps), set[str](), list[str]()
        while waiting and len(seen) < _MAX_SITEMAPS:
            url = waiting.pop(0)
            if url in seen or not self._is_here(url) or not self._robots.permits(url):
                continue
            if climbs(url):
                continue
            seen.add(url)
            try:
                reply = await self._ask(url, _MAX_SITEMAP_BYTES)
            except NodeRefused as error:
                self._site.leave_out(url, error.detail)
                continue
            if reply.status != 200:
                continue
            if reply.body.startswith(b"\x1f\x8b"):
                self._site.leave_out(url, "a compressed sitemap is not read")
                continue
            named = _absolute(self._origin, _locs(reply.body))
            if b"<sitemapindex" in reply.body[:4096]:
                waiting += named
            else:
                found += named
        return found

    async def _page(self, url: str) -> None:
        if not self._robots.permits(url):
            self._site.leave_out(url, f"robots.txt bars {AGENT}")
            return
        if climbs(url):
            self._site.leave_out(url, "its path leads elsewhere at a server that decodes it")
            return
        try:
            reply = await self._ask(url, MAX_PAGE_BYTES)
        except (NodeRefused, NodeUnreachable) as error:
            self._site.leave_out(url, error.detail)
            return
        kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
        if reply.status != 200:
            self._site.leave_out(url, f"it answers {reply.status}")
        elif kind not in _READ:
            self._site.leave_out(url, f"it is {kind or 'of no kind'}: download it, and import it")
        elif self._bytes + len(reply.body) > self._bounds.bytes:
            self._site.leave_out(url, "it is beyond the bytes that are read of a site")
        else:
            for address in license_links(reply.headers, reply.body):
                await self._license(address, url)
            self._add(header_statements(reply.headers), url)
            self._add(self._rsl.statements(url))
            self._bytes += len(reply.body)
            self._site.pages.append(SitePage(url, reply.body, kind in _READ[:2]))

    def _said(self, url: str) -> list[OptOut]:
        """Return what the site's rules say about a page."""
        said = (self._robots, self._ai, self._tdm, self._rsl)
        return [each for rules in said for each in rules.statements(url)]

    def _add(self, found: list[OptOut], url: str = "") -> None:
        at = f" of {url}" if url else ""
        for each in found:
            told = OptOut(each.scheme, each.says, f"{each.where}{at}", each.value)
            if told not in self._site.opt_outs:
                self._site.opt_outs.append(told)

    def _is_here(self, url: str) -> bool:
        return http_origin(url.partition("?")[0].partition("#")[0]) == self._origin

    async def _ask(self, url: str, max_bytes: int) -> OutboundReply:
        """Send a request at the site's pace; it names this program and its page."""
        if self._asked:
            await self._sleep(self._delay_s)
        self._asked = True
        agent = f"{AGENT}/{version('viz-node')} (viz content import; one person's copy of a site)"
        sent = {"User-Agent": agent, "Accept": ", ".join(_READ) + ", application/xml, */*;q=0.1"}
        return await self._http.call("GET", url, headers=sent, max_bytes=max_bytes)


def _locs(body: bytes) -> list[str]:
    found = _LOC.findall(body)[: MAX_PAGES * 20]
    return [html.unescape(each.decode("utf-8", "replace")) for each in found]


def _absolute(base: str, addresses: Iterable[str]) -> list[str]:
    """Return addresses as they are requested; what is none stays as it is, and is elsewhere."""
    found: list[str] = []
    for each in addresses:
        try:
            found.append(as_sent(urljoin(base, each)))
        except (InvalidRequest, ValueError):
            found.append(each)
    return found
