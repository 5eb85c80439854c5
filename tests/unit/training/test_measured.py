"""What was measured is found again by what follows from the same things, and by nothing else."""

from __future__ import annotations

from pathlib import Path

from viz.training import measured

ANSWERS = [[5, 6], [7]]


def test_a_later_run_on_the_same_base_finds_its_answers(tmp_path: Path) -> None:
    """General questions cost a minute of each run: the base answers them once."""
    measured.of_base(tmp_path, "base and environment").batches("general")[0] = ANSWERS
    later = measured.of_base(tmp_path, "base and environment")
    assert later.batches("general")[0] == ANSWERS


def test_another_base_or_environment_finds_nothing(tmp_path: Path) -> None:
    """An answer computed by another processor would train other bytes than an audit does."""
    measured.of_base(tmp_path, "base and environment").batches("general")[0] = ANSWERS
    assert 0 not in measured.of_base(tmp_path, "base and another environment").batches("general")


def test_values_under_another_identity_are_not_used(tmp_path: Path) -> None:
    """A file that was moved, or torn, is measured again."""
    measured.of_run(tmp_path, "recipe").keep("loss", 1.5)
    assert measured.of_run(tmp_path, "recipe").get("loss") == 1.5
    assert measured.of_run(tmp_path, "another recipe").get("loss") is None
    (tmp_path / measured.MEASURED_FILE).write_text('{"identity": "rec')
    assert measured.of_run(tmp_path, "recipe").get("loss") is None
