"""What `viz content license` says of grants, as the operator's API answers them."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from viz.api.serialise import plain
from viz.cli import operator
from viz.cli.main import app
from viz.domain.units import UINT64_MAX


def test_a_perpetual_grant_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API writes the chain's largest number as text: the grant is paid, and must be told."""

    async def grants(*_: Any) -> list[Any]:
        each = {"live": True, "path": "/w/2", "title": "The Orrin Railway", "detail": ""}
        ends = {1: 1_796_000_000, 2: UINT64_MAX}
        return [plain({"content_id": n, "expires_at": end, **each}) for n, end in ends.items()]

    monkeypatch.setattr(operator, "OperatorClient", lambda *_: None)
    monkeypatch.setattr(operator, "_license", grants)
    done = CliRunner().invoke(app, ["content", "license", "1", "2"])
    assert done.exit_code == 0, done.output
    assert "2026-11-30 00:53:20 UTC" in done.output and "never" in done.output
