"""The rules of a history that concern works, grants and adapters."""

from __future__ import annotations

from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import precondition
from tests.properties.settlement.coverage import TALLY
from tests.properties.settlement.history import step
from tests.properties.settlement.invariants import Upheld
from tests.properties.settlement.registry import NEVER, Adapter
from tests.properties.settlement.world import (
    ADDRESS,
    COMMITMENT,
    LICENSE,
    TERMS,
    adapter_args,
    name_of,
    share_table,
)

from viz.domain.license import Terms
from viz.domain.shares import Share, ShareTable, share_words, shares_hash
from viz.domain.units import ContentId

owners = st.sampled_from(["cara", "dan", "ann", "eve", "north", "zed", "settlement"])
trainers = st.sampled_from(["eve", "north", "zed"])
nodes = st.sampled_from(["north", "south"])
works = st.integers(1, 4)
adapters = st.integers(1, 5)
# Which of the prepared works can leave in which way, and by which terms.
LEAVES = {"withdrawn": 2, "exchanged": 1, "lapsed": 3}
WRONG_TABLE = (Share(ContentId(1), 10_000),)


class Works(Upheld):
    """Works change hands and are withdrawn; adapters appear and retire."""

    @precondition(lambda self: len(self.books.registry.works) < 4)
    @step(creator=st.sampled_from(["cara", "dan"]), terms=st.sampled_from(sorted(TERMS)))
    def register_work(self, creator: str, terms: str) -> None:
        offered = TERMS[terms]
        self.act(
            creator,
            "ContentRegistry",
            "register",
            (COMMITMENT, LICENSE, offered.abi()),
            lambda: self.books.registry.register_work(ADDRESS[creator], offered),
        )

    @step(work=works, to=owners)
    def transfer_work(self, work: int, to: str) -> None:
        who = self._owner(work)
        if who is not None:
            self.act(
                who,
                "ContentRegistry",
                "transferFrom",
                (ADDRESS[who], ADDRESS[to], work),
                lambda: self.books.registry.transfer_work(ADDRESS[who], work, ADDRESS[to]),
            )

    def _owner(self, work: int) -> str | None:
        """Who may act for a work; nobody can move it out of Settlement."""
        known = self.books.registry.works.get(work)
        name = name_of(known.owner) if known else "settlement"
        return None if name == "settlement" else name

    @step(work=works, terms=st.sampled_from(sorted(TERMS)))
    def set_terms(self, work: int, terms: str) -> None:
        who, offered = self._owner(work), TERMS[terms]
        if who is not None:
            self.act(
                who,
                "ContentRegistry",
                "setTerms",
                (work, LICENSE, offered.abi()),
                lambda: self.books.registry.set_terms(ADDRESS[who], work, offered),
            )

    @step(work=works, by=st.sampled_from(["owner", "owner", "zed"]))
    def withdraw_work(self, work: int, by: str) -> None:
        who = self._owner(work) if by == "owner" else by
        if who is not None:
            self.act(
                who,
                "ContentRegistry",
                "withdraw",
                (work,),
                lambda: self.books.registry.withdraw_work(ADDRESS[who], work, self.books.now_s),
            )

    @step(
        trainer=trainers,
        work=works,
        expecting=st.sampled_from(["today's", "today's", *sorted(TERMS)]),
    )
    def acquire_grant(self, trainer: str, work: int, expecting: str) -> None:
        known = self.books.registry.works.get(work)
        expected = known.terms if known and expecting == "today's" else TERMS.get(expecting)
        if expected is not None:
            args = (work, expected.terms_hash(LICENSE))
            change = partial(self._acquire_grant, trainer, work, expected)
            self.act(trainer, "ContentRegistry", "acquireGrant", args, change)

    def _acquire_grant(self, trainer: str, work: int, expected: Terms) -> None:
        books, who = self.books, ADDRESS[trainer]
        owner, fee = books.registry.acquire_grant(who, work, expected, books.now_s)
        if owner == books.home:
            books.donated += fee
        books.tokens[who] -= fee
        books.tokens[owner] += fee

    @step(
        trainer=trainers,
        made_of=st.lists(works, min_size=1, max_size=4, unique=True),
        royalty_bps=st.sampled_from([0, 999, 3_333, 9_999]),
        trainer_bps=st.sampled_from([0, 1, 3_333]),
    )
    def register_adapter(
        self, trainer: str, made_of: list[int], royalty_bps: int, trainer_bps: int
    ) -> None:
        table = share_table(tuple(made_of))
        rates = (royalty_bps, trainer_bps)
        done = self.act(
            trainer,
            "AdapterRegistry",
            "register",
            adapter_args(Adapter(ADDRESS[trainer], *rates, table)),
            lambda: self.books.registry.register_adapter(
                Adapter(ADDRESS[trainer], *rates, table), self.books.now_s
            ),
        )
        if done:
            view = ("AdapterRegistry", "sharesHash", (len(self.books.registry.adapters),))
            self.agree([(view, shares_hash(table))])

    @step(adapter=adapters, by=st.sampled_from(["trainer", "trainer", "zed"]))
    def retire(self, adapter: int, by: str) -> None:
        known = self.books.registry.adapters.get(adapter)
        who = name_of(known.trainer) if known and by == "trainer" else "zed"
        self.act(
            who,
            "AdapterRegistry",
            "retire",
            (adapter,),
            lambda: self.books.registry.retire(ADDRESS[who], adapter, self.books.now_s),
        )

    @step(adapter=adapters, index=st.integers(0, 3), table=st.sampled_from(["its", "its", "wrong"]))
    def enforce(self, adapter: int, index: int, table: str) -> None:
        known = self.books.registry.adapters.get(adapter)
        shares = known.shares if known and table == "its" else WRONG_TABLE
        self.act(
            "zed",
            "AdapterRegistry",
            "enforce",
            (adapter, share_words(shares), index),
            lambda: self._enforce(adapter, shares, index),
        )

    def _enforce(self, adapter: int, shares: ShareTable, index: int) -> None:
        did = self.books.registry.enforce(adapter, shares, index, self.books.now_s)
        TALLY.note("enforced", did)

    @step(
        cause=st.sampled_from(sorted(LEAVES)),
        other=st.sampled_from([0, 0, 0, 1, 2, 3, 4]),
        times=st.integers(1, 2),
    )
    def end_work(self, cause: str, other: int, times: int) -> None:
        """A work leaves, for one of three reasons, and a watcher enforces it where it can."""
        work = other or LEAVES[cause]
        match cause:
            case "withdrawn":
                self.withdraw_work(work, "owner")
            case "exchanged":
                self.set_terms(work, "to look at")
                self.acquire_grant("eve", work, "today's")
            case _:
                grants = self.books.registry.grants.items()
                ends = [grant.expires_at for (of, _), grant in grants if of == work]
                self.pass_time(max([0, *(end - self.books.now_s for end in ends if end < NEVER)]))
        for adapter_id, adapter in list(self.books.registry.adapters.items()):
            for index, share in enumerate(adapter.shares):
                for _ in range(times if share.content_id == work else 0):
                    self.enforce(adapter_id, index, "its")

    @step(adapter=adapters, node=nodes, allowed=st.booleans())
    def set_serving(self, adapter: int, node: str, allowed: bool) -> None:
        known = self.books.registry.adapters.get(adapter)
        who = name_of(known.trainer) if known else "eve"
        args = (adapter, ADDRESS[node], allowed)
        self.act(
            who,
            "AdapterRegistry",
            "setServing",
            args,
            lambda: self.books.registry.set_serving(ADDRESS[who], *args, self.books.now_s),
        )
