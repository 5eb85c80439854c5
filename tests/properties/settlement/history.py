"""What every step of a history does: act on chain and in the books, and go back where blocks do.

Owns the state of one history: books, channels' sides, forks, what was sent since. Knows no rule,
and not what must hold (``upheld``). A transaction is kept as it was sent, with what it does to the
books of the moment, so that after a reorganisation it can come again, later and in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import wraps
from typing import Any, ClassVar, Final, NamedTuple

from hypothesis.stateful import RuleBasedStateMachine, rule
from tests.properties.settlement.books import Books
from tests.properties.settlement.channel_pair import Sides
from tests.properties.settlement.coverage import TALLY
from tests.properties.settlement.livechain import LiveChain, View
from tests.properties.settlement.registry import NEVER, Refused
from tests.properties.settlement.world import ADDRESS, HONEST, SEATS, World, key_of

from viz.domain.buyer_channel import BuyerChannel
from viz.domain.node_channel import NodeChannel
from viz.domain.ports.chain import ChannelState
from viz.domain.units import AdapterId

GONE: Final = ("gone", "again in order", "again reversed")
RULES: Final[list[str]] = []


class Sent(NamedTuple):
    """A transaction: who sends what, and what it does to the books."""

    by: str
    contract: str
    function: str
    args: tuple[Any, ...]
    change: Callable[[], Any]


class Fork(NamedTuple):
    """Where the chain may return to, and how many transactions it has had by then."""

    snapshot: str
    books: Books
    sent: int


def step(**drawn: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a method a rule; it is counted, and a fork ends after as many as it was given."""

    def made(method: Callable[..., None]) -> Callable[..., None]:
        @wraps(method)
        def counted(self: History, *args: Any, **kwargs: Any) -> None:
            TALLY.note("rules", method.__name__)
            self.inside += 1
            method(self, *args, **kwargs)
            self.inside -= 1
            if not self.inside:
                self.after_step()

        RULES.append(method.__name__)
        mark: Callable[[Callable[..., None]], Callable[..., None]] = rule(**drawn)
        return mark(counted)

    return made


class History(RuleBasedStateMachine):
    """One history, from the prepared scene on."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.chain: LiveChain = self.world.chain
        self.domain = self.world.domain
        self.books: Books = self.world.restart()
        self.sent: list[Sent] = []
        self.forks: list[Fork] = []
        self.fork_ends: tuple[int, str] = (0, "final")
        self.inside = 0
        self.sides = {
            name: Sides(
                self.domain,
                key_of(SEATS[name].signer),
                key_of(SEATS[name].node),
                NodeChannel(*SEATS[name].pair),
                BuyerChannel(*SEATS[name].pair),
            )
            for name in HONEST
        }
        self.changed = True

    def teardown(self) -> None:
        TALLY.end_history()

    # steps

    def act(
        self,
        by: str,
        contract: str,
        function: str,
        args: tuple[Any, ...],
        change: Callable[[], Any],
    ) -> bool:
        """Do it in the books and on chain; return whether it was done rather than refused."""
        return self._send(Sent(by, contract, function, args, change)) == "done"

    def _send(self, sent: Sent) -> str:
        refused = None
        try:
            sent.change()
        except Refused as refusal:
            refused = refusal.error
        told, self.books.events = self.books.events, []
        by, contract, function, args, _ = sent
        done = self.chain.send(ADDRESS[by], contract, function, args, self.books.now_s)
        assert done.refused == refused, f"{function}: {done.refused} on chain, {refused} in books"
        assert done.events == told
        TALLY.note("answers", f"{contract}.{function}: {refused or 'done'}")
        if refused and contract == "Settlement":
            TALLY.note("refusals of Settlement", refused)
        self.sent.append(sent)
        self.changed = True
        return refused or "done"

    def after_step(self) -> None:
        """Let a fork that was given a number of steps end after them."""
        steps, then = self.fork_ends
        if self.forks and steps:
            self.fork_ends = steps - 1, then
            if steps == 1:
                self.chain_and_books_agree()
                self.end_fork(then)

    def chain_and_books_agree(self) -> None:
        """Compare what changed."""
        raise NotImplementedError

    def agree(self, pairs: list[tuple[View, Any]]) -> None:
        """Check views against what is expected of them."""
        answers = self.chain.views([view for view, _ in pairs])
        for (view, expected), found in zip(pairs, answers, strict=True):
            assert found == expected, f"{view[1]}{view[2]}: {found} on chain, {expected} here"

    # forks: the last confirmed state is the oldest that a reorganisation may return to

    @property
    def confirmed(self) -> Books:
        return self.forks[0].books if self.forks else self.books

    def known_adapters(self) -> set[AdapterId]:
        return {AdapterId(0), *(AdapterId(key) for key in self.confirmed.registry.adapters)}

    def seen(self, name: str) -> ChannelState:
        """A channel as confirmed; a close is acted upon before that."""
        pair = SEATS[name].pair
        channel, head = self.confirmed.channels[pair], self.books.channels[pair]
        close_at = head.close_at or channel.close_at
        return ChannelState(*pair, channel.payer, channel.deposit, channel.settled, close_at)

    def fork(self) -> None:
        self.forks.append(Fork(self.chain.snapshot(), deepcopy(self.books), len(self.sent)))

    def end_fork(self, then: str) -> None:
        """Either all is final, or the blocks since the last fork never happened.

        The clock goes on. Their transactions are gone, or are mined again, perhaps in reverse.
        """
        if then == "final":
            self.forks.clear()
            return
        snapshot, books, count = self.forks.pop()
        self.sent, undone = self.sent[:count], self.sent[count:]
        books.now_s = self.books.now_s
        self.chain.revert(snapshot)
        self.books = books
        self.pass_time(0)
        if not undone:
            return
        TALLY.note("reorganisations", "all that took back transactions")
        TALLY.note("reorganisations", f"transactions are {then}")
        for sent in undone:
            TALLY.note("reorganisations", f"took back {sent.function}")
        if then != "gone":
            for sent in undone if then == "again in order" else reversed(undone):
                answer = self._send(sent)
                TALLY.note(
                    "reorganisations", f"mined again: {'done' if answer == 'done' else 'refused'}"
                )

    def confirm_to(self, *, buyers: bool, nodes: bool) -> None:
        """The sides learn of the confirmed state."""
        for name, sides in self.sides.items():
            if nodes:
                sides.confirm_to_node(self.seen(name))
            if buyers:
                sides.confirm_to_buyer(self.seen(name))

    # time

    def pass_time(self, seconds: int) -> None:
        self.books.now_s += seconds
        self.chain.mine_at(self.books.now_s)
        self.changed = True

    def deadlines(self) -> list[int]:
        """Every moment ahead at which something changes by itself."""
        times = {channel.close_at for channel in self.books.channels.values()}
        times |= {sides.node.no_sale_until_s for sides in self.sides.values()}
        times |= {account.next_payout_at for account in self.books.accounts.values()}
        times |= {grant.expires_at for grant in self.books.registry.grants.values()}
        for adapter in self.books.registry.adapters.values():
            times |= {adapter.retires_at, *adapter.serves_until.values()}
        return sorted(time for time in times if self.books.now_s < time < NEVER)
