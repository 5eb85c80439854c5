"""Buyers, nodes, creators and strangers in any order of events: Python and contracts agree.

One Hypothesis state machine drives ``viz.domain.channel`` and ``viz.domain.curve`` together with
the deployed contracts on anvil. A failing history is printed as a script of rules with their
arguments. 50 histories in the check, 1,000 by ``make fuzz``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from tests.properties.settlement.books import Pair
from tests.properties.settlement.rows import (
    Row,
    pack,
    parse,
    row_of,
    signed_row,
    with_high_s,
)
from tests.properties.settlement.stage import (
    ADDRESS,
    DAY,
    HONEST,
    HOUR,
    SEATS,
    World,
    key_of,
)
from tests.properties.settlement.works import WRONG_TABLE, Works, adapters, nodes

from viz.domain.channel import begin_close
from viz.domain.claim import RowStatus, unpack_rows
from viz.domain.eip712 import keccak, sign
from viz.domain.shares import share_words
from viz.domain.signed import (
    OPEN_KIND,
    TOP_UP_KIND,
    Close,
    OpenChannel,
    ReceiveWithAuthorization,
    RequestClose,
    authorization_nonce,
    channel_id,
)
from viz.domain.units import AdapterId, Hash32, Units
from viz.domain.usage import UsageLine, usage_hash

LATE = 2**40

seats = st.sampled_from(sorted(SEATS))
honest = st.sampled_from(HONEST)
paid_adapters = st.sampled_from([0, 1, 2, 3, 1, 2, 3, 4])
amounts = st.integers(1, 40) | st.sampled_from([1, 3_333, 10_000, 10_001, 123_456_789])
deposits = st.sampled_from([0, 1, 60, 500, 20_000, 10**9])
picks = st.integers(0, 9)
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


class SignedClose(NamedTuple):
    seat: str
    settled: Units
    deadline_s: int
    signature: bytes


class Histories(Works):
    """Channels, claims and collections."""

    def __init__(self) -> None:
        super().__init__()
        self.closes: list[SignedClose] = []
        self.payloads: list[tuple[str, bytes]] = []

    @initialize(units=st.lists(deposits, min_size=len(SEATS), max_size=len(SEATS)))
    def begin(self, units: list[Units]) -> None:
        for seat, deposit in zip(SEATS, units, strict=True):
            if deposit:
                self.open(seat, deposit, "payer", "signed")
        self.confirm_all()

    # deposits

    @rule(
        seat=seats,
        units=deposits,
        by=st.sampled_from(["payer", "payer", "zed"]),
        consent=st.sampled_from(["signed", "signed", "forged"]),
    )
    def open(self, seat: str, units: Units, by: str, consent: str) -> None:
        pair, who = SEATS[seat].pair, SEATS[seat].payer if by == "payer" else by
        signature = self._consent(seat, who, consent)
        self.act(
            who,
            "Settlement",
            "open",
            (*pair, units, signature),
            lambda: self.books.open(pair, ADDRESS[who], units, consent == "signed", lambda: None),
        )

    def _consent(self, seat: str, payer: str, consent: str) -> bytes:
        digest = self.domain.digest(OpenChannel(ADDRESS[payer], SEATS[seat].pair[1]))
        args = (ADDRESS[payer], SEATS[seat].pair[1])
        self.agree([(("Settlement", "hashOpenChannel", args), digest)])
        return sign(key_of(SEATS[seat].signer if consent == "signed" else "zed"), digest)

    @rule(
        seat=seats,
        units=deposits,
        salt=st.integers(0, 2),
        kind=st.sampled_from(["open", "top up"]),
        payment=st.sampled_from(["signed", "signed", "signed", "forged"]),
    )
    def deposit_without_gas(
        self, seat: str, units: Units, salt: int, kind: str, payment: str
    ) -> None:
        """By EIP-3009, relayed by a stranger; the same authorization may come twice."""
        pair, payer = SEATS[seat].pair, SEATS[seat].payer
        salted = keccak(bytes([salt]))
        kind_hash = OPEN_KIND if kind == "open" else TOP_UP_KIND
        nonce = authorization_nonce(kind_hash, *pair, salted)
        self.agree([(("Settlement", "authorizationNonce", (kind_hash, *pair, salted)), nonce)])
        pull = self.books.authorized(ADDRESS[payer], nonce, payment == "signed")
        authorization = self._authorization(payer, units, nonce, payment)
        args: tuple[object, ...] = (ADDRESS[payer], *pair, units, salted, 0, LATE, authorization)

        def change() -> None:
            if kind == "open":
                self.books.open(pair, ADDRESS[payer], units, True, pull)
            else:
                self.books.top_up(pair, ADDRESS[payer], ADDRESS[payer], units, pull)
            self.books.used_nonces.add((ADDRESS[payer], nonce))

        if kind == "open":
            args = (*args, self._consent(seat, payer, "signed"))
        self.act(
            "zed",
            "Settlement",
            f"{'open' if kind == 'open' else 'topUp'}WithAuthorization",
            args,
            change,
        )

    def _authorization(self, payer: str, units: Units, nonce: Hash32, payment: str) -> bytes:
        transfer = ReceiveWithAuthorization(ADDRESS[payer], self.books.home, units, 0, LATE, nonce)
        key = key_of(payer if payment == "signed" else "zed")
        return sign(key, self.world.token_domain.digest(transfer))

    @rule(
        seat=seats,
        units=deposits,
        by=st.sampled_from(["payer", "zed"]),
        naming=st.sampled_from(["payer", "payer", "zed"]),
    )
    def top_up(self, seat: str, units: Units, by: str, naming: str) -> None:
        pair, payer = SEATS[seat].pair, SEATS[seat].payer
        who, expected = (payer if name == "payer" else name for name in (by, naming))
        self.act(
            who,
            "Settlement",
            "topUp",
            (*pair, ADDRESS[expected], units),
            lambda: self.books.top_up(pair, ADDRESS[who], ADDRESS[expected], units, lambda: None),
        )

    @rule(units=amounts)
    def donate(self, units: Units) -> None:
        self.act(
            "zed",
            "Token",
            "transfer",
            (self.books.home, units),
            lambda: self.books.donate(ADDRESS["zed"], units),
        )

    # vouchers

    @rule(seat=honest, adapter=paid_adapters, units=amounts)
    def buy(self, seat: str, adapter: int, units: Units) -> None:
        """The usual: a voucher is signed and arrives, and what it promised is delivered."""
        self.sign(seat, adapter, units, False)
        self.deliver(seat, -1)
        self.sides[seat].use(adapter, units, self.books.now_s)

    @rule(seat=honest, adapter=paid_adapters, units=amounts, oldest_base=st.booleans())
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

    @rule(seat=honest, pick=picks)
    def deliver(self, seat: str, pick: int) -> None:
        """Vouchers also arrive late, twice, in another order, or never."""
        self.sides[seat].deliver(pick, self.known_adapters(), self.books.now_s)

    @rule(seat=honest)
    def freeze(self, seat: str) -> None:
        self.sides[seat].freeze()

    # claims

    @rule(
        node=nodes,
        bad=st.lists(st.sampled_from(BAD), max_size=5),
        of_each_run=st.integers(0, 4),
        cut=st.sampled_from([0, 0, 0, 1, 40]),
    )
    def claim(self, node: str, bad: list[str], of_each_run: int, cut: int) -> None:
        """A batch: runs of frozen rows in order, and between them rows that are wrong."""
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
        good: list[Row] = []
        self.act(
            node,
            "Settlement",
            "claim",
            (payload,),
            lambda: good.extend(self.books.claim(who, payload)),
        )
        self.payloads.append((node, payload))
        for row in good:
            self._note_claimed((row.signer(self.domain, who) or who, who), row)
        # Nothing is claimable twice: what was good is not good again.
        again = self.judge(who, payload)
        assert not any(
            before is after is RowStatus.GOOD for before, after in zip(statuses, again, strict=True)
        )

    def _note_claimed(self, pair: Pair, row: Row) -> None:
        for seat, sides in self.sides.items():
            if SEATS[seat].pair == pair and row not in map(row_of, sides.node.frozen):
                sides.astray = True

    @precondition(lambda self: self.payloads)
    @rule(pick=picks, by=nodes, order=st.sampled_from(["as it was", "reversed"]))
    def claim_again(self, pick: int, by: str, order: str) -> None:
        """An old claim comes once more, perhaps reordered, perhaps from another node."""
        _, payload = self.payloads[pick % len(self.payloads)]
        rows = parse(payload)
        if order == "reversed" and rows and rows[-1] is not None:
            payload = pack(row for row in reversed(rows) if row is not None)
        self._claim(by, payload)

    @rule(seat=honest, pick=picks)
    def claim_behind_the_ledger(self, seat: str, pick: int) -> None:
        """A node, or a thief of its key, claims any voucher: the buyer loses nothing."""
        offers = self.sides[seat].offers
        if offers:
            row = row_of(offers[pick % len(offers)].row)
            self._claim(SEATS[seat].node, pack([row]))

    # closing

    @rule(seat=seats, by=st.sampled_from(["payer", "payer", "zed"]))
    def request_close(self, seat: str, by: str) -> None:
        pair, who = SEATS[seat].pair, SEATS[seat].payer if by == "payer" else by
        self.act(
            who,
            "Settlement",
            "requestClose",
            pair,
            lambda: self.books.request_close(pair, ADDRESS[who]),
        )

    @rule(
        seat=seats,
        deadline_in_s=st.sampled_from([-1, 0, HOUR, DAY]),
        signature=st.sampled_from(["signed", "signed", "forged"]),
    )
    def request_close_without_gas(self, seat: str, deadline_in_s: int, signature: str) -> None:
        pair, deadline_s = SEATS[seat].pair, self.books.now_s + deadline_in_s
        digest = self.domain.digest(RequestClose(*pair, deadline_s))
        self.agree([(("Settlement", "hashRequestClose", (*pair, deadline_s)), digest)])
        signed = sign(key_of(SEATS[seat].payer if signature == "signed" else "zed"), digest)
        self.act(
            "zed",
            "Settlement",
            "requestCloseFor",
            (*pair, deadline_s, signed),
            lambda: self.books.request_close_for(pair, deadline_s, signature == "signed"),
        )

    @rule(seat=seats)
    def withdraw(self, seat: str) -> None:
        pair = SEATS[seat].pair
        self.act("zed", "Settlement", "withdraw", pair, lambda: self.books.withdraw(pair))

    @rule(seat=honest, valid_s=st.sampled_from([0, 600, DAY]))
    def node_signs_close(self, seat: str, valid_s: int) -> None:
        """A node that has claimed everything lets the buyer go, and sells nothing until then."""
        sides, pair = self.sides[seat], SEATS[seat].pair
        settled = self.books.channels[pair].settled
        if sides.astray or sides.node.best or sides.node.base_units != settled:
            return
        deadline_s = self.books.now_s + valid_s
        sides.node = begin_close(sides.node, deadline_s)
        digest = self.domain.digest(Close(*pair, settled, deadline_s))
        self.agree([(("Settlement", "hashClose", (*pair, settled, deadline_s)), digest)])
        signature = sign(key_of(SEATS[seat].node), digest)
        self.closes.append(SignedClose(seat, settled, deadline_s, signature))

    @precondition(lambda self: self.closes)
    @rule(pick=picks, of=st.sampled_from(["itself", "itself", "another channel"]))
    def close_now(self, pick: int, of: str) -> None:
        """Any Close ever signed is tried, on its channel or another: the node loses nothing."""
        close = self.closes[pick % len(self.closes)]
        seat = close.seat if of == "itself" else "rash-north"
        pair = SEATS[seat].pair
        closed = self.act(
            "zed",
            "Settlement",
            "closeNow",
            (*pair, close.settled, close.deadline_s, close.signature),
            lambda: self.books.close_now(pair, close.settled, close.deadline_s, of == "itself"),
        )
        if closed and not self.sides[seat].astray:
            assert self.sides[seat].node.end_units <= close.settled

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

    @rule()
    def confirm(self) -> None:
        self.confirm_all()

    @rule(seat=honest, to=st.sampled_from(["buyer", "node"]))
    def confirm_to(self, seat: str, to: str) -> None:
        """The two sides learn of the confirmed state at different times."""
        sides = self.sides[seat]
        (sides.confirm_to_buyer if to == "buyer" else sides.confirm_to_node)(self.seen(seat))

    @precondition(lambda self: len(self.forks) < 3)
    @rule()
    def fork_here(self) -> None:
        self.fork()

    @precondition(lambda self: self.forks)
    @rule()
    def reorganise_to_fork(self) -> None:
        self.reorganise()


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
