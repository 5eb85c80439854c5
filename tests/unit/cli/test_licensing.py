"""What `viz content license` says of grants, as the operator's API answers them."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner, Result

from viz.api.serialise import plain
from viz.cli.main import app
from viz.cli.operator import licensing, train
from viz.domain.units import UINT64_MAX
from viz.errors import KeyUnknown, LicenseError


class Node:
    """The operator's API of a node: grants by their ends, the works that are here, notices."""

    def __init__(self, ends: dict[int, int], here: tuple[int, ...] = (1, 2)) -> None:
        self.ends, self.here = ends, here
        self.notices: dict[int, list[Any]] = {}
        self.asked: list[str] = []

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append(f"{method} {path}")
        if path.endswith("/notices"):
            return {"notices": self.notices.get(int(path.split("/")[2]), [])}
        if path == "/trainings":
            raise LicenseError("no training here")
        work = body["contentId"]
        if path == "/grants":
            if work not in self.ends:
                raise LicenseError(f"work {work} was withdrawn")
            return plain({"content_id": work, "live": True, "expires_at": self.ends[work]})
        if work not in self.here:
            raise KeyUnknown(f"nobody has the key of work {work}")
        return {"path": f"/w/{work}", "title": "The Orrin Railway"}


def ask_for(monkeypatch: pytest.MonkeyPatch, node: Node, *words: str) -> Result:
    monkeypatch.setattr(licensing, "OperatorClient", lambda *_: node)
    return CliRunner().invoke(app, ["content", "license", *words])


def test_a_work_that_is_not_here_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects a script that goes on to train: what is done, what is missing, and what goes on."""
    never = dict.fromkeys((1, 2), UINT64_MAX)
    done = ask_for(monkeypatch, Node(never, here=(2,)), "1", "2")
    assert done.exit_code == 8 and "work 2  The Orrin Railway: train it" in done.stdout
    assert "work 1 is licensed, and its file is not here: nobody has the key" in done.stderr
    assert "`viz content license 1` fetches the file later and does not pay again" in done.stderr
    assert "work 2 is licensed, and" not in done.stderr


def test_what_was_paid_before_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the operator from paying for the first work again when the second is refused."""
    done = ask_for(monkeypatch, Node({1: UINT64_MAX}), "1", "2")
    assert done.exit_code == 7 and "work 1  The Orrin Railway" in done.stdout
    assert "work 2 was withdrawn" in done.stderr


def test_notices_are_told_before_anything_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the trainer from paying for a work whose adapters may be suspended tomorrow."""
    node = Node({1: UINT64_MAX})
    about = {"adapterId": 0, "kind": "copyright", "receivedAt": 1_796_000_000, "answeredAt": 0}
    for number, work, state, url in (
        (3, 1, "open", ""), (4, 2, "open", ""), (5, 1, "rejected", ""),
        (6, 1, "upheld", "https://custodian.test"),
    ):  # fmt: skip
        told = {"noticeId": number, "contentId": work, "state": state, "effectiveAt": 1_797_000_000}
        node.notices.setdefault(work, []).append({"url": url, "view": about | told})
    done = ask_for(monkeypatch, node, "1")
    assert node.asked == ["GET /works/1/notices", "POST /grants", "POST /works"]
    assert "work 1: notice 3 (copyright) of 2026-11-30 00:53:20 UTC, effective" in done.stderr
    assert "viz notice show 3" in done.stderr
    assert "notice 6 (copyright) of 2026-11-30 00:53:20 UTC at https://custodian.t" in done.stderr
    assert "upheld. More: viz content show 1 --node https://custodian.test" in done.stderr
    assert "notice 4" not in done.stderr and "notice 5" not in done.stderr
    node.asked.clear()
    monkeypatch.setattr(train, "OperatorClient", lambda *_: node)
    done = CliRunner().invoke(app, ["train", "1"])
    assert node.asked == ["GET /works/1/notices", "POST /trainings"]
    assert "work 1: notice 3 (copyright)" in done.stderr and "notice 4" not in done.stderr


def test_a_perpetual_grant_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API writes the chain's largest number as text: the grant is paid, and must be told."""

    ends = {1: 1_796_000_000, 2: UINT64_MAX}
    done = ask_for(monkeypatch, Node(ends), "1", "2")
    assert done.exit_code == 0, done.output
    assert "2026-11-30 00:53:20 UTC" in done.output and "never" in done.output
