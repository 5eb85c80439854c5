"""Hold back each token's log-probabilities until the text of that token is sent.

Owns the pairing of tokens and sent text. Invariant: the log-probabilities of a token and of its
alternatives are sent together with the end of the token's text, or after it. So a buyer learns
nothing about text that a stop string cuts off, because that text is not billed. Control tokens have
no text, and nothing is sent about them.
"""

from __future__ import annotations

import codecs
from collections import deque
from dataclasses import replace

from viz.domain.ports.engine import Piece, TokenLogprob

Top = tuple[TokenLogprob, ...]


class ShownLogprobs:
    """Pair tokens and sent text for one choice."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoded_characters = 0
        self._sent_characters = 0
        self._held: deque[tuple[int, TokenLogprob, Top]] = deque()

    def take(self, piece: Piece) -> Piece:
        """Return the piece with the log-probabilities of all tokens whose text is now sent."""
        self._sent_characters += len(piece.text)
        if not (piece.logprobs or self._held):
            return piece
        for place, token in enumerate(piece.logprobs):
            if token.raw is None:
                continue
            self._decoded_characters += len(self._decoder.decode(token.raw))
            # The token may end inside a character. Then its text is sent with that character, which
            # is one more than those decoded so far.
            unfinished = bool(self._decoder.getstate()[0])
            top = piece.top_logprobs[place] if place < len(piece.top_logprobs) else ()
            self._held.append((self._decoded_characters + unfinished, token, top))
        logprobs: list[TokenLogprob] = []
        tops: list[Top] = []
        while self._held and self._held[0][0] <= self._sent_characters:
            _, token, top = self._held.popleft()
            logprobs.append(token)
            tops.append(top)
        return replace(piece, logprobs=tuple(logprobs), top_logprobs=tuple(tops))
