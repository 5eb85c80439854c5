"""OpenAI's shapes, where a client's bytes depend on them."""

from __future__ import annotations

from viz.api.openai_answer import Answer
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
