"""What was spent is told by day and model, sums to the receipts, and never costs an answer."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from tests.fakes.chain import DEPLOYMENT
from tests.unit.buyer.test_ledger import observe, opened, receive

from viz.buyer.ledger.ledger import BuyerLedger
from viz.buyer.ledger.spending import DAYS_KEPT, RECORD, Spending, reports_on_disk
from viz.domain.receipt import SignedReceipt
from viz.domain.typed_data import Receipt
from viz.domain.units import ZERO_HASH, Units
from viz.errors import StoreError

DAY_S = 86_400


class Clock:
    """A clock that stands until it is moved."""

    now = 1_796_000_000  # 2026-11-30 00:53:20 UTC

    def now_s(self) -> int:
        return self.now


@pytest.fixture
def ledger(tmp_path: Path) -> BuyerLedger:
    made = opened(tmp_path)
    observe(made, 1_000, 0)
    return made


def bill(spending: Spending, ledger: BuyerLedger, units: Units, model: str = "m") -> None:
    """Let the ledger and the record learn of one answer."""
    seq = ledger.channel.seq + 1
    receive(ledger, seq, 3, units)
    zero = ZERO_HASH
    said = Receipt(zero, seq, zero, zero, zero, zero, 5, 7, units, units, 1)
    spending.note(model, SignedReceipt(said, (), zero, zero, b""))


def test_spending_sums_by_day_and_model_and_over_restarts(ledger: BuyerLedger) -> None:
    """Protects the buyer's overview: every unit that was billed is listed once, or as the rest."""
    clock = Clock()
    first = Spending(ledger, clock)
    bill(first, ledger, 20)
    bill(first, ledger, 30)
    clock.now += DAY_S
    receive(ledger, 3, 3, 5)  # an answer that broke off, billed later
    again = Spending(ledger, clock)
    bill(again, ledger, 7, "other")
    found = again.report()
    assert found["days"] == [
        {"day": "2026-11-30", "model": "m", "requests": 2, "promptTokens": 10,
         "completionTokens": 14, "units": "50"},
        {"day": "2026-12-01", "model": "other", "requests": 1, "promptTokens": 5,
         "completionTokens": 7, "units": "7"},
    ]  # fmt: skip
    assert (found["spent"], found["unlisted"], found["left"]) == ("62", "5", "938")
    assert (found["run"]["requests"], found["run"]["units"]) == (1, "7")


def test_the_runs_sum_has_what_was_billed_late(ledger: BuyerLedger) -> None:
    """Protects the proxy's end line: it told less than was paid when an answer broke off."""
    bill(Spending(ledger, Clock()), ledger, 20)
    spending = Spending(ledger, Clock())
    bill(spending, ledger, 7)
    receive(ledger, 3, 3, 5)
    assert spending.report()["run"] == {
        "requests": 1, "promptTokens": 5, "completionTokens": 7, "units": "12"
    }  # fmt: skip


def test_the_report_is_made_from_files_alone(ledger: BuyerLedger) -> None:
    """Protects whoever asks while a proxy holds the channel: no key, no lock, no half line."""
    spending = Spending(ledger, Clock())
    bill(spending, ledger, 20)
    path = ledger.directory / "ledger.jsonl"
    with path.open("ab") as file:
        file.write(b'{"event": "rec')
    live = {key: value for key, value in spending.report().items() if key != "run"}
    home = ledger.directory.parents[1]
    assert reports_on_disk(home, DEPLOYMENT) == ([live], [])
    assert stat.S_IMODE((ledger.directory / RECORD).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"2026-11-30": 7}', b'{"d": {"m": {}}}'])
def test_a_damaged_record_is_begun_anew(ledger: BuyerLedger, content: bytes) -> None:
    """Protects paying from an overview: what it lost is told as one sum."""
    (ledger.directory / RECORD).write_bytes(content)
    receive(ledger, 1, 3, 20)
    found = Spending(ledger, Clock()).report()
    assert (found["days"], found["unlisted"]) == ([], "20")


def test_a_record_that_cannot_be_written_costs_no_answer(
    ledger: BuyerLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects an answer that was paid for from a full disk."""

    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(ledger, "keep_record", full)
    spending = Spending(ledger, Clock())
    bill(spending, ledger, 20)
    assert spending.report()["run"]["units"] == "20"


def test_old_days_become_part_of_the_rest(ledger: BuyerLedger) -> None:
    """Protects the disk: the record is bounded, and its money is still told."""
    clock = Clock()
    spending = Spending(ledger, clock)
    for _ in range(DAYS_KEPT + 2):
        bill(spending, ledger, 1)
        clock.now += DAY_S
    found = spending.report()
    assert (len(found["days"]), found["unlisted"]) == (DAYS_KEPT, "2")
