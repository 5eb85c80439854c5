"""What counts as a right answer of a server, and which server a request goes to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from viz.engine.upstream.canary import distance, mismatch
from viz.engine.upstream.placement import SLACK, place

BASE: list[dict[int, float]] = [{1: -1.0, 2: -2.0}, {5: -3.0, 6: -4.0}]
FIRST: list[dict[int, float]] = [{1: -1.5, 2: -1.0}, {5: -3.5, 6: -4.5}]
# 0.005 nats from FIRST
ALIKE: list[dict[int, float]] = [{1: -1.5, 2: -1.0}, {5: -3.5, 6: -4.48}]
KNOWN = {"base": BASE, "viz-1": FIRST, "viz-2": ALIKE}


def moved(rows: list[dict[int, float]], by: float) -> list[dict[int, float]]:
    """Return the rows as inexact arithmetic gives them."""
    return [{token: value + by * (-1) ** token for token, value in row.items()} for row in rows]


@pytest.mark.parametrize("name", ["base", "viz-1", "viz-2"])
@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.01, 0.04])
def test_the_right_model_passes_in_any_arithmetic(name: str, noise: float) -> None:
    """Rounding takes no server out, also where two adapters are more alike than it is exact."""
    assert mismatch(moved(KNOWN[name], noise), name, KNOWN, 0.05) is None


@pytest.mark.parametrize(("asked", "answers"), [("viz-1", "base"), ("base", "viz-1")])
def test_another_model_is_named(asked: str, answers: str) -> None:
    """Whoever reads the log knows whose answer was given."""
    wrong = mismatch(moved(KNOWN[answers], 0.01), asked, KNOWN, 0.05)
    assert wrong is not None
    assert f"as {answers} would" in wrong


def test_a_twin_is_noticed_within_the_margin() -> None:
    """Exact arithmetic tells adapters apart that differ by less than the margin."""
    assert mismatch(ALIKE, "viz-1", KNOWN, 0.05) is not None


def test_a_function_that_nobody_knows_is_beyond_the_margin() -> None:
    """The plain checkpoint instead of the exported one, for example."""
    wrong = mismatch(moved(BASE, 0.3), "base", {"base": BASE}, 0.05)
    assert wrong is not None
    assert "at most 0.05" in wrong


@pytest.mark.parametrize(
    "rows",
    [[], BASE[:1], [{}, {}], [{1: math.nan}, {5: -3.0}], [{1: -math.inf}, {5: -3.0}]],
    ids=["none", "short", "empty", "nan", "overflow"],
)
def test_rows_that_cannot_be_compared_are_wrong(rows: list[dict[int, float]]) -> None:
    """A server that overflows, or answers for another text, is not taken for a right one."""
    assert distance(rows, BASE) == math.inf
    assert mismatch(rows, "base", KNOWN, 0.05) is not None


def test_a_candidate_that_our_pass_did_not_keep_is_an_unlikely_one() -> None:
    """It is wrong by how much likelier than the last one kept the server says it is."""
    assert distance([{7: -9.0}, BASE[1]], BASE) == 0.0
    assert distance([{7: -1.0}, {5: -3.0}], BASE) == 0.5


@dataclass(eq=False)
class Server:
    """A server as placement sees it."""

    running: int = 0
    loaded: set[str] = field(default_factory=set)
    ready: bool = True
    refused: set[str] = field(default_factory=set)

    def has(self, adapter: str) -> bool:
        return adapter in self.loaded

    def refuses(self, adapter: str) -> bool:
        return adapter in self.refused


def test_a_request_goes_where_its_adapter_is() -> None:
    """Sticky by adapter, until that server has much more to do."""
    idle, home = Server(0), Server(SLACK, {"a"})
    assert place([idle, home], "a") is home
    home.running += 1
    assert place([idle, home], "a") is idle
    assert place([idle, home], "b") is idle


def test_a_request_avoids_who_failed_it_and_who_cannot() -> None:
    """Who failed is taken last, who refuses or is away never."""
    failed, away, unable = Server(), Server(ready=False), Server(refused={"a"})
    other = Server(5)
    assert place([failed, away, unable, other], "a", {failed}) is other
    assert place([failed, away, unable], "a", {failed}) is failed
    assert place([away, unable], "a") is None
    assert place([away, unable], "b") is unable
