"""`viz settle` pays whom it can, names whom it could not, and does not hide the latter."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from viz.cli.operator import settle
from viz.cli.operator.running_node import OperatorClient
from viz.cli.operator.settle import _settle
from viz.errors import ChainUnreachable, TransactionFailed


class Answers:
    """A running node whose second adapter cannot be distributed, and its claim not be sent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append((path, body))
        if path == "/status":
            return {"tokenDecimals": 6, "adapters": [{"adapterId": 9}], "collectable": "5"}
        if path == "/royalties":
            return {"royalties": [{"adapterId": each, "undistributed": "1"} for each in (1, 2, 3)]}
        if path == "/settle":
            raise ChainUnreachable("no answer")
        if body == {"adapterId": 2}:
            raise TransactionFailed("refused")
        return {"events": []}


async def test_an_error_stops_nobody_elses_payment() -> None:
    """Royalties are paid, on offer or not; what failed is told with its reason."""
    node = Answers()
    found, errors = await _settle(cast(OperatorClient, node), True, True)
    assert list(found["distributed"]) == [1, 3] and "collected" in found and "claim" not in found
    assert found["failed"] == {"the claim": "no answer", "creators of 2": "refused"}
    assert [type(each) for each in errors] == [ChainUnreachable, TransactionFailed]
    assert ("/distribute", {"adapterId": 9}) not in node.asked, "no royalties: costs no gas"


async def test_a_slow_chain_is_not_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each step is named before it begins, and that it still runs; never on standard output."""
    monkeypatch.setattr(settle, "TOLD_EVERY_S", 0)

    class Slow(Answers):
        async def ask(self, method: str, path: str, body: Any = None) -> Any:
            if path == "/settle":
                for _ in range(20):
                    await asyncio.sleep(0)
                return {}
            return await super().ask(method, path, body)

    found, _ = await _settle(cast(OperatorClient, Slow()), True, False)
    told = capsys.readouterr()
    assert found["claim"] == {} and not told.out
    assert "the claim ..." in told.err and "waiting for the chain" in told.err
    assert "creators of 1 ..." in told.err
