"""Text out of the model: nothing lost, nothing broken, nothing shown too early."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from viz.basemodel.detokenise import Detokeniser
from viz.engine.stop_strings import StopStringFinder

TABLE = {byte: bytes((byte,)) for byte in range(256)}


@given(st.binary(max_size=60))
def test_pieces_join_to_the_whole_decoding(data: bytes) -> None:
    """Byte by byte or at once, valid or broken UTF-8: the same text."""
    decoder = Detokeniser(TABLE)
    pieces = [decoder.push((byte,)) for byte in data]
    assert "".join(pieces) + decoder.flush() == data.decode("utf-8", errors="replace")


@given(st.text(alphabet="ab", max_size=40), st.lists(st.text("ab", min_size=1, max_size=4)))
def test_stop_strings_cut_like_a_search_of_the_whole(text: str, stops: list[str]) -> None:
    """Letter by letter, the shown text is what stands before the stop that completes first."""
    finder, shown, met = StopStringFinder(tuple(stops)), "", False
    for end, letter in enumerate(text, start=1):
        more, met = finder.push(letter)
        shown += more
        assert not any(stop in shown for stop in stops)
        if met:
            places = [text[:end].find(stop) for stop in stops if stop in text[:end]]
            assert shown == text[: min(places)]
            break
    if not met:
        assert shown + finder.flush() == text
        assert not any(stop in text for stop in stops)
