"""Find which nodes serve which models, and check what they say as far as possible.

Owns where a buyer looks. With a chain endpoint of its own, the buyer reads the directory there,
asks every node, and compares each offer with the chain. Without one, it asks the nodes whose URLs
it was given, and the nodes that their markets name. Each of these must have the expected address
and use the trusted contracts, but what it says about weights cannot be checked: if nodes contradict
each other, the majority counts, and the log says so.

Invariants: a URL from a stranger is asked only if its address is public, or private ones are
allowed; no offer of a node is used under another node's address.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import quote

import structlog

from viz.client.node_address import origin_of
from viz.domain.ports.chain import ChainReader, Deployment
from viz.domain.ports.clock import Clock
from viz.domain.ports.peers import PeerHttp
from viz.domain.units import UINT32_MAX, AdapterId, Address
from viz.errors import (
    AdapterEnded,
    AdapterSuspended,
    ConfigError,
    InvalidRequest,
    NodeUnreachable,
    VizError,
)
from viz.protocol.market import MARKET_PATH, MarketModel, MarketPage
from viz.protocol.messages import NodeInfo, adapter_named
from viz.protocol.payment import MODELS_PATH, NODE_PATH
from viz.services.market.discovery import Discovery, NodeOffers, unchecked_models
from viz.services.market.node_claims import check_node
from viz.services.market.remote_nodes import (
    MAX_DESCRIPTION_BYTES,
    NAMED_A_ROUND,
    Awaited,
    origin_in,
)

# What was found is used this long. A request for an unknown model searches again sooner.
FRESH_S: Final = 300.0
# Up to this age it is used while a new search runs, so that a question waits for none.
USED_MEANWHILE_S: Final = 3_600.0
AGAIN_S: Final = 10.0
MARKET_PAGES: Final = 20
MARKETS_READ: Final = 8
ASKED_NODES: Final = 128
# A buyer waits for the search, so strangers that do not answer must not make it long: if all that a
# round asks are silent, that takes 10 s, and no round waits for strangers longer than 15 s. A node
# that the buyer named gets TIMEOUT_S: where a name server is down, a name alone can take over 10 s.
ASKED_AT_ONCE: Final = 128
STRANGER_TIMEOUT_S: Final = 5.0
ROUND_S: Final = 15.0
TIMEOUT_S: Final = 20.0
# So many nodes are asked why a model is no longer sold.
WHY_ASKED: Final = 32
_log = structlog.get_logger()


class NodeFinder:
    """Finds nodes, and caches what they sell."""

    def __init__(
        self,
        deployment: Deployment,
        clock: Clock,
        *,
        known_http: PeerHttp,
        strangers_http: PeerHttp,
        chain: ChainReader | None,
        urls: Sequence[str],
        met: Mapping[Address, str],
        paid: Collection[Address] = (),
        allowed: Collection[Address] = (),
        allowed_http: PeerHttp | None = None,
        named: bool = True,
    ) -> None:
        """``urls`` are nodes that the buyer named; ``known_http`` asks them.

        If they are not ``named``, they are only tried: it is no failure if none answers there.

        ``met`` are the URLs of nodes that were found earlier; ``strangers_http`` asks them. These
        and ``paid``, with which the buyer has channels, are asked before the others. ``allowed``
        are those that the buyer named by address; ``allowed_http`` asks them, if it is given.
        """
        self._allowed = Awaited(frozenset(allowed), allowed_http or strangers_http, TIMEOUT_S)
        self._deployment, self._chain = deployment, chain
        self._known_http, self._strangers_http = known_http, strangers_http
        self._urls = list(dict.fromkeys(map(origin_of, urls)))
        self._met, self._are_named = met, named
        self._known: dict[str, NodeOffers] = {}
        # Why nodes were left out, by URL, as the log has it.
        self._left_out: dict[str, str] = {}
        # The URLs of other nodes that answered in the last search.
        self._answering: list[str] = []
        self._discovery = (
            None
            if chain is None
            else Discovery(
                chain,
                strangers_http,
                clock,
                None,
                known=lambda: tuple(self._known.values()),
                at_once=ASKED_AT_ONCE,
                timeout_s=STRANGER_TIMEOUT_S,
                round_s=ROUND_S,
                first={*met, *paid},
                awaited=self._allowed,
                names_each=False,
            )
        )
        self._clock = clock
        self._found: tuple[MarketModel, ...] = ()
        self._looked_s = float("-inf")
        self._turn = asyncio.Lock()
        self._meanwhile: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """End a search that nobody waits for."""
        if self._meanwhile is not None:
            self._meanwhile.cancel()
            await asyncio.wait([self._meanwhile])

    @property
    def checked(self) -> bool:
        """Whether offers are compared with the chain, through this buyer's own endpoint."""
        return self._discovery is not None

    def knows(self, url: str) -> bool:
        """Return whether the buyer itself named this URL."""
        return url in self._known

    async def models(self, *, again: bool = False) -> tuple[MarketModel, ...]:
        """Return the models of all nodes found; search again if the last search is too old.

        What was found is returned at once up to ``USED_MEANWHILE_S`` later, while a search runs.
        With ``again``, or after a search that found nothing, it is too old sooner, and the new
        search is waited for. Raises ChainError, NodeUnreachable if no node was found.
        """
        fresh_s = AGAIN_S if again or not self._found else FRESH_S
        waits = again or not self._found or self._age_s > USED_MEANWHILE_S
        if waits:
            await self._search(fresh_s)
        elif self._age_s > fresh_s and (self._meanwhile is None or self._meanwhile.done()):
            self._meanwhile = asyncio.create_task(self._search_meanwhile(), name="viz-node-search")
        if not self._found:
            raise NodeUnreachable(self._nobody())
        return self._found

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._looked_s

    def without_offers(self, nodes: Iterable[Address]) -> str:
        """Return those of these nodes that the last search found no offer of, as text."""
        offering = {offer.node for model in self._found for offer in model.offers}
        return ", ".join(sorted({*nodes} - offering))

    async def _search(self, fresh_s: float) -> None:
        async with self._turn:
            if self._age_s > fresh_s:
                self._found = await self._look()
                self._looked_s = time.monotonic()

    async def _search_meanwhile(self) -> None:
        """Search; what was found before stays if the search fails."""
        try:
            await self._search(FRESH_S)
        except VizError as error:
            _log.warning("the nodes could not be searched", reason=error.detail)

    async def why_not_sold(self, wanted: Sequence[str]) -> VizError | None:
        """Return why a model is no longer sold: AdapterEnded, AdapterSuspended, or None.

        ``wanted`` are its id and title, as far as they are known. The nodes that the buyer named
        are asked first, then those it met, then others; the first of them that says why is named,
        unless this buyer's own chain has another state of that adapter. None if no node says why.
        Raises ChainError.
        """
        urls = dict.fromkeys([*self._known, *self._met.values(), *self._answering])
        asked = [(url, name) for url in list(urls)[:WHY_ASKED] for name in wanted if url]
        said = await asyncio.gather(*(self._why(*each) for each in asked))
        for error in said:
            if error is not None and await self._chain_agrees(error):
                return error
        return None

    async def _why(self, url: str, wanted: str) -> VizError | None:
        """Return what one node says against a model that it sold, with the node's URL."""
        http = self._known_http if url in self._known else self._strangers_http
        question = f"{url}{MODELS_PATH}/{quote(wanted, safe='')}"
        try:
            await http.ask("GET", question, timeout_s=STRANGER_TIMEOUT_S)
        except (AdapterEnded, AdapterSuspended) as error:
            named = adapter_named(wanted)
            if named is None or named == error.extensions.get("adapterId"):
                return type(error)(f"{url} says: {error.detail}", **error.extensions)
        except VizError as error:
            _log.debug("a node says nothing of a model", url=url, reason=error.detail)
        return None

    async def _chain_agrees(self, said: VizError) -> bool:
        """Return whether this buyer's chain has the adapter, retired if the node says so."""
        if self._chain is None:
            return True
        adapter_id = said.extensions.get("adapterId")
        if type(adapter_id) is not int or not 0 < adapter_id <= UINT32_MAX:
            return False
        state = await self._chain.adapter(AdapterId(adapter_id))
        if state is None or isinstance(said, AdapterSuspended):
            return state is not None
        return state.retires_at <= await self._chain.chain_time()

    def _nobody(self) -> str:
        named = ", ".join(self._urls) if self._are_named else ""
        where = [
            *(["in the directory"] if self.checked else []),
            *([f"among those that you named ({named})"] if named else []),
        ]
        return (
            f"no node was found{' ' if where else ''}{' and '.join(where)}: name one with --node"
            + ("" if self.checked else ", or with --rpc a chain, where the directory of nodes is")
        )

    async def _look(self) -> tuple[MarketModel, ...]:
        self._known = {
            each.url: each
            for each in await self._described([(url, None) for url in self._urls], known=True)
        }
        if self._discovery is not None:
            await self._discovery.step_on(self._named_by_found)
            self._answering = self._discovery.urls()
            return self._discovery.index.models
        named = await self._named(self._known)
        mine = {each.node for each in self._known.values()}
        asked = [(url, node) for node, url in named.items() if node not in mine]
        asked.sort(key=lambda each: each[1] not in self._allowed.nodes)
        asked = asked[:ASKED_NODES]
        strangers = await self._described(asked, known=False)
        self._answering = [each.url for each in strangers]
        return one_each(unchecked_models([*self._known.values(), *strangers]))

    async def _described(
        self, asked: Iterable[tuple[str, Address | None]], *, known: bool
    ) -> list[NodeOffers]:
        """Ask nodes what they sell; log and leave out those whose answer cannot be used."""
        room = asyncio.Semaphore(ASKED_AT_ONCE)
        left_out: list[tuple[str, Address | None, str]] = []

        async def describe(url: str, node: Address | None) -> NodeOffers | None:
            http, timeout_s = self._strangers_http, STRANGER_TIMEOUT_S
            if known:
                http, timeout_s = self._known_http, TIMEOUT_S
            elif node in self._allowed.nodes:
                http, timeout_s = self._allowed.http, self._allowed.timeout_s
            began_s = time.monotonic()
            try:
                async with room:
                    answer = await http.ask(
                        "GET", url + NODE_PATH, max_bytes=MAX_DESCRIPTION_BYTES, timeout_s=timeout_s
                    )
                info = NodeInfo.from_json(answer)
                check_node(info, self._deployment)
                if node is not None and info.node != node:
                    raise InvalidRequest(f"another node answers there: {info.node}")
            except VizError as error:
                if known and not self._are_named:
                    _log.debug("a node is left out", url=url, reason=error.detail)
                elif known and isinstance(error, NodeUnreachable):
                    _log.info("a node is left out", url=url, reason=error.detail)
                else:
                    left_out.append((url, node, error.detail))
                return None
            took_ms = (time.monotonic() - began_s) * 1_000
            return NodeOffers.described(info, url, took_ms, self._clock.now_s())

        found = await asyncio.gather(*(describe(*each) for each in asked))
        self._name(left_out)
        return [each for each in found if each is not None]

    def _name(self, left_out: Iterable[tuple[str, Address | None, str]]) -> None:
        """Name nodes that are left out in the log, each once for a reason, a bounded number."""
        new = [each for each in left_out if self._left_out.get(each[0]) != each[2]]
        self._left_out |= {url: reason for url, _, reason in new[:NAMED_A_ROUND]}
        for url, node, reason in new[:NAMED_A_ROUND]:
            _log.warning("a node is left out", url=url[:256], node=node, reason=reason)
        if (more := len(new) - NAMED_A_ROUND) > 0:
            _log.warning("more nodes are left out", count=more)

    async def _named_by_found(self) -> list[Address]:
        """Return the nodes named in the markets of those that were found.

        Where cheap entries fill the directory, one node that is no stranger's knows the others.
        """
        models = self._discovery.index.models if self._discovery else ()
        found = {offer.url for model in models for offer in model.offers}
        urls = [*self._known, *sorted(found - {*self._known})]
        return list(await self._named(urls[:MARKETS_READ]))[:ASKED_NODES]

    async def _named(self, urls: Iterable[str]) -> dict[Address, str]:
        """Return the nodes named in the markets at these URLs, each with a URL."""
        named = {node: url for node, url in self._met.items() if url}
        pages = await asyncio.gather(*map(self._market, urls))
        for page in pages:
            for model in page:
                for offer in model.offers:
                    try:
                        named.setdefault(offer.node, origin_in(offer.url))
                    except InvalidRequest:
                        continue
        return named

    async def _market(self, url: str) -> list[MarketModel]:
        found: list[MarketModel] = []
        known, after = url in self._known, ""
        http = self._known_http if known else self._strangers_http
        timeout_s = TIMEOUT_S if known else STRANGER_TIMEOUT_S
        try:
            async with asyncio.timeout(ROUND_S):
                for _ in range(MARKET_PAGES):
                    question = f"{url}{MARKET_PATH}" + (f"?after={after}" if after else "")
                    page = MarketPage.from_json(
                        await http.ask("GET", question, timeout_s=timeout_s)
                    )
                    found += page.models
                    if not page.next:
                        break
                    after = page.next
        except (VizError, TimeoutError) as error:
            reason = error.detail if isinstance(error, VizError) else f"slower than {ROUND_S:g} s"
            _log.info("a node's market cannot be read", url=url, reason=reason)
        return found


def one_each(models: Iterable[MarketModel]) -> tuple[MarketModel, ...]:
    """Return one model for each adapter; where nodes contradict each other, the majority counts.

    A base model's id is its digest, so all base models stay.
    """
    together: dict[AdapterId, list[MarketModel]] = defaultdict(list)
    kept: list[MarketModel] = []
    for model in models:
        if model.adapter_id:
            together[model.adapter_id].append(model)
        else:
            kept.append(model)
    for adapter_id, each in together.items():
        if len(each) > 1:
            _log.warning(
                "nodes contradict each other about the weights of an adapter: name a chain of "
                "your own with --rpc, which has the registered ones",
                adapter_id=int(adapter_id),
            )
        kept.append(max(each, key=lambda one: len(one.offers)))
    return tuple(sorted(kept, key=lambda one: (one.adapter_id, one.weights_digest)))


def checked_urls(urls: Iterable[str]) -> list[str]:
    """Return the valid URLs; leave the others out."""
    good: list[str] = []
    for url in urls:
        try:
            good.append(origin_of(url))
        except ConfigError:
            continue
    return good
