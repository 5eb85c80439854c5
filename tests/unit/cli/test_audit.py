"""What `viz audit adapter` says when its own training ends without a result."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from viz.cli.audit.audit import why_ended
from viz.cli.audit.replaying import _read
from viz.errors import InvalidRequest, TrainingError, TrainingWorkerDied

LOG = "its last words are in /tmp/viz-audit-x/worker.log"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TrainingWorkerDied(LOG, last_words="", exit_status=-signal.SIGKILL), "too little memory"),
        (TrainingWorkerDied(LOG, last_words="Segmentation fault", exit_status=-11), "status -11"),
        (TrainingError("the run needs 9 GiB, and 4 are allowed"), "needs 9 GiB"),
    ],
)
def test_the_end_of_an_audits_training_is_told_and_its_folder_is_not(
    error: TrainingError, told: str
) -> None:
    """The log goes with the audit's folder, so an auditor is told what it said and how it ended."""
    assert told in why_ended(error) and "/tmp/viz-audit" not in why_ended(error)


def test_a_record_that_is_none_is_named_with_what_to_give(tmp_path: Path) -> None:
    """An auditor with many records learns which one is wrong."""
    record = tmp_path / "record.json"
    record.write_text("{}")
    with pytest.raises(InvalidRequest, match=r"record\.json.*lacks 'format'.*--record FILE"):
        _read(record)
