"""The rules of a history that bring money in, and lead it out again unspent."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import precondition
from tests.properties.settlement.history import step
from tests.properties.settlement.rules_trading import Trading, amounts, honest, picks, seats
from tests.properties.settlement.world import ADDRESS, DAY, HOUR, SEATS, key_of

from viz.domain.eip712 import keccak, sign
from viz.domain.node_channel import begin_close
from viz.domain.typed_data import (
    OPEN_KIND,
    TOP_UP_KIND,
    Close,
    OpenChannel,
    ReceiveWithAuthorization,
    RequestClose,
    authorization_nonce,
)
from viz.domain.units import Hash32, Units

LATE = 2**40
deposits = st.sampled_from([0, 1, 60, 500, 20_000, 10**9])


class SignedClose(NamedTuple):
    seat: str
    settled: Units
    deadline_s: int
    signature: bytes


class Deposits(Trading):
    """Openings, top-ups, closes and withdrawals."""

    def __init__(self) -> None:
        super().__init__()
        self.closes: list[SignedClose] = []

    # deposits

    @step(
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

    @step(
        seat=seats,
        units=deposits,
        salt=st.integers(0, 2),
        kind=st.sampled_from(["open", "top up"]),
        payment=st.sampled_from(["signed", "signed", "signed", "forged"]),
        times=st.sampled_from([1, 1, 2]),
    )
    def deposit_without_gas(
        self, seat: str, units: Units, salt: int, kind: str, payment: str, times: int
    ) -> None:
        """By EIP-3009, relayed by a stranger; the same authorization may come twice."""
        pair, payer = SEATS[seat].pair, SEATS[seat].payer
        salted = keccak(bytes([salt]))
        kind_hash = OPEN_KIND if kind == "open" else TOP_UP_KIND
        nonce = authorization_nonce(kind_hash, *pair, salted)
        self.agree([(("Settlement", "authorizationNonce", (kind_hash, *pair, salted)), nonce)])
        authorization = self._authorization(payer, units, nonce, payment)
        args: tuple[object, ...] = (ADDRESS[payer], *pair, units, salted, 0, LATE, authorization)

        def change() -> None:
            pull = self.books.authorized(ADDRESS[payer], nonce, payment == "signed")
            if kind == "open":
                self.books.open(pair, ADDRESS[payer], units, True, pull)
            else:
                self.books.top_up(pair, ADDRESS[payer], ADDRESS[payer], units, pull)
            self.books.used_nonces.add((ADDRESS[payer], nonce))

        if kind == "open":
            args = (*args, self._consent(seat, payer, "signed"))
        function = f"{'open' if kind == 'open' else 'topUp'}WithAuthorization"
        for _ in range(times):
            self.act("zed", "Settlement", function, args, change)

    def _authorization(self, payer: str, units: Units, nonce: Hash32, payment: str) -> bytes:
        transfer = ReceiveWithAuthorization(ADDRESS[payer], self.books.home, units, 0, LATE, nonce)
        key = key_of(payer if payment == "signed" else "zed")
        return sign(key, self.world.token_domain.digest(transfer))

    @step(
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

    @step(units=amounts)
    def donate(self, units: Units) -> None:
        self.act(
            "zed",
            "Token",
            "transfer",
            (self.books.home, units),
            lambda: self.books.donate(ADDRESS["zed"], units),
        )

    # closing

    @step(seat=seats, by=st.sampled_from(["payer", "payer", "zed"]))
    def request_close(self, seat: str, by: str) -> None:
        pair, who = SEATS[seat].pair, SEATS[seat].payer if by == "payer" else by
        self.act(
            who,
            "Settlement",
            "requestClose",
            pair,
            lambda: self.books.request_close(pair, ADDRESS[who]),
        )

    @step(
        seat=seats,
        deadline_in_s=st.sampled_from([-1, 0, HOUR, DAY]),
        signature=st.sampled_from(["signed", "signed", "forged"]),
    )
    def request_close_without_gas(self, seat: str, deadline_in_s: int, signature: str) -> None:
        pair, deadline_s = SEATS[seat].pair, self.books.now_s + deadline_in_s
        digest = self.domain.digest(RequestClose(*pair, deadline_s))
        self.agree([(("Settlement", "hashRequestClose", (*pair, deadline_s)), digest)])
        by = SEATS[seat].payer if signature == "signed" else "zed"
        self.act(
            "zed",
            "Settlement",
            "requestCloseFor",
            (*pair, deadline_s, sign(key_of(by), digest)),
            # Zed's is the payer's own where zed opened the channel.
            lambda: self.books.request_close_for(pair, deadline_s, ADDRESS[by]),
        )

    @step(seat=seats, when=st.sampled_from(["now", "a second too early", "when due", "when due"]))
    def withdraw(self, seat: str, when: str) -> None:
        pair = SEATS[seat].pair
        channel = self.books.channels[pair]
        if when == "when due" and channel.deposit and not channel.close_at:
            self.request_close(seat, "payer")
        close_at = channel.close_at
        if when != "now" and close_at:
            due = close_at - (when == "a second too early")
            self.pass_time(max(0, due - self.books.now_s))
        self.act("zed", "Settlement", "withdraw", pair, lambda: self.books.withdraw(pair))

    @step(seat=honest, valid_s=st.sampled_from([0, 600, DAY]), used=st.booleans())
    def node_signs_close(self, seat: str, valid_s: int, used: bool) -> None:
        """A node that has claimed everything lets the buyer go, and sells nothing until then."""
        sides, pair = self.sides[seat], SEATS[seat].pair
        self.claim(SEATS[seat].node, [], [], 9, 0)
        settled = self.books.channels[pair].settled
        if sides.astray or sides.node.best or sides.node.base_units != settled:
            return
        deadline_s = self.books.now_s + valid_s
        sides.node = begin_close(sides.node, deadline_s)
        digest = self.domain.digest(Close(*pair, settled, deadline_s))
        self.agree([(("Settlement", "hashClose", (*pair, settled, deadline_s)), digest)])
        signature = sign(key_of(SEATS[seat].node), digest)
        self.closes.append(SignedClose(seat, settled, deadline_s, signature))
        if used:
            self.close_now(-1, "itself", "now", "nothing")

    @precondition(lambda self: self.closes)
    @step(
        pick=picks,
        of=st.sampled_from(["itself", "itself", "another channel", "another total"]),
        when=st.sampled_from(["now", "at its deadline"]),
        after=st.sampled_from(["nothing", "a sale"]),
    )
    def close_now(self, pick: int, of: str, when: str, after: str) -> None:
        """Any Close ever signed is tried, also for what it does not say: the node loses nothing."""
        close = self.closes[pick % len(self.closes)]
        seat = "rash-north" if of == "another channel" else close.seat
        settled = close.settled + (of == "another total")
        if when == "at its deadline":
            self.pass_time(max(0, close.deadline_s - self.books.now_s))
        if after == "a sale":
            self.sell([(close.seat, 0, 1)])
        pair = SEATS[seat].pair

        def change() -> None:
            self.books.close_now(pair, settled, close.deadline_s, of == "itself")
            assert self.sides[seat].astray or self.sides[seat].node.end_units <= close.settled

        args = (*pair, settled, close.deadline_s, close.signature)
        self.act("zed", "Settlement", "closeNow", args, change)
