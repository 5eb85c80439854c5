"""The record of nodes and days on disk, shared by a buyer's processes."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest
from tests.fakes.chain import address_of

from viz.buyer.ledger.network_record import FILE, MAX_NODES, NetworkFile, NetworkRecord, NodeHistory
from viz.errors import BooksMismatch, ConfigError

NODE = address_of(9)


def full() -> NetworkRecord:
    record = (
        NetworkRecord().knowing("http://a").knowing("http://b").meaning(["tides"], "viz-adapter-7")
    )
    return record.with_node(NODE, NodeHistory(12.5, 0.25, 77, "http://n")).spending("2026-11-30", 5)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    file = NetworkFile(tmp_path / "home")
    assert file.read() == NetworkRecord()
    assert file.change(lambda _: full()) == full() == file.read()
    assert full().urls == ("http://b", "http://a")
    mode = (tmp_path / "home" / FILE).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600, "what a buyer asks and spends is nobody else's"


def _spend(home: Path, times: int) -> None:
    for _ in range(times):
        NetworkFile(home).change(lambda record: record.spending("2026-11-30", 1))


def test_two_processes_lose_nothing_of_each_other(tmp_path: Path) -> None:
    """Protects the day's bound: every unit that any process spent is in the sum."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_spend, args=(tmp_path, 40)) for _ in range(2)]
    for other in others:
        other.start()
    _spend(tmp_path, 40)
    for other in others:
        other.join()
    assert NetworkFile(tmp_path).read().days == {"2026-11-30": 120}


def test_one_proxy_of_the_network_runs_in_a_folder(tmp_path: Path) -> None:
    """A second one would take the first one's socket from the commands."""
    file = NetworkFile(tmp_path / "home")
    again = NetworkFile(tmp_path / "home")
    with file.held_by_proxy(), pytest.raises(ConfigError, match="runs already"):  # noqa: SIM117
        with again.held_by_proxy():
            raise AssertionError("two proxies")
    with file.held_by_proxy():
        pass


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"urls": 1}', b"\xff", b'{"a":' * 99])
def test_a_damaged_record_says_what_it_holds(tmp_path: Path, content: bytes) -> None:
    """A person is told that no money is in it, and how to go on."""
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(BooksMismatch, match="no money"):
        NetworkFile(tmp_path).read()


def test_the_record_stays_small() -> None:
    record = NetworkRecord()
    for number in range(MAX_NODES + 10):
        record = record.with_node(address_of(number), NodeHistory())
    assert len(record.nodes) == MAX_NODES and address_of(MAX_NODES + 9) in record.nodes
