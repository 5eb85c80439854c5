"""Accept and If-None-Match as lists, with qualities and weak tags."""

from __future__ import annotations

import pytest

from viz.api.negotiation import MediaRange, is_known, media_ranges, quality_of, span_of
from viz.errors import RangeNotSatisfiable

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
    ("lines", "found"),
    [
        (["text/html, */*;q=0.8"], [("text/html", 1.0, {}), ("*/*", 0.8, {})]),
        (["A/B;v=1; Q=0.5", "c/d;q=0"], [("a/b", 0.5, {"v": "1"}), ("c/d", 0.0, {})]),
        (['a/b; dups = "Y" ;q=0.5'], [("a/b", 0.5, {"dups": "y"})]),
        (
            ["a/b;q=2, c/d;q=x, , e/f;q=1.000"],
            [("a/b", 0.0, {}), ("c/d", 0.0, {}), ("e/f", 1.0, {})],
        ),
        ([], []),
    ],
)
def test_types_have_their_quality_and_parameters(
    lines: list[str], found: list[tuple[str, float, dict[str, str]]]
) -> None:
    assert media_ranges(lines) == [MediaRange(*each) for each in found]


@pytest.mark.parametrize(
    ("accept", "quality"),
    [
        ("*/*;q=0.5", 0.5),
        ("*/*, a/*;q=0.2", 0.2),
        ("*/*, a/*;q=0.2, a/b;q=0.7", 0.7),
        ("a/b;q=0, */*", 0.0),
        ("c/d", 0.0),
    ],
)
def test_the_most_specific_range_says_the_quality(accept: str, quality: float) -> None:
    assert quality_of("a/b", media_ranges([accept])) == quality


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None),
        ("bytes=0-", range(10)),
        (" Bytes=3-4 ", range(3, 5)),
        ("bytes=3-99", range(3, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-99", range(10)),
        ("bytes=4-3", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("bytes=\u0661-", None),
        ("bytes=0000000000000000000000-", None),
    ],
)
def test_a_range_is_one_run_of_bytes_or_none(header: str | None, span: range | None) -> None:
    assert span_of(header, 10) == span
    assert span_of(header, 0) is None, "of an empty body there is no part"


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-11", "bytes=-0"])
def test_a_range_after_the_end_is_refused(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        span_of(header, 10)
