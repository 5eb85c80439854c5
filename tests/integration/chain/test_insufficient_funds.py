"""An account without coin for gas, against a model chain: what it leaves behind, and its end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.fakes.model_chain import ASKED, ModelChain, ModelRpc
from tests.fakes.virtual_time import VirtualLoop

from viz.chain import fees
from viz.chain.keys import development_account
from viz.chain.memory_journal import MemoryJournal
from viz.chain.rpc import Fees
from viz.chain.sender import Sender
from viz.domain.ports.transactions import Call, Outcome, Transaction
from viz.domain.units import Address
from viz.errors import (
    ChainError,
    ChainUnreachable,
    InsufficientFunds,
)

ACCOUNT = development_account(1)


class Poor(ModelRpc):
    """An endpoint that takes no transaction which may cost more than the account has."""

    coin_wei = 0
    keeps = False  # what it says that it refuses
    needs = 50_000
    asked = 0

    async def estimate_gas(self, *_: object, **__: object) -> int:
        return self.needs

    async def fees(self) -> Fees:
        """A little less each time, as of a chain whose blocks are half empty."""
        self.asked += 1
        return replace(ASKED, max_fee_wei=ASKED.max_fee_wei - self.asked)

    async def balance_wei(self, address: Address) -> int:
        return self.coin_wei

    async def broadcast(self, raw: bytes) -> None:
        fields = fees._fields(raw)
        lacks = fields["gas"] * fields["maxFeePerGas"] > self.coin_wei
        if not lacks or self.keeps:
            await super().broadcast(raw)
        if lacks:
            raise ChainError("insufficient funds for gas * price + value")


class Account:
    """One key, its endpoint and its journal."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.rpc = Poor(ModelChain())
        self.journal = MemoryJournal()
        self.sender = Sender(self.rpc, ACCOUNT, DEPLOYMENT, journal=self.journal, wait_s=5)

    def submit(self, needs: int = 50_000) -> Transaction:
        self.rpc.needs = needs
        call = Call("Token", "mint", (self.sender.address, 1))
        return self.loop.run_until_complete(self.sender.submit(call))

    def earlier(self) -> list[Transaction]:
        call = Call("Token", "mint", (self.sender.address, 1))
        return list(self.loop.run_until_complete(self.sender.earlier(call, b"")))

    def signed(self) -> int:
        return len(self.journal._all)


@pytest.fixture
def account() -> Account:
    return Account()


def test_what_cannot_be_paid_is_signed_once_and_not_at_every_try(account: Account) -> None:
    """A node tries its claims every few seconds: each try was kept, up to 1 GB a day."""
    for _ in range(50):
        with pytest.raises(InsufficientFunds) as caught:
            account.submit()
    assert account.signed() == 1
    costs_wei = 60_000 * (ASKED.max_fee_wei - account.rpc.asked)
    told = f"has 0 wei of the {costs_wei} wei that Token.mint may cost: nothing was sent"
    assert told in caught.value.detail and caught.value.code == "insufficient-funds"
    (refused,) = account.earlier()
    assert refused.outcome is Outcome.FAILED, "or a registration would be awaited that is nowhere"
    account.rpc.coin_wei = 10**18
    assert account.submit().outcome is Outcome.MINED
    assert account.signed() == 2
    assert [each.outcome for each in account.earlier()] == [Outcome.FAILED, Outcome.MINED]
    account.rpc.hides = True
    assert {each.outcome for each in account.earlier()} == {Outcome.UNKNOWN}


@pytest.mark.parametrize("mining", [True, False])
def test_what_was_kept_although_it_was_refused_is_not_told_as_failed(
    account: Account, mining: bool
) -> None:
    """Of two machines at one address one keeps it, and the other, which is behind, refuses it and
    knows it not: a registration would be made twice."""
    account.rpc.keeps = account.rpc.hides = True
    account.rpc.chain.mining = mining
    with pytest.raises(InsufficientFunds):
        account.submit()
    assert [each.outcome for each in account.earlier()] == [Outcome.UNKNOWN]


def test_what_the_account_can_pay_is_sent_beside_what_it_cannot(account: Account) -> None:
    """A small one is not held up by a large one, nor does it let the large one be signed again."""
    account.rpc.coin_wei = 100_000 * ASKED.max_fee_wei
    for _ in range(5):
        with pytest.raises(InsufficientFunds):
            account.submit(1_000_000)
        assert account.submit(50_000).outcome is Outcome.MINED
    assert account.signed() == 1 + 5


def test_a_gap_is_not_filled_with_what_cannot_be_paid(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery is tried as often as claims are."""
    monkeypatch.setattr("viz.chain.nonces.LASTS_S", 0.0)
    account.rpc.coin_wei, account.rpc.more["pending"] = 10**18, 1
    assert account.submit().outcome is Outcome.PENDING
    account.rpc.coin_wei, account.rpc.more["pending"] = 0, 0
    for _ in range(20):
        account.loop.run_until_complete(account.sender.recover())
    assert account.signed() == 2
    account.rpc.coin_wei = 10**18
    for _ in range(3):
        account.loop.run_until_complete(account.sender.recover())
        account.loop.pass_time(5)
    assert len(account.rpc.chain.mined) == 2


def test_a_balance_that_is_not_told_signs_nothing(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call can be made again: nothing was sent."""

    async def silent(_: Address) -> int:
        raise ChainUnreachable("no answer in 20 s")

    with pytest.raises(InsufficientFunds):
        account.submit()
    monkeypatch.setattr(account.rpc, "balance_wei", silent)
    with pytest.raises(ChainUnreachable):
        account.submit()
    assert account.signed() == 1
