"""The rules of a history in which vouchers are signed, delivered and claimed."""

from __future__ import annotations

from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import precondition
from tests.properties.settlement.books import Pair
from tests.properties.settlement.coverage import TALLY
from tests.properties.settlement.history import step
from tests.properties.settlement.invariants import Upheld
from tests.properties.settlement.rows import Row, pack, parse, row_of, signed_row, with_high_s
from tests.properties.settlement.world import ADDRESS, HONEST, SEATS, key_of

from viz.domain.claim_rows import RowStatus, unpack_rows
from viz.domain.typed_data import channel_id
from viz.domain.units import AdapterId, Address, Units
from viz.domain.usage import UsageLine, usage_hash

Sale = tuple[str, int, Units]

seats = st.sampled_from(sorted(SEATS))
honest = st.sampled_from(HONEST)
nodes = st.sampled_from(["north", "north", "south"])
paid_adapters = st.sampled_from([0, 1, 2, 3, 1, 2, 3, 4])
amounts = st.integers(1, 40) | st.sampled_from([1, 9, 3_333, 10_000, 10_001, 12_345_678])
picks = st.integers(0, 9)
some_sales = st.lists(st.tuples(honest, paid_adapters, amounts), max_size=4)
BAD = (
    "forged",
    "bit flipped",
    "high s",
    "no signature",
    "unknown signer",
    "stale base",
    "unsorted",
    "duplicate",
    "unregistered",
    "nothing owed",
    "no lines",
    "over deposit",
    "another node's",
    "rash",
    "rash, once more",
)
bad_rows = st.sampled_from(BAD)


