"""Ask the nodes of the directory what they sell, and check each answer against the chain.

Owns which entries of the directory are asked, how often, and when a node is left out. Invariants:

- What a node says is used only if it names the entry's address and the trusted contracts.
- One contradiction with the chain leaves the whole node out, for ``LIED_S``.
- Each URL is asked once a round, whoever announced it, and ``ASKED_A_ROUND`` at most.
- Nodes that the asker names, then those that answered before, are asked first, so that new entries
  cannot push them out. The named ones are asked beyond ``ASKED_A_ROUND``.
- A round ends after ``round_s``; who was not asked by then is due in the next one. An
  ``Awaited`` node has a time limit of its own instead, and is asked in the next round too if it did
  not answer; one that contradicted the chain is left out as any other.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import structlog

from viz.domain.http_url import http_origin
from viz.domain.ports.chain import ChainReader, NodeEntry
from viz.domain.ports.clock import Clock
from viz.domain.ports.peers import PeerHttp
from viz.domain.units import BASE_MODEL, Address
from viz.errors import InvalidRequest, NodeNotTrusted, NodeUnreachable, VizError
from viz.protocol.messages import NodeInfo
from viz.protocol.payment import NODE_PATH
from viz.services.market.node_claims import check_node

ENTRIES_READ: Final = 4_096
ENTRIES_PAGE: Final = 128
ASKED_A_ROUND: Final = 256
ASKED_AT_ONCE: Final = 8
ASK_TIMEOUT_S: Final = 10.0
MAX_DESCRIPTION_BYTES: Final = 2 * 1024 * 1024
# Nothing on chain bounds how many base models a node names, and each is a model of the market.
MAX_BASES: Final = 16
# So many nodes that a buyer's round leaves out are named in the log.
NAMED_A_ROUND: Final = 5
# A node that contradicted the chain is asked again after this time; one that failed, after a time
# that doubles with each failure.
LIED_S: Final = 3_600
FAILED_S: Final = 300
# A node's offers stay listed this long after its last answer.
KEPT_S: Final = 900
# The weight of the newest latency in the smoothed one.
_NEWEST: Final = 0.3
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KnownRemote:
    """A node of the directory: its entry, its latest description, and how it behaved."""

    entry: NodeEntry
    info: NodeInfo | None = None
    latency_ms: float = 0.0
    seen_at_s: int = 0
    failures: int = 0
    ask_again_s: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Awaited:
    """Nodes that are asked beside the others: by ``http``, for at most ``timeout_s`` seconds each.

    With a client of their own they never wait behind the slow names of strangers.
    """

    nodes: frozenset[Address]
    http: PeerHttp
    timeout_s: float


def origin_in(url: str) -> str:
    """Return the origin in a directory entry; raise InvalidRequest if it is not an origin.

    An entry is ``http(s)://host[:port]``, without path, user or query.
    """
    origin = http_origin(url)
    if origin is None or not url.isascii() or urlsplit(url).path not in ("", "/"):
        raise InvalidRequest(f"{url[:200]!r} is not a node's URL: write http(s)://host[:port]")
    return origin.lower()


class RemoteNodes:
    """The nodes of one directory, with what is known about each."""

    def __init__(
        self,
        chain: ChainReader,
        http: PeerHttp,
        clock: Clock,
        *,
        own: Address | None = None,
        at_once: int = ASKED_AT_ONCE,
        timeout_s: float = ASK_TIMEOUT_S,
        round_s: float | None = None,
        first: Collection[Address] = (),
        awaited: Awaited | None = None,
        names_each: bool = True,
    ) -> None:
        """``own`` is this node's address: it does not ask itself.

        ``at_once`` nodes are asked at the same time; one that is silent for ``timeout_s`` seconds
        has failed. ``first`` are the nodes to ask before all others, but for those ``awaited``.
        Without ``names_each`` the log names at most ``NAMED_A_ROUND`` nodes that a round leaves
        out, and counts the others.
        """
        self._awaited = awaited or Awaited(frozenset(), http, timeout_s)
        self._first = self._awaited.nodes.union(first)
        self._round_s, self._names_each = round_s, names_each
        self._left_out: list[tuple[Address, str, str]] = []
        self._told: dict[Address, str] = {}
        self._chain, self._http, self._clock, self._own = chain, http, clock, own
        self._at_once, self._timeout_s = at_once, timeout_s
        self._known: dict[Address, KnownRemote] = {}

    def serving(self) -> tuple[KnownRemote, ...]:
        """Return the nodes whose description can be used now, by address."""
        since_s = self._clock.now_s() - KEPT_S
        return tuple(
            self._known[node]
            for node in sorted(self._known)
            if self._known[node].info is not None and self._known[node].seen_at_s >= since_s
        )

    def leave_out(self, node: Address, fault: str, url: str) -> None:
        """Leave a node that contradicted the chain out for ``LIED_S``, and name it in the log."""
        again_s = self._clock.now_s() + LIED_S
        if (known := self._known.get(node)) is not None:
            self._known[node] = replace(known, info=None, fault=fault, ask_again_s=again_s)
        self._name(node, url, fault)

    def _name(self, node: Address, url: str, fault: str) -> None:
        """Name a node that is left out in the log, once for each reason; or have ``sum_up`` do."""
        if self._told.get(node) == fault:
            return
        if len(self._told) >= ENTRIES_READ:
            self._told.clear()
        self._told[node] = fault
        if self._names_each:
            _log.warning("a node is left out", node=node, url=url[:256], reason=fault)
        else:
            self._left_out.append((node, url, fault))

    def sum_up(self) -> None:
        """Name the nodes that were left out since the last time, if none was named yet."""
        for node, url, fault in self._left_out[:NAMED_A_ROUND]:
            _log.warning("a node is left out", node=node, url=url[:256], reason=fault)
        if (more := len(self._left_out) - NAMED_A_ROUND) > 0:
            _log.warning("more nodes are left out", count=more)
        self._left_out = []

    def unasked(self) -> set[Address]:
        """Return the nodes of the directory that no round has reached yet."""
        return {
            node
            for node, known in self._known.items()
            if known.info is None and not known.fault and not known.ask_again_s
        }

    async def look(self) -> None:
        """Read the directory, and ask each node that is due; raise ChainError."""
        await self._read_directory()
        await self.ask(self._known)

    async def _read_directory(self) -> None:
        entries = {entry.node: entry for entry in await directory_entries(self._chain)}
        if self._own is not None:
            entries.pop(self._own, None)
        for node in set(self._known) - set(entries):
            del self._known[node]
        for node, entry in entries.items():
            known = self._known.get(node)
            if known is None or known.entry != entry:
                # A node with a new URL starts without a history: the old one is of the old URL.
                self._known[node] = KnownRemote(entry)

    async def ask(self, nodes: Collection[Address]) -> None:
        """Ask those of these nodes that are due, one round of them."""
        due, waited = self._due(nodes), self._awaited
        beside = {
            origin: named
            for origin, named in due.items()
            if any(each.entry.node in waited.nodes for each in named)
        }
        await asyncio.gather(
            *(self._ask(*each, waited.http, waited.timeout_s) for each in beside.items()),
            self._round([each for each in due.items() if each[0] not in beside]),
        )

    async def _round(self, due: Iterable[tuple[str, list[KnownRemote]]]) -> None:
        room = asyncio.Semaphore(self._at_once)

        async def ask(origin: str, named: list[KnownRemote]) -> None:
            async with room:
                await self._ask(origin, named, self._http, self._timeout_s)

        try:
            async with asyncio.timeout(self._round_s):
                await asyncio.gather(*(ask(*each) for each in due))
        except TimeoutError:
            _log.info("the round ends before all nodes answered", seconds=self._round_s)

    def _due(self, nodes: Collection[Address]) -> dict[str, list[KnownRemote]]:
        """Return the origins to ask now, each with the entries that name it."""
        now_s = self._clock.now_s()
        asked = [self._known[node] for node in nodes if node in self._known]
        due = [each for each in asked if each.ask_again_s <= now_s]
        random.shuffle(due)
        due.sort(key=lambda each: (each.entry.node not in self._first, each.info is None))
        origins: dict[str, list[KnownRemote]] = {}
        for known in due:
            try:
                origin = origin_in(known.entry.url)
            except InvalidRequest as error:
                self.leave_out(known.entry.node, error.detail, known.entry.url)
                continue
            named = known.entry.node in self._first
            if named or origin in origins or len(origins) < ASKED_A_ROUND:
                origins.setdefault(origin, []).append(known)
        return origins

    async def _ask(
        self, origin: str, nodes: Iterable[KnownRemote], http: PeerHttp, timeout_s: float
    ) -> None:
        """Ask one URL, and judge every node that announced it by the answer."""
        began_s = time.monotonic()
        try:
            answer = await http.ask(
                "GET", origin + NODE_PATH, max_bytes=MAX_DESCRIPTION_BYTES, timeout_s=timeout_s
            )
            took_ms = (time.monotonic() - began_s) * 1_000
            info = await asyncio.to_thread(NodeInfo.from_json, answer)
        except VizError as error:
            for known in nodes:
                self._failed(known, error)
            return
        for known in nodes:
            try:
                self._take(known, info, took_ms)
            except NodeNotTrusted as error:
                self.leave_out(known.entry.node, error.detail, origin)

    def _take(self, known: KnownRemote, info: NodeInfo, took_ms: float) -> None:
        node = known.entry.node
        if info.node != node:
            raise NodeNotTrusted(f"another node answers at its URL: {info.node}")
        check_node(info, self._chain.deployment)
        # All base models have the id 0; each has its own digest.
        ids = [offer.adapter_id or (BASE_MODEL, offer.weights_digest) for offer in info.adapters]
        if len(set(ids)) != len(ids):
            raise NodeNotTrusted("it offers one adapter or one base model twice")
        if sum(offer.adapter_id == BASE_MODEL for offer in info.adapters) > MAX_BASES:
            raise NodeNotTrusted(f"it offers more than {MAX_BASES} base models")
        before_ms = known.latency_ms or took_ms
        latency_ms = before_ms + _NEWEST * (took_ms - before_ms)
        self._known[node] = KnownRemote(known.entry, info, latency_ms, self._clock.now_s())

    def _failed(self, known: KnownRemote, error: VizError) -> None:
        failures = known.failures + 1
        wait_s = min(LIED_S, FAILED_S << min(failures - 1, 8))
        soon = failures == 1 or known.entry.node in self._awaited.nodes
        again_s = self._clock.now_s() + (0 if soon else wait_s)
        self._known[known.entry.node] = replace(
            known, failures=failures, ask_again_s=again_s, fault=error.detail
        )
        if not isinstance(error, NodeUnreachable) and not self._names_each:
            # It answers with what is no description: a buyer is told of it as of a lie.
            self._name(known.entry.node, known.entry.url, error.detail)
        elif failures == 1:
            _log.info(
                "a node does not answer",
                node=known.entry.node,
                url=known.entry.url[:256],
                reason=error.detail,
            )


async def directory_entries(chain: ChainReader) -> list[NodeEntry]:
    """Return the entries of the directory, the oldest first, ``ENTRIES_READ`` at most."""
    found: list[NodeEntry] = []
    while len(found) < ENTRIES_READ:
        page = await chain.node_entries(len(found), ENTRIES_PAGE)
        found += page
        if len(page) < ENTRIES_PAGE:
            return found
    _log.warning("only a part of the directory is read", entries=ENTRIES_READ)
    return found
