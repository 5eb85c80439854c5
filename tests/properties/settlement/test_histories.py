"""Buyers, nodes, creators and strangers in any order of events: Python and contracts agree.

One Hypothesis state machine drives ``viz.domain.channel`` and ``viz.domain.curve`` together with
the deployed contracts on anvil. A failing history is printed as a script of rules with their
arguments. 50 histories in the check, 1,000 by ``make fuzz``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from tests.properties.settlement.deposits import Deposits
from tests.properties.settlement.stage import ADDRESS, DAY, HOUR, SEATS, World
from tests.properties.settlement.trading import Sale, amounts, nodes, picks, some_sales
from tests.properties.settlement.works import WRONG_TABLE, Works, adapters

from viz.domain.shares import share_words
from viz.domain.units import Units

purses = st.sampled_from([0, 60, 20_000, 10**9, 10**9, 10**9])
UNDONE = (
    "north claims",
    "north settles",
    "south settles",
    "ann withdraws",
    "bob tops up",
    "an adapter appears",
    "adapter 1 retires",
    "work 1 is sold",
    "a day passes",
)


class Histories(Works, Deposits):
    """Everything together, with earnings, time and reorganisations."""

    @initialize(units=st.lists(purses, min_size=len(SEATS), max_size=len(SEATS)))
    def begin(self, units: list[Units]) -> None:
        for seat, deposit in zip(SEATS, units, strict=True):
            if deposit:
                self.open(seat, deposit, "payer", "signed")
        self.confirm_to(buyers=True, nodes=True)

    # earning and collecting

    @rule(by=st.sampled_from(["zed", "ann"]), adapter=st.integers(0, 4), node=nodes, units=amounts)
    def pay(self, by: str, adapter: int, node: str, units: Units) -> None:
        self.act(
            by,
            "Settlement",
            "pay",
            (adapter, ADDRESS[node], units),
            lambda: self.books.pay(ADDRESS[by], adapter, ADDRESS[node], units),
        )

    @rule(adapter=adapters, table=st.sampled_from(["its", "its", "its", "wrong"]))
    def distribute(self, adapter: int, table: str) -> None:
        known = self.books.registry.adapters.get(adapter)
        shares = known.shares if known and table == "its" else WRONG_TABLE
        self.act(
            "zed",
            "Settlement",
            "distribute",
            (adapter, share_words(shares)),
            lambda: self.books.distribute(adapter, shares),
        )

    @rule(account=st.sampled_from(["north", "south", "eve", "zed"]))
    def collect(self, account: str) -> None:
        who = ADDRESS[account]
        self.act("zed", "Settlement", "collect", (who,), lambda: self.books.collect(who))

    @rule(
        account=st.sampled_from(["north", "south", "eve"]),
        to=st.sampled_from(["ann", "north", "zed", "settlement"]),
    )
    def set_payout_address(self, account: str, to: str) -> None:
        self.act(
            account,
            "Settlement",
            "setPayoutAddress",
            (ADDRESS[to],),
            lambda: self.books.set_payout(ADDRESS[account], ADDRESS[to]),
        )

    @rule(node=nodes, sales=some_sales, collect=st.booleans())
    def settle(self, node: str, sales: list[Sale], collect: bool) -> None:
        """A good day: everything is claimed, the creators are paid, node and trainer collect."""
        self.claim(node, sales, [], 9, 0)
        for adapter_id in self.books.registry.adapters:
            self.distribute(adapter_id, "its")
        if collect:
            self.collect(node)
            self.collect("eve")

    # time and forks

    @rule(until=st.sampled_from(["1 s later", "an hour later", "ten days later",
                                 "just before a deadline", "a deadline", "just after a deadline"]),
          pick=picks)  # fmt: skip
    def wait(self, until: str, pick: int) -> None:
        steps = {"1 s later": 1, "an hour later": HOUR, "ten days later": 10 * DAY}
        if until in steps:
            self.pass_time(steps[until])
            return
        ahead = self.deadlines()
        if ahead:
            off = {"just before a deadline": -1, "a deadline": 0}.get(until, 1)
            self.pass_time(ahead[pick % len(ahead)] + off - self.books.now_s)

    @rule(to=st.sampled_from(["all", "all", "buyers", "nodes"]))
    def confirm(self, to: str) -> None:
        """The two sides may learn of the confirmed state at different times."""
        self.confirm_to(buyers=to != "nodes", nodes=to != "buyers")

    @precondition(lambda self: not self.forks)
    @rule()
    def fork_here(self) -> None:
        """From here on nothing is final, until it is confirmed."""
        self.fork()

    @precondition(lambda self: self.forks)
    @rule(then=st.sampled_from(["gone", "gone", "final"]))
    def end_fork(self, then: str) -> None:
        if then == "gone":
            self.reorganise()
        else:
            self.forks.clear()

    @rule(steps=st.lists(st.sampled_from(UNDONE), min_size=1, max_size=4))
    def undone(self, steps: list[str]) -> None:
        """Blocks that a reorganisation takes back: what they did is open again."""
        self.fork()
        for step in steps:
            self._step(step)
            self.chain_and_books_agree()
        self.reorganise()

    def _step(self, step: str) -> None:
        sales: list[Sale] = [("ann-north", 1, 7), ("ann-south", 3, 11), ("ann-north", 2, 5)]
        match step:
            case "north claims":
                self.claim("north", sales, ["rash"], 2, 0)
            case "south settles" | "north settles":
                self.settle(step.split(maxsplit=1)[0], sales, True)
            case "ann withdraws":
                self.request_close("ann-north", "payer")
                self.withdraw("ann-north", "when due")
            case "bob tops up":
                self.top_up("bob-north", 500, "payer", "payer")
            case "an adapter appears":
                self.register_adapter("eve", [1, 2], 3_333, 1)
            case "adapter 1 retires":
                self.retire(1, "trainer")
            case "work 1 is sold":
                self.transfer_work(1, "zed")
            case _:
                self.pass_time(DAY)


def _examples() -> int:
    return 1_000 if settings.get_current_profile_name() == "fuzz" else 50


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=_examples(),
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", autouse=True)
def _world() -> Iterator[None]:
    Histories.world = world = World()
    yield
    world.chain.close()
