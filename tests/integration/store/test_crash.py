"""A writer killed at its commit points loses nothing that it acknowledged, and keeps no half."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from viz.domain.ports.ledger import ChannelRecord
from viz.domain.units import Address
from viz.store.ledger import SqlStore

IDENTITY = {"node": "0xN"}
CHILD = """
import asyncio, os, signal, sys, threading
from dataclasses import replace
from pathlib import Path
from viz.domain.ports.ledger import ChannelRecord, ChannelLineRecord, ReceiptRecord
from viz.domain.units import AdapterId, Address, Hash32
from viz.store import lone
from viz.store.ledger import SqlStore

place, point, at, is_lone = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "lone"
seen = 0
if is_lone:
    lone.FAST_COMMITS = 0  # whatever this machine's disk is like

def hook(name):
    global seen
    here = threading.current_thread() is threading.main_thread()
    seen += name == point and here == is_lone
    if seen == at:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    store = await SqlStore.open(place, {"node": "0xN"}, hook)
    records = [ChannelRecord(Address(f"0x{n:040x}")) for n in range(8)]
    for step in range(1, 40):
        lines = {AdapterId(1): ChannelLineRecord(0, step, step)}
        receipt = lambda r: ReceiptRecord(
            r.signer, step, Hash32(os.urandom(32)), Hash32(os.urandom(32)), b"{}", 0
        )
        writes = [
            store.commit("voucher", replace(r, lines=lines, seq=step), receipt=receipt(r))
            for r in records
        ]
        if is_lone:
            with store.answering():
                records = [await write for write in writes]
        else:
            records = await asyncio.gather(*writes)
        for r in records:
            os.write(1, f"{r.signer} {step}\\n".encode())  # the acknowledgement

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("at", [1, 60, 133])
@pytest.mark.parametrize("how", ["grouped", "lone"])
async def test_a_kill_at_a_commit_point_loses_no_acknowledged_write(
    tmp_path: Path, moment: str, at: int, how: str
) -> None:
    """kill -9 between commit and acknowledgement, and before the commit: what was said is there.

    In the writer's thread, and in the event loop's, which commits for a request that is alone.
    """
    place = tmp_path / "ledger.db"
    command = [sys.executable, "-c", CHILD, str(place), f"voucher:{moment}", str(at), how]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    said: dict[str, int] = {}
    for line in done.stdout.splitlines():
        signer, step = line.split()
        said[signer] = int(step)
    store = await SqlStore.open(place, IDENTITY)
    for number in range(8):
        signer = Address(f"0x{number:040x}")
        record = await store.channel(signer) or ChannelRecord(signer)
        assert record.seq >= said.get(signer, 0)
        spent = sum(line.spent_units for line in record.lines.values())
        receipts = await store.receipts(signer)
        assert spent == record.seq == len(receipts), "a change is whole or not there"
    await store.close()
