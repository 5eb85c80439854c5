"""Following a run: what is told, and what a stopped node does to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from viz.cli.operator import training
from viz.cli.operator.running_node import OperatorClient, _counts
from viz.cli.operator.train import train_and_publish, work_file
from viz.errors import AdapterNotTaught, NodeUnreachable, TrainingError

STARTED = {"event": "started", "rows": 9, "steps": 3}
STEP = {"event": "step", "step": 1, "steps": 3, "loss": 0.5}
DONE = {"event": "end", "state": "done", "result": {"weights": "w"}, "error": ""}


class Node:
    """An operator's side whose connections end as ``turns`` says, one after another."""

    def __init__(self, *turns: list[dict[str, Any]] | None) -> None:
        self._turns = iter(turns)

    async def events(self, _: str) -> AsyncIterator[dict[str, Any]]:
        turn = next(self._turns)
        if turn is None:
            raise NodeUnreachable("nobody answers")
        for event in turn:
            yield event


def _follow(*turns: list[dict[str, Any]] | None) -> dict[str, Any]:
    return training.follow(cast(OperatorClient, Node(*turns)), "t1", quiet=False)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_LOOK_AGAIN_S", 0.0)


def test_a_run_that_a_stopped_node_cut_off_is_followed_to_its_end() -> None:
    """Protects who asked for a publication: the command waits for the node, and has a result."""
    assert _follow([STARTED, STEP], None, [STARTED, STEP, DONE]) == {"id": "t1", "weights": "w"}


class Asked(Node):
    """A node that is asked to train and to publish, and keeps what it was asked."""

    async def ask(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert (method, path) == ("POST", "/trainings")
        self.body = body
        return {"id": "t1"}


def test_the_node_is_asked_to_publish_and_a_refusal_is_the_commands_error() -> None:
    """The wish travels with the request, so the node keeps it; a script learns of the gate."""
    made = {"state": "published", "adapter_id": 8, "cid": "bafy", "offer": {"model": "m"}}
    node = Asked([STARTED, DONE | {"result": {"publication": made}}])
    wish = {"royaltyBps": 3_000, "trainerBps": 1_000}

    def run(wanted: dict[str, Any] | None) -> dict[str, Any]:
        operator = cast(OperatorClient, node)
        return train_and_publish(operator, {"works": []}, wanted, quiet=True)

    assert run(wish)["publication"] == made and node.body == {"works": [], "publish": wish}
    refused = {"state": "refused", "code": "adapter-not-taught", "detail": "1 of 40 are right"}
    node = Asked([DONE | {"result": {"publication": refused}}])
    with pytest.raises(AdapterNotTaught, match="1 of 40"):
        run(wish)
    node = Asked([DONE])
    assert run(None) == {"id": "t1", "weights": "w"} and node.body == {"works": []}


@pytest.mark.parametrize(
    ("made", "row"),
    [
        ({"state": "refused", "code": "c", "detail": "why"}, ("not on sale", "why")),
        ({"state": "waiting", "code": "c", "detail": "why"}, ("not on offer yet", "why")),
        (
            {"state": "published", "adapter_id": 8, "cid": "b", "offer": {"model": "m"}},
            ("model name", "m"),
        ),
    ],
)
def test_show_tells_what_came_of_the_publication(
    made: dict[str, Any], row: tuple[str, object]
) -> None:
    """An operator who slept through the run reads whether it is sold, and if not why."""
    assert training._of_publication(made)[-1] == row


def test_without_a_terminal_lines_tell_how_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    """A run in a script or a container is not silent until it ends."""
    _follow([STARTED, STEP, DONE])
    told = capsys.readouterr().err
    assert "training t1: 9 rows, 3 steps" in told
    assert "training t1: done" in told


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_run_that_came_to_nothing_is_an_error(state: str) -> None:
    """The exit code of a script tells that there is no adapter."""
    with pytest.raises(TrainingError, match=f"t1 {state}: why"):
        _follow([STARTED, {"event": "end", "state": state, "result": {}, "error": "why"}])


def test_status_tells_step_and_loss_of_the_run_under_way() -> None:
    """An operator sees in one place whether the machine is busy training, and how far it is."""
    run = {"id": "t1", "state": "running", "progress": STEP, "result": {}, "error": ""}
    waiting = run | {"id": "t2", "state": "queued", "progress": {}}
    found = {"channels": 0, "receipts": 0, "running": 0, "trainings": [run, waiting]}
    assert ("training t1", "step 1 of 3, loss 0.500") in _counts(found)
    assert not any(name == "training t2" for name, _ in _counts(found))


def test_the_work_of_a_folder_is_what_its_terms_name_whatever_its_license(tmp_path: Path) -> None:
    """With a license document terms.toml has no [license]: training and audits read it too."""
    (tmp_path / "terms.toml").write_text('title = "Tide"\nkind = "text"\nfile = "tide.md"\n')
    assert work_file(tmp_path) == tmp_path / "tide.md"
    assert work_file(tmp_path / "other.txt") == tmp_path / "other.txt"
