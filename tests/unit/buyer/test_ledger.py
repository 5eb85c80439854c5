"""What a buyer signed survives crashes, and a damaged or foreign ledger is never signed from."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.chain import DEPLOYMENT

from viz.buyer.ledger import ledger as ledger_module
from viz.buyer.ledger.ledger import BuyerLedger
from viz.domain.buyer_channel import (
    BuyerChannel,
    ReceiptLink,
    draft_final,
    draft_voucher,
    raise_signed,
    take_receipt,
)
from viz.domain.eip712 import keccak, public_address
from viz.domain.ports.chain import ChannelState
from viz.domain.units import AdapterId, Units
from viz.domain.usage import UsageLine, sum_of
from viz.errors import BooksMismatch, ConfigError, InvalidKeyFile, StoreError

NODE = public_address(b"\x02" * 32)


def opened(home: Path, password: str = "p") -> BuyerLedger:
    return BuyerLedger.open(home, DEPLOYMENT, NODE, password, scrypt_n=2)


def observe(ledger: BuyerLedger, deposit: Units, settled: Units) -> None:
    signer = ledger.channel.signer
    ledger.commit_observation(ChannelState(signer, NODE, NODE, deposit, settled, 0))


def pay(ledger: BuyerLedger, adapter_id: int, units: Units) -> BuyerChannel:
    after, draft = draft_voucher(
        raise_signed(ledger.channel, AdapterId(adapter_id), units), ledger.channel.settled_units
    )
    assert draft is not None
    ledger.commit_signing(after)
    return after


def receive(ledger: BuyerLedger, seq: int, adapter_id: int, units: Units) -> None:
    total = ledger.channel.linked_units + units
    link = ReceiptLink(seq, keccak(b"%d" % seq), total, (UsageLine(AdapterId(adapter_id), units),))
    ledger.commit_receipt(take_receipt(ledger.channel, link), link)


def busy(home: Path) -> BuyerLedger:
    ledger = opened(home)
    observe(ledger, 1_000, 0)
    pay(ledger, 3, 10)
    pay(ledger, 9, 5)
    receive(ledger, 1, 3, 7)
    observe(ledger, 990, 10)
    pay(ledger, 3, 40)
    receive(ledger, 2, 3, 10)
    after, draft = draft_final(ledger.channel, 10)
    assert draft is not None
    ledger.commit_final(after, 17)
    return ledger


@pytest.mark.parametrize("seq", [2**53, 2**64 - 1])
def test_a_ledger_reads_whatever_number_of_a_receipt_it_has_written(
    tmp_path: Path, seq: int
) -> None:
    """A node's signed number once made it unreadable, with the deposit in the channel."""
    ledger = opened(tmp_path)
    observe(ledger, 1_000, 0)
    pay(ledger, 3, 10)
    receive(ledger, seq, 3, 7)
    ledger.close()
    again = opened(tmp_path)
    assert again.channel.unlinked[seq].lines == (UsageLine(AdapterId(3), 7),)
    again.close()


def test_a_reopened_ledger_is_the_same(tmp_path: Path) -> None:
    """Vector, end points, receipts and key are what they were."""
    ledger = busy(tmp_path)
    ledger.close()
    again = opened(tmp_path)
    assert again.channel == ledger.channel
    assert again.session_key == ledger.session_key
    assert set(again.channel.points) == {10, 15, 17, 45}


def test_compacting_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot that replaces many lines is the same channel."""
    ledger = busy(tmp_path)
    ledger.close()
    monkeypatch.setattr(ledger_module, "COMPACT_AFTER_LINES", 2)
    compacted = opened(tmp_path)
    compacted.close()
    assert len(_file(tmp_path).read_bytes().splitlines()) == 1
    assert opened(tmp_path).channel == ledger.channel


def test_every_crash_leaves_an_earlier_whole_state(tmp_path: Path) -> None:
    """Wherever the file is cut, what loads is a state that was committed, and it goes on."""
    ledger = busy(tmp_path)
    ledger.close()
    whole = _file(tmp_path).read_bytes()
    ends = {at for at, byte in enumerate(whole) if byte == ord("\n")}
    cuts = {at + step for at in ends for step in (-1, 0, 1)} | set(range(0, len(whole), 41))
    totals = set()
    for cut in sorted(cuts):
        _file(tmp_path).write_bytes(whole[:cut])
        again = opened(tmp_path)
        totals.add(again.channel.total_units)
        again.close()
    assert totals == {0, 10, 15, 45}


def test_a_directory_that_cannot_be_synced_leaves_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk's fault is one clear error; the line that nothing was signed for is taken back."""
    ledger = opened(tmp_path)

    def fails(_directory: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(ledger_module, "sync_to_disk", fails)
        with pytest.raises(StoreError, match="nothing is signed"):
            observe(ledger, 1_000, 0)
    assert _file(tmp_path).read_bytes() == b"" and ledger.channel.deposit_units == 0
    observe(ledger, 1_000, 0)
    ledger.close()
    assert opened(tmp_path).channel.deposit_units == 1_000


@pytest.mark.parametrize(
    "line",
    [b"{}", b"nonsense", b'{"event":"sign","vector":{"x":"1"}}', b'{"event":"sign","vector":3}'],
)
def test_a_damaged_ledger_is_refused(tmp_path: Path, line: bytes) -> None:
    """Signing from half a ledger could charge the same money twice."""
    busy(tmp_path).close()
    with _file(tmp_path).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(BooksMismatch, match="line 9"):
        opened(tmp_path)


def test_one_process_holds_a_channel(tmp_path: Path) -> None:
    """Two writers would fork the channel."""
    first = opened(tmp_path)
    with pytest.raises(ConfigError):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_the_session_key_needs_its_password(tmp_path: Path) -> None:
    """The key is never readable from the disk alone, and a lost key is not replaced silently."""
    opened(tmp_path).close()
    with pytest.raises(InvalidKeyFile):
        opened(tmp_path, "wrong")
    busy(tmp_path).close()
    key_file = next(tmp_path.rglob("session.key.json"))
    way_out = r"`viz channel leave`.*`viz channel renew`.*--signer"
    key_file.write_bytes(b"")
    with pytest.raises(InvalidKeyFile, match=way_out):
        opened(tmp_path)
    key_file.unlink()
    with pytest.raises(BooksMismatch, match=rf"session key.*{way_out}"):
        opened(tmp_path)


def _file(home: Path) -> Path:
    return next(home.rglob("ledger.jsonl"))


def test_an_end_point_that_only_a_failed_close_raised_outlives_the_process(tmp_path: Path) -> None:
    """The voucher after a final one may end where nothing was signed before: the node claims it."""
    ledger = opened(tmp_path)
    observe(ledger, 1_000, 0)
    pay(ledger, 1, 100)
    receive(ledger, 1, 1, 40)
    receive(ledger, 2, 2, 30)  # delivered on credit
    after, final = draft_final(ledger.channel, 0)
    assert final is not None
    ledger.commit_final(after, 70)
    after, draft = draft_voucher(ledger.channel, 0)
    assert draft is not None and sum_of(draft.lines) == 130
    ledger.commit_signing(after)
    ledger.close()
    again = opened(tmp_path)
    assert again.channel == after
    observe(again, 870, 130)
    assert again.channel.settled_units == 130
