"""The rules of a history that concern works, grants and adapters."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.properties.settlement.history import History
from tests.properties.settlement.registry import Adapter
from tests.properties.settlement.stage import (
    ADDRESS,
    COMMITMENT,
    LICENSE,
    TERMS,
    adapter_args,
    name_of,
    share_table,
)

from viz.domain.shares import Share, share_words, shares_hash
from viz.domain.units import ContentId

owners = st.sampled_from(["cara", "dan", "ann", "eve", "north", "zed", "settlement"])
trainers = st.sampled_from(["eve", "north", "zed"])
nodes = st.sampled_from(["north", "south"])
works = st.integers(1, 4)
adapters = st.integers(1, 4)
WRONG_TABLE = (Share(ContentId(1), 10_000),)


class Works(History):
    """Works change hands and are withdrawn; adapters appear and retire."""

    @precondition(lambda self: len(self.books.registry.works) < 4)
    @rule(creator=st.sampled_from(["cara", "dan"]), terms=st.sampled_from(sorted(TERMS)))
    def register_work(self, creator: str, terms: str) -> None:
        offered, registry = TERMS[terms], self.books.registry
        args = (COMMITMENT, LICENSE, offered.abi())
        self.act(
            creator,
            "ContentRegistry",
            "register",
            args,
            lambda: registry.register_work(ADDRESS[creator], offered),
        )

    @rule(work=works, to=owners)
    def transfer_work(self, work: int, to: str) -> None:
        if work not in self.books.registry.works:
            return
        owner = self.books.registry.works[work].owner
        if owner == ADDRESS["settlement"]:
            return  # nobody can move it from there
        self.act(
            name_of(owner),
            "ContentRegistry",
            "transferFrom",
            (owner, ADDRESS[to], work),
            lambda: self.books.registry.transfer_work(work, ADDRESS[to]),
        )

    @rule(work=works, by=st.sampled_from(["owner", "owner", "zed"]))
    def withdraw_work(self, work: int, by: str) -> None:
        registry = self.books.registry
        if work not in registry.works or registry.works[work].owner == ADDRESS["settlement"]:
            return
        who = name_of(registry.works[work].owner) if by == "owner" else by
        self.act(
            who,
            "ContentRegistry",
            "withdraw",
            (work,),
            lambda: registry.withdraw_work(ADDRESS[who], work, self.books.now_s),
        )

    @rule(trainer=trainers, work=works)
    def acquire_grant(self, trainer: str, work: int) -> None:
        books = self.books
        if work not in books.registry.works:
            return
        terms_hash = books.registry.works[work].terms.terms_hash(LICENSE)

        def change() -> None:
            owner, fee = books.registry.acquire_grant(ADDRESS[trainer], work, books.now_s)
            if owner == books.home:
                books.donated += fee
            books.tokens[ADDRESS[trainer]] -= fee
            books.tokens[owner] += fee

        self.act(trainer, "ContentRegistry", "acquireGrant", (work, terms_hash), change)

    @rule(
        trainer=trainers,
        made_of=st.lists(works, min_size=1, max_size=4, unique=True),
        royalty_bps=st.sampled_from([0, 999, 3_333, 9_999]),
        trainer_bps=st.sampled_from([0, 1, 3_333]),
    )
    def register_adapter(
        self, trainer: str, made_of: list[int], royalty_bps: int, trainer_bps: int
    ) -> None:
        registry = self.books.registry
        adapter = Adapter(ADDRESS[trainer], royalty_bps, trainer_bps, share_table(tuple(made_of)))
        done = self.act(
            trainer,
            "AdapterRegistry",
            "register",
            adapter_args(adapter),
            lambda: registry.register_adapter(adapter, self.books.now_s),
        )
        if done:
            view = ("AdapterRegistry", "sharesHash", (len(registry.adapters),))
            self.agree([(view, shares_hash(adapter.shares))])

    @rule(adapter=adapters, by=st.sampled_from(["trainer", "trainer", "zed"]))
    def retire(self, adapter: int, by: str) -> None:
        registry = self.books.registry
        known = registry.adapters.get(adapter)
        who = name_of(known.trainer) if known and by == "trainer" else "zed"
        self.act(
            who,
            "AdapterRegistry",
            "retire",
            (adapter,),
            lambda: registry.retire(ADDRESS[who], adapter, self.books.now_s),
        )

    @rule(adapter=adapters, index=st.integers(0, 3), table=st.sampled_from(["its", "its", "wrong"]))
    def enforce(self, adapter: int, index: int, table: str) -> None:
        registry = self.books.registry
        known = registry.adapters.get(adapter)
        shares = known.shares if known and table == "its" else WRONG_TABLE
        self.act(
            "zed",
            "AdapterRegistry",
            "enforce",
            (adapter, share_words(shares), index),
            lambda: registry.enforce(adapter, shares, index, self.books.now_s),
        )

    @rule(adapter=adapters, node=nodes, allowed=st.booleans())
    def set_serving(self, adapter: int, node: str, allowed: bool) -> None:
        registry = self.books.registry
        known = registry.adapters.get(adapter)
        who = name_of(known.trainer) if known else "eve"
        self.act(
            who,
            "AdapterRegistry",
            "setServing",
            (adapter, ADDRESS[node], allowed),
            lambda: registry.set_serving(
                ADDRESS[who], adapter, ADDRESS[node], allowed, self.books.now_s
            ),
        )
