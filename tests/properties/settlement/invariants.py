"""What holds after every step of a history.

Owns the comparison of contracts, books and sides; knows no rule. The promises, by name:

 1  the accounting sentence (``Books.check``, S1 and S2), of values that contract and books share;
 2  claimed <= signed <= deposited, channel by channel (S5), and what was claimed, adapter by
    adapter, is the buyer's vector at the settled total (S6);
 3  nothing is claimable twice: no row that was ever paid is good again (S9);
 4  what contents received sums to the accrual to the last distributed unit (S3, S4);
 5  Python and Solidity agree on every balance, split, owner, status, digest, event and refusal
    (S8; digests where something is signed, events and refusals where it is sent);
 6  all that an honest node holds is claimable now, in order, unless the deposit was withdrawn (S7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis.stateful import invariant
from tests.properties.settlement.books import REVENUE_MODULUS
from tests.properties.settlement.history import History
from tests.properties.settlement.livechain import View
from tests.properties.settlement.rows import pack, row_of
from tests.properties.settlement.world import ADDRESS, SEATS

from viz.domain.claim_rows import RowStatus
from viz.domain.units import Address

# As many of the rows that were paid last are tried again after every step; all of them in a claim.
TRIED_AGAIN = 8


class Upheld(History):
    """A history that is compared after every step."""

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
        self._nothing_is_claimable_twice()

    def _nothing_is_claimable_twice(self) -> None:
        by_node: dict[Address, list[bytes]] = {}
        for node, row in self.books.paid[-TRIED_AGAIN:]:
            by_node.setdefault(node, []).append(row)
        for node, rows in by_node.items():
            assert RowStatus.GOOD not in self.judge(node, b"".join(rows))  # S9

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
            expect("Settlement", "revenue", (adapter_id,), revenue.gross % REVENUE_MODULUS)
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