class Trading(Upheld):
    """Buyers promise, nodes deliver and claim, and some claim what they should not."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[tuple[str, bytes]] = []

    # vouchers

    @step(
        seat=honest,
        basket=st.lists(st.tuples(paid_adapters, amounts), min_size=1, max_size=4),
        then_freeze=st.booleans(),
    )
    def shop(self, seat: str, basket: list[tuple[int, Units]], then_freeze: bool) -> None:
        """The usual: vouchers are signed and arrive, and what they promised is delivered."""
        self.sell([(seat, adapter, units) for adapter, units in basket])
        if then_freeze:
            self.sides[seat].freeze()

    def sell(self, sales: list[Sale]) -> None:
        for seat, adapter, units in sales:
            self.sign(seat, adapter, units, False)
            self.deliver(seat, -1)
            self.sides[seat].use(adapter, units, self.books.now_s)

    @step(seat=honest, adapter=paid_adapters, units=amounts, oldest_base=st.booleans())
    def sign(self, seat: str, adapter: int, units: Units, oldest_base: bool) -> None:
        if AdapterId(adapter) not in self.known_adapters():
            return
        draft = self.sides[seat].sign(adapter, units, oldest_base=oldest_base)
        if draft is None:
            return
        pair, voucher = SEATS[seat].pair, draft.voucher
        signed = (voucher.node, voucher.settled_units, voucher.usage_hash, voucher.receipts_head)
        lines = tuple((line.adapter_id, line.amount_units) for line in draft.lines)
        self.agree(
            [
                (("Settlement", "hashVoucher", signed), self.domain.digest(voucher)),
                (("Settlement", "hashUsage", (lines,)), usage_hash(draft.lines)),
                (("Settlement", "channelId", pair), channel_id(*pair)),
            ]
        )

    @step(seat=honest, pick=picks)
    def deliver(self, seat: str, pick: int) -> None:
        """Vouchers also arrive late, twice, in another order, or never."""
        self.sides[seat].deliver(pick, self.known_adapters(), self.books.now_s)

    # claims

    @step(
        node=nodes,
        sales=some_sales,
        bad=st.lists(bad_rows, min_size=2, max_size=7),
        of_each_run=st.integers(0, 4),
        cut=st.sampled_from([0, 0, 0, 1, 40]),
    )
    def claim(
        self, node: str, sales: list[Sale], bad: list[str], of_each_run: int, cut: int
    ) -> None:
        """A batch: runs of frozen rows in order, and between them rows that are wrong."""
        self.sell(sales)
        rows = [row for seat in HONEST if SEATS[seat].node == node
                for row in self._frozen(seat)[:of_each_run]]  # fmt: skip
        settled = self.books.channels[SEATS["rash-north"].pair].settled
        for number, kind in enumerate(bad):
            row = self._row(node, kind, settled)
            rows.insert(number * 3 % (len(rows) + 1), row)
            if kind.startswith("rash") and node == "north":
                settled += row.sum_units
        payload = pack(rows)
        self._claim(node, payload[: len(payload) - cut])

    def _frozen(self, seat: str) -> list[Row]:
        sides, settled = self.sides[seat], self.books.channels[SEATS[seat].pair].settled
        sides.freeze()
        return [row_of(row) for row in sides.node.frozen if row.base_units >= settled]

    def _row(self, node: str, kind: str, settled: Units) -> Row:
        rash = SEATS["rash-north"]
        deposit = self.books.channels[rash.pair].deposit
        unknown = AdapterId(len(self.books.registry.adapters) + 1)
        lines: dict[str, tuple[tuple[int, Units], ...]] = {
            "unsorted": ((2, 1), (1, 1)),
            "duplicate": ((1, 1), (1, 1)),
            "unregistered": ((1, 1), (unknown, 1)),
            "nothing owed": ((0, 1), (2, 0)),
            "no lines": (),
            "over deposit": ((0, deposit), (3, 1)),
            "rash, once more": ((0, 2), (1, 3), (2, 4)),
        }
        made = tuple(UsageLine(AdapterId(a), u) for a, u in lines.get(kind, ((1, 5), (3, 7))))
        base = settled + 1 if kind == "stale base" else settled
        to = ADDRESS["south" if kind == "another node's" else "north"]
        row = signed_row(self.domain, key_of(rash.signer), to, base, made)
        if kind == "unknown signer":
            return signed_row(self.domain, key_of("nobody"), to, base, made)
        if kind == "forged":
            return row._replace(lines=(UsageLine(AdapterId(1), 6), *made[1:]))
        if kind == "bit flipped":
            return row._replace(signature=row.signature[:-1] + bytes([row.signature[-1] ^ 1]))
        if kind == "no signature":
            return row._replace(signature=bytes(64))
        return with_high_s(row) if kind == "high s" else row

    def _claim(self, node: str, payload: bytes) -> None:
        who = ADDRESS[node]
        rows = parse(payload)
        if rows and rows[-1] is not None:
            assert [row_of(row) for row in unpack_rows(payload)] == rows
        statuses = self.judge(who, payload)
        change = partial(self._apply_claim, who, payload)
        self.act(node, "Settlement", "claim", (payload,), change)
        self.payloads.append((node, payload))
        # Nothing is claimable twice: what was good is not good again.
        again = self.judge(who, payload)
        assert not any(
            before is after is RowStatus.GOOD for before, after in zip(statuses, again, strict=True)
        )

    def _apply_claim(self, who: Address, payload: bytes) -> None:
        for status in self.books.judge(who, payload):
            TALLY.note("row statuses", status.name)
        for row in self.books.claim(who, payload):
            self._note_claimed((row.signer(self.domain, who) or who, who), row)

    def _note_claimed(self, pair: Pair, row: Row) -> None:
        for seat, sides in self.sides.items():
            if SEATS[seat].pair == pair and row not in map(row_of, sides.node.frozen):
                sides.astray = True

    @precondition(lambda self: self.payloads)
    @step(pick=picks, by=nodes, order=st.sampled_from(["as it was", "reversed"]))
    def claim_again(self, pick: int, by: str, order: str) -> None:
        """An old claim comes once more, perhaps reordered, perhaps from another node."""
        _, payload = self.payloads[pick % len(self.payloads)]
        rows = parse(payload)
        if order == "reversed" and rows and rows[-1] is not None:
            payload = pack(row for row in reversed(rows) if row is not None)
        self._claim(by, payload)

    @step(seat=honest, pick=picks)
    def claim_behind_the_ledger(self, seat: str, pick: int) -> None:
        """A node, or a thief of its key, claims any voucher: the buyer loses nothing."""
        presented = self.sides[seat].presented
        if presented:
            row = row_of(presented[pick % len(presented)].row)
            self._claim(SEATS[seat].node, pack([row]))
