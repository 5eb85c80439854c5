"""Accept and If-None-Match as lists, with qualities and weak tags."""

from __future__ import annotations

import pytest

from viz.api.negotiation import is_known, ranked_types

TAG = '"bafy"'


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        ([], False),
        ([TAG], True),
        (["*"], True),
        ([" * "], True),
        ([f"W/{TAG}"], True),
        ([f'"other", W/"x" , {TAG}'], True),
        (['"other"', TAG], True),
        (['"bafy.raw"'], False),
        (['"a,b", "bafy.raw"'], False),
        (["bafy"], False),
        (['"*"'], False),
        (['"un', TAG[1:]], False),
    ],
)
def test_what_a_cache_has_is_recognised(lines: list[str], known: bool) -> None:
    assert is_known(lines, TAG) is known


@pytest.mark.parametrize(
    ("lines", "ranked"),
    [
        (["text/html, */*;q=0.8"], {"text/html": 1.0, "*/*": 0.8}),
        (["A/B;v=1; Q=0.5", "c/d;q=0"], {"a/b": 0.5, "c/d": 0.0}),
        (["a/b;q=2, c/d;q=x, , e/f;q=1.000"], {"a/b": 0.0, "c/d": 0.0, "e/f": 1.0}),
        ([], {}),
    ],
)
def test_types_have_their_quality(lines: list[str], ranked: dict[str, float]) -> None:
    assert ranked_types(lines) == ranked
