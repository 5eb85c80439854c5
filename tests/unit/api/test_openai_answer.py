"""OpenAI's shapes, where a client's bytes depend on them."""

from __future__ import annotations

import pytest

from viz.api.openai.answer import Answer, Choice
from viz.domain.ports.engine import Piece, TokenLogprob


def test_a_logprob_carries_the_tokens_own_bytes() -> None:
    """A client that joins the bytes of tokens gets the text, halves of characters included."""
    tokens = (
        TokenLogprob("\ufffd", 7, -0.5, b"\xc3"),
        TokenLogprob("\ufffd", 8, -0.5, b"\xa9"),
        TokenLogprob("<|im_end|>", 2, -0.5, None),
    )
    answer = Answer("id", 0, "model", chat=True, logprobs=True)
    chunk = answer.piece(0, Piece("\u00e9", (7, 8, 2), None, tokens, ((),) * 3), (0, 0, 1))
    spelled = [each["bytes"] for each in chunk["choices"][0]["logprobs"]["content"]]
    assert spelled == [[0xC3], [0xA9], None]


FIRST = TokenLogprob("\ufffd", 11, -0.2, b"\xf0")
SECOND = TokenLogprob("\ufffd", 12, -1.9, b"\xe2")
LETTER = TokenLogprob("a", 13, -3.0, b"a")
TWIN = TokenLogprob("a", 14, -4.0, b"a")
CONTROL = TokenLogprob("<|im_end|>", 2, -5.0, None)


def test_candidates_without_a_text_of_their_own_are_all_there() -> None:
    """As many as were asked for, each under its own key, and the likeliest keeps its number."""
    choice = Choice()
    row = (FIRST, SECOND, LETTER, TWIN, CONTROL)
    choice.add(Piece("", (11,), None, (FIRST,), (row,)))
    whole = Answer("id", 0, "model", chat=False, logprobs=True).whole([choice], {})
    spelled = whole["choices"][0]["logprobs"]
    assert spelled["top_logprobs"] == [
        {
            "bytes:\\xf0": -0.2,
            "bytes:\\xe2": -1.9,
            "a": -3.0,
            "token_id:14": -4.0,
            "<|im_end|>": -5.0,
        }
    ]
    assert spelled["tokens"] == ["bytes:\\xf0"]


def test_tokens_are_measured_by_the_characters_that_they_are_parts_of() -> None:
    """Offsets point into the text, over the pieces of a stream too: an emoji is one character."""
    parts = [TokenLogprob("\ufffd", n, -1.0, bytes([b])) for n, b in enumerate("🌊".encode())]
    answer, choice = Answer("id", 0, "model", chat=False, logprobs=True), Choice()
    offsets = []
    for text, tokens in (("", parts[:3]), ("🌊a", [parts[3], LETTER]), ("", [CONTROL])):
        piece = Piece(text, (0,) * len(tokens), None, tuple(tokens), ((),) * len(tokens))
        choice.add(piece)
        chunk = answer.piece(0, piece, choice.offsets[-len(tokens) :])
        offsets += chunk["choices"][0]["logprobs"]["text_offset"]
    assert offsets == [0, 0, 0, 0, 1, 2] and choice.text == "🌊a"
    whole = answer.whole([choice], {})
    assert whole["choices"][0]["logprobs"]["text_offset"] == offsets


@pytest.mark.parametrize("chat", [True, False])
def test_members_that_openai_sends_as_null_are_there(chat: bool) -> None:
    """Clients in typed languages read a member before they test it."""
    piece = Piece("a", (13,), None, (), ())
    answer = Answer("id", 0, "model", chat, logprobs=False, with_usage=True)
    chunks = [answer.piece(0, piece, ()), answer.closing(0, "stop")]
    chunks += [answer.opening(0)] if chat else []
    for chunk in chunks:
        (choice,) = chunk["choices"]
        assert chunk["usage"] is None and choice["logprobs"] is None
        assert chunk["system_fingerprint"] is None and "finish_reason" in choice
    if chat:
        assert answer.opening(0)["choices"][0]["delta"]["refusal"] is None
    assert answer.usage({"total_tokens": 1})["usage"] == {"total_tokens": 1}
    plain = Answer("id", 0, "model", chat, logprobs=False)
    assert "usage" not in plain.piece(0, piece, ())
    whole = plain.whole([Choice("a")], {})
    assert whole["choices"][0]["logprobs"] is None and whole["system_fingerprint"] is None
