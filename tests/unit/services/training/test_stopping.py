"""A training is stopped for a reason that its record keeps: a work withdrawn, a license ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fakes.chain import NOW_S, FakeChain, FakeClock
from tests.fakes.ledger import MemoryStore

from viz.domain.ports.engine import NO_MODEL
from viz.domain.ports.ledger import TrainingRecord, TrainingState
from viz.domain.units import ContentId
from viz.services.training.queue import TrainingQueue, seal_with

KEY = bytes([3] * 32)
WORK = {
    "path": "/nowhere/work.txt",
    "contentId": 4,
    "kind": "text",
    "creator": "0x" + "aa" * 20,
    "salt": "0x" + "01" * 32,
}


async def test_a_run_under_way_is_stopped_with_its_reason(tmp_path: Path) -> None:
    """Runs that ended, and requests that are broken, are no business of a withdrawal."""
    chain, rows = FakeChain(KEY), MemoryStore()
    queue = TrainingQueue(
        chain,
        rows,
        FakeClock(),
        chain.address,
        seal_with(KEY),
        directory=tmp_path,
        bases=[NO_MODEL],
        cache_dir=tmp_path,
        threads=1,
    )
    made: tuple[tuple[str, TrainingState, dict[str, Any]], ...] = (
        ("waits", "queued", {"works": [WORK]}),
        ("over", "done", {"works": [WORK]}),
        ("broken", "queued", {"works": "none"}),
    )
    for name, state, request in made:
        rows.training_rows[name] = TrainingRecord(
            name, state, request, created_at=NOW_S, updated_at=NOW_S
        )
    assert await queue.under_way() == {"waits": [ContentId(4)]}
    await queue.stop("waits", "work 4 was withdrawn")
    record = rows.training_rows["waits"]
    assert (record.state, record.error) == ("cancelled", "work 4 was withdrawn")
    assert await queue.under_way() == {}
