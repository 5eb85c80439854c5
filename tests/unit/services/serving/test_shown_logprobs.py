"""Log-probabilities go out with the text that is paid for, and nothing is told of what is cut."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from viz.basemodel.detokenise import Detokeniser
from viz.domain.ports.engine import FinishReason, Piece, TokenLogprob
from viz.engine.stop_strings import StopStringFinder
from viz.services.serving.shown_logprobs import ShownLogprobs

# Letters, a character of three bytes in parts, one of four, and bytes that are no character.
_RAW = [
    b"a",
    b"b",
    b"ab",
    b" ",
    "€".encode()[:1],
    "€".encode()[1:],
    "😀".encode(),
    b"\x80",
    b"\xf0",
]
_CONTROL = len(_RAW)
_TABLE = dict(enumerate(_RAW))


def told(token_id: int) -> TokenLogprob:
    """Return the log-probability that an engine makes of a token."""
    return TokenLogprob(str(token_id), token_id, -0.5, _TABLE.get(token_id))


def sent(ids: Sequence[int], stops: tuple[str, ...]) -> tuple[str, list[TokenLogprob], bool]:
    """Send the tokens as the engine does: return all text, all told tokens, whether a stop cut."""
    decoder, finder, showing = Detokeniser(_TABLE), StopStringFinder(stops), ShownLogprobs()
    text, tokens = "", list[TokenLogprob]()
    for place, token_id in enumerate(ids):
        more, stopped = finder.push(decoder.push((token_id,)))
        last = place == len(ids) - 1
        if last and not stopped:
            rest, stopped = finder.push(decoder.flush())
            more += rest if stopped else rest + finder.flush()
        finish: FinishReason | None = "stop" if stopped else "length" if last else None
        piece = Piece(more, (token_id,), finish, (told(token_id),), ((told(token_id),) * 3,))
        shown = showing.take(piece)
        assert len(shown.logprobs) == len(shown.top_logprobs)
        text, tokens = text + shown.text, [*tokens, *shown.logprobs]
        covered = b"".join(each.raw or b"" for each in tokens).decode(errors="replace")
        assert text.startswith(covered.rstrip("�")), "told before its text was sent"
        if stopped:
            return text, tokens, True
    return text, tokens, False


@given(
    ids=st.lists(st.integers(0, _CONTROL), max_size=24),
    stops=st.lists(st.text("ab €😀", min_size=1, max_size=6), max_size=3).map(tuple),
)
def test_tokens_are_told_as_far_as_their_text_is_sent(
    ids: list[int], stops: tuple[str, ...]
) -> None:
    """Without a cut every token of the text is told; with one, those before it alone."""
    text, tokens, cut = sent(ids, stops)
    raw = b"".join(each.raw or b"" for each in tokens)
    if cut:
        assert len(raw.decode(errors="replace")) <= len(text)
    else:
        assert raw == b"".join(_TABLE.get(each, b"") for each in ids)


def test_what_a_stop_string_cuts_is_not_told() -> None:
    """The guessed answer, 600 letters long once, was told whole and billed as nothing."""
    text, tokens, cut = sent([0, 1, 0, 1, 0], ("abab",))
    assert (text, tokens, cut) == ("", [], True)
    text, tokens, _ = sent([3, 0, 1, 0, 0, 1], ("aa",))
    assert text == " ab" and [each.token_id for each in tokens] == [3, 0, 1]
    text, tokens, _ = sent([0, 2], ("b",))
    assert text == "aa" and [each.token_id for each in tokens] == [0], "half a token is not told"


def test_a_token_without_text_is_not_told() -> None:
    """Control tokens are billed as nothing, since they have no text."""
    assert sent([_CONTROL, 0, _CONTROL], ())[1] == [told(0)]
