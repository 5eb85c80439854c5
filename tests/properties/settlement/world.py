"""Who plays, and the scene that every history starts from.

Owns names, keys, the channels' parties, and the prepared works and adapters on a live chain, with
the books that say the same. Knows no rule.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

from tests.properties.settlement.books import Books
from tests.properties.settlement.livechain import CLOSE_DELAY_S, Done, LiveChain
from tests.properties.settlement.registry import Adapter, Refused, Registry

from viz.chain.keys import development_account
from viz.domain.eip712 import Domain, keccak, public_address, settlement_domain
from viz.domain.license import ADAPTER_USES, Terms, Use
from viz.domain.shares import Share, share_words
from viz.domain.units import UINT96_MAX, Address, ContentId, Hash32, parse_address

PEOPLE: Final = ("ann", "bob", "north", "south", "cara", "dan", "eve", "zed", "wil")
HOUR, DAY = 3_600, 86_400
MAX_APPROVAL = 2**256 - 1
PURSE_UNITS = 10**12
# The most that Settlement may hold. Nobody is that rich: the chain's storage is told so.
WHALE_UNITS = UINT96_MAX
LICENSE = Hash32(b"\x11" * 32)
COMMITMENT = Hash32(b"\x22" * 32)


@cache
def key_of(name: str) -> bytes:
    """People have unlocked accounts of the development chain; session keys have none."""
    if name in PEOPLE:
        return bytes(development_account(PEOPLE.index(name) + 1).key)
    return keccak(name.encode())


ADDRESS: Final[dict[str, Address]] = {name: public_address(key_of(name)) for name in PEOPLE}


@dataclass(frozen=True)
class Seat:
    """The parties of a channel, by name."""

    signer: str
    payer: str
    node: str

    @cached_property
    def pair(self) -> tuple[Address, Address]:
        return public_address(key_of(self.signer)), ADDRESS[self.node]


SEATS: Final = {
    "ann-north": Seat("ann's key", "ann", "north"),
    "bob-north": Seat("bob's key", "bob", "north"),
    "ann-south": Seat("ann's second key", "ann", "south"),
    "bob-south": Seat("bob", "bob", "south"),
    # Its buyer keeps no record and signs anything.
    "rash-north": Seat("a rash key", "bob", "north"),
    # Pays itself all that there can be.
    "whale": Seat("wil", "wil", "wil"),
}
HONEST: Final = tuple(name for name in SEATS if name not in ("rash-north", "whale"))


def _terms(
    fee: int, minimum: int, duration: int, notice: int, revocation: int, uses: Use = ADAPTER_USES
) -> Terms:
    return Terms(fee, minimum, duration, notice, revocation, uses, approval_required=False)


TERMS: Final = {
    "free": _terms(0, 0, 0, 0, 0),
    "kept": _terms(100, 1_000, 0, 0, 0),
    "lapsing": _terms(7, 500, 10 * DAY, HOUR, 1),
    "retiring": _terms(1, 800, 0, 3 * DAY, 2),
    "to look at": _terms(0, 0, 0, 0, 2, Use.TRAIN | Use.EVALUATE),
}


def share_table(works: tuple[int, ...]) -> tuple[Share, ...]:
    """Equal parts, the first a little more: sums that do not divide."""
    ids = sorted(set(works))
    parts = [10_000 // len(ids)] * len(ids)
    parts[0] += 10_000 - sum(parts)
    return tuple(Share(ContentId(work), bps) for work, bps in zip(ids, parts, strict=True))


class Stage:
    """A live chain and the books of it at the same moment."""

    chain: LiveChain
    books: Books

    def act(self, by: str, contract: str, function: str, args: tuple[Any, ...]) -> Done:
        """Do it on the chain and in the books; both refuse alike or tell the same events."""
        return self.chain.send(ADDRESS[by], contract, function, args, self.books.now_s)


class World(Stage):
    """The prepared scene, to which every history returns."""

    def __init__(self) -> None:
        self.chain = LiveChain()
        try:
            self._prepare()
        except BaseException:
            self.chain.close()
            raise

    def _prepare(self) -> None:
        deployment = self.chain.deployment
        ADDRESS["settlement"] = deployment.settlement
        self.domain: Domain = settlement_domain(deployment.chain_id, deployment.settlement)
        self.token_domain = Domain("Viz Test USD", "1", deployment.chain_id, deployment.token)
        registry = Registry(2 * CLOSE_DELAY_S)
        self.books = Books(
            self.domain, deployment.settlement, CLOSE_DELAY_S, registry, self.chain.now_s
        )
        for name in PEOPLE:
            self._must(name, "Token", "mint", ADDRESS[name], PURSE_UNITS)
            self.books.tokens[ADDRESS[name]] = PURSE_UNITS
            for spender in (deployment.settlement, deployment.content_registry):
                self._must(name, "Token", "approve", spender, MAX_APPROVAL)
        self.chain.set_tokens(ADDRESS["wil"], WHALE_UNITS)
        self.books.tokens[ADDRESS["wil"]] = WHALE_UNITS
        for creator, terms in (("cara", "kept"), ("dan", "retiring"), ("cara", "lapsing")):
            self._register_work(creator, TERMS[terms])
        self._license_and_register("eve", 3_000, 1_000, (1, 2, 3))
        self._license_and_register("north", 2_500, 0, (2,))
        self._license_and_register("eve", 7_000, 3_000, (1, 3))
        for by, adapter_id, node in (
            ("eve", 1, "north"),
            ("eve", 3, "south"),
            ("north", 2, "south"),
        ):
            self._must(by, "AdapterRegistry", "setServing", adapter_id, ADDRESS[node], True)
            registry.set_serving(ADDRESS[by], adapter_id, ADDRESS[node], True, self.books.now_s)
        self._snapshot = self.chain.snapshot()

    def _must(self, by: str, contract: str, function: str, *args: Any) -> None:
        done = self.act(by, contract, function, args)
        assert done.refused is None, f"{function}: {done.refused}"

    def _register_work(self, creator: str, terms: Terms) -> None:
        self._must(creator, "ContentRegistry", "register", COMMITMENT, LICENSE, terms.abi())
        self.books.registry.register_work(ADDRESS[creator], terms)

    def _license_and_register(
        self, trainer: str, royalty_bps: int, trainer_bps: int, works: tuple[int, ...]
    ) -> None:
        registry, tokens = self.books.registry, self.books.tokens
        for work_id in works:
            terms = registry.works[work_id].terms
            try:
                owner, fee = registry.acquire_grant(
                    ADDRESS[trainer], work_id, terms, self.books.now_s
                )
            except Refused:
                continue  # held for ever already
            tokens[ADDRESS[trainer]] -= fee
            tokens[owner] += fee
            hashed = terms.terms_hash(LICENSE)
            self._must(trainer, "ContentRegistry", "acquireGrant", work_id, hashed)
        adapter = Adapter(ADDRESS[trainer], royalty_bps, trainer_bps, share_table(works))
        registry.register_adapter(adapter, self.books.now_s)
        self._must(trainer, "AdapterRegistry", "register", *adapter_args(adapter))

    def restart(self) -> Books:
        """Return the chain to the prepared scene, and a copy of its books."""
        self.chain.revert(self._snapshot)
        self._snapshot = self.chain.snapshot()
        return deepcopy(self.books)


def adapter_args(adapter: Adapter) -> tuple[Any, ...]:
    words = share_words(adapter.shares)
    rates = (adapter.royalty_bps, adapter.trainer_bps)
    return (b"\1" * 32, b"\2" * 32, "bafkrei", b"\3" * 32, *rates, words)


def name_of(address: Address) -> str:
    known = {parse_address(found): name for name, found in ADDRESS.items()}
    return known.get(address, address)
