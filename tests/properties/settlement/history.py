"""What every step of a history does: act on chain and in the books, and compare.

Owns the state of one history (books, channels' sides, forks) and the comparison after each step.
Knows no rule. Besides the books' S1 to S4:

 S5  claimed <= signed <= deposited, channel by channel;
 S6  what was claimed, adapter by adapter, is the buyer's vector at the settled total;
 S7  all that an honest node holds is claimable now, in order, unless the deposit was withdrawn;
 S8  contract and books agree on every balance, split, owner, status, digest, event and refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, ClassVar

from hypothesis import event, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant
from tests.properties.settlement.books import Books
from tests.properties.settlement.livechain import LiveChain, View
from tests.properties.settlement.registry import NEVER, Refused
from tests.properties.settlement.rows import pack, row_of
from tests.properties.settlement.sides import Sides
from tests.properties.settlement.stage import ADDRESS, HONEST, SEATS, World, key_of

from viz.domain.channel import NodeChannel
from viz.domain.claim import RowStatus
from viz.domain.curve import Curve
from viz.domain.ports import ChannelState
from viz.domain.units import AdapterId, Address


class History(RuleBasedStateMachine):
    """One history, from the prepared scene on."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.chain: LiveChain = self.world.chain
        self.domain = self.world.domain
        self.books: Books = self.world.restart()
        self.forks: list[tuple[str, Books]] = []
        self.sides = {
            name: Sides(
                self.domain,
                key_of(SEATS[name].signer),
                key_of(SEATS[name].node),
                NodeChannel(*SEATS[name].pair),
                Curve(*SEATS[name].pair),
            )
            for name in HONEST
        }
        self.changed = True

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
        refused = None
        try:
            change()
        except Refused as refusal:
            refused = refusal.error
        told, self.books.events = self.books.events, []
        done = self.chain.send(ADDRESS[by], contract, function, args, self.books.now_s)
        assert done.refused == refused, f"{function}: {done.refused} on chain, {refused} in books"
        assert done.events == told
        event(f"{contract}.{function}: {refused or 'done'}")
        self.changed = True
        return refused is None

    def agree(self, pairs: list[tuple[View, Any]]) -> None:
        """Check views against what is expected of them."""
        answers = self.chain.views([view for view, _ in pairs])
        for (view, expected), found in zip(pairs, answers, strict=True):
            assert found == expected, f"{view[1]}{view[2]}: {found} on chain, {expected} here"

    # forks: the last confirmed state is the oldest that a reorganisation may return to

    @property
    def confirmed(self) -> Books:
        return self.forks[0][1] if self.forks else self.books

    def known_adapters(self) -> set[AdapterId]:
        return {AdapterId(0), *(AdapterId(key) for key in self.confirmed.registry.adapters)}

    def seen(self, name: str) -> ChannelState:
        """A channel as confirmed; a close is acted upon before that."""
        pair = SEATS[name].pair
        channel, head = self.confirmed.channels[pair], self.books.channels[pair]
        close_at = head.close_at or channel.close_at
        return ChannelState(*pair, channel.payer, channel.deposit, channel.settled, close_at)

    def fork(self) -> None:
        self.forks.append((self.chain.snapshot(), deepcopy(self.books)))

    def reorganise(self) -> None:
        """The blocks since the fork never happened; the clock goes on."""
        snapshot, books = self.forks.pop()
        books.now_s = self.books.now_s
        self.chain.revert(snapshot)
        self.books = books
        self.pass_time(0)

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

    # what holds after every step

    def check_invariants(
        self,
        settings: settings,
        output: Callable[[str], object],
        runtimes: dict[str, float],
    ) -> None:
        """Check them without a line each in the script of a failing history."""
        super().check_invariants(settings, lambda _: None, runtimes)

    @invariant()
    def chain_and_books_agree(self) -> None:
        if not self.changed:
            return
        self.changed = False
        self.books.check()  # S1 to S4, of values that are now compared
        self.agree(self._expected())

    def _expected(self) -> list[tuple[View, Any]]:
        books, pairs = self.books, []

        def expect(contract: str, function: str, args: tuple[Any, ...], value: Any) -> None:
            pairs.append(((contract, function, args), value))

        for who in ADDRESS.values():
            account = books.accounts[who]
            expect("Token", "balanceOf", (who,), books.tokens[who])
            value = {"amount": account.balance, "to": account.pays_to(who, books.now_s)}
            expect("Settlement", "balance", (who,), value)
        for seat in SEATS.values():
            channel = books.channels[seat.pair]
            value = {
                "payer": channel.payer,
                "deposit": channel.deposit,
                "settled": channel.settled,
                "closeAt": channel.close_at,
            }
            expect("Settlement", "channel", seat.pair, value)
        for adapter_id, adapter in books.registry.adapters.items():
            revenue = books.revenues[adapter_id]
            expect("Settlement", "revenue", (adapter_id,), revenue.gross)
            expect("Settlement", "owed", (adapter_id,), revenue.undistributed)
            economics = int(adapter.trainer, 16) << 96 | adapter.royalty_bps << 80
            economics |= adapter.trainer_bps << 64 | adapter.retires_at
            for node in (ADDRESS["north"], ADDRESS["south"]):
                value = {"economics": economics, "servesUntil": adapter.may_serve_until(node)}
                expect("AdapterRegistry", "settlementTerms", (adapter_id, node), value)
        for work_id, work in books.registry.works.items():
            expect("ContentRegistry", "ownerOf", (work_id,), work.owner)
        return pairs

    @invariant()
    def claimed_signed_deposited(self) -> None:
        for name, sides in self.sides.items():
            channel = self.books.channels[SEATS[name].pair]
            assert channel.settled <= sides.highest_signed <= channel.paid_in  # S5
            vector = sides.buyer.points[channel.settled]
            assert {key: units for key, units in vector.items() if units} == channel.claimed  # S6

    @invariant()
    def what_a_node_holds_is_claimable(self) -> None:
        for name, sides in self.sides.items():
            channel = self.books.channels[SEATS[name].pair]
            rows = [row for row in sides.run() if row.base_units >= channel.settled]
            if not rows or sides.astray:
                continue
            statuses = self.judge(sides.node.node, pack(map(row_of, rows)))
            if rows[-1].end_units > channel.settled + channel.deposit:
                assert channel.exits  # S7: only a withdrawal takes cover away
            else:
                assert set(statuses) == {RowStatus.GOOD}  # S7

    def judge(self, node: Address, payload: bytes) -> list[RowStatus]:
        """Return the statuses that contract and books agree on."""
        statuses = self.books.judge(node, payload)
        found = self.chain.view("Settlement", "previewClaim", node, payload)
        assert list(found) == statuses  # S8
        return statuses
