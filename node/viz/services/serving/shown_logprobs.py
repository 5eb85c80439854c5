"""What a buyer is told of one choice beside its text: no log-probability before its text is sent.

Owns the pairing of tokens and sent text. Does not know money, stop strings or HTTP. Invariant: a
token's log-probability, and those of its alternatives, go out with text that covers the token
whole. What a stop string cuts off is not billed, so nothing is told of it either; nor of a control
token, which has no text.
"""

from __future__ import annotations

import codecs
from collections import deque
from dataclasses import replace

from viz.domain.ports.engine import Piece, TokenLogprob

Top = tuple[TokenLogprob, ...]


class ShownLogprobs:
    """One choice's pieces on their way out."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoded_characters = 0
        self._sent_characters = 0
        self._held: deque[tuple[int, TokenLogprob, Top]] = deque()

    def take(self, piece: Piece) -> Piece:
        """Return the piece with the log-probabilities that its text, or text before it, covers."""
        self._sent_characters += len(piece.text)
        if not (piece.logprobs or self._held):
            return piece
        for place, token in enumerate(piece.logprobs):
            if token.raw is None:
                continue
            self._decoded_characters += len(self._decoder.decode(token.raw))
            # Bytes of an unfinished character wait: the token ends in the character after these.
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
