"""Connect one sequence to asyncio: pieces go out, the paid tokens and a cancellation come in.

``StreamState`` is shared by the generation thread and the reader: plain ints and flags, each
written by one side only. ``Stream`` is the Generation that a caller holds. Invariant: after a piece
with a finish reason, or an error, the stream ends and stays ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from viz.domain.ports.engine import Piece
from viz.errors import EngineError


class StreamState:
    """Shared state of a stream and its sequence; ``wake`` wakes the generation thread."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.allowed_tokens: int | None = None
        self.taken_tokens = 0
        self.cancelled = False
        self._pieces: deque[Piece] = deque()
        self._error: EngineError | None = None
        self._ended = False
        self._news = asyncio.Event()

    @property
    def is_ended(self) -> bool:
        return self._ended

    def put(self, piece: Piece) -> None:
        """Deliver a piece. Must be called on the event loop's thread."""
        self._pieces.append(piece)
        self._ended = self._ended or piece.finish_reason is not None
        self._news.set()

    def fail(self, error: EngineError) -> None:
        """End the stream with an error after the delivered pieces.

        Must be called on the event loop's thread.
        """
        if not self._ended:
            self._error, self._ended = error, True
            self._news.set()

    def abandon(self) -> None:
        """Cancel without waiting. May be called from any thread."""
        self.cancelled = True
        self.wake()

    async def take(self) -> Piece:
        while not self._pieces:
            if self._ended:
                error, self._error = self._error, None
                raise error if error is not None else StopAsyncIteration
            self._news.clear()
            # No timeout here: how long an unpaid stream waits is the caller's decision.
            await self._news.wait()
        piece = self._pieces.popleft()
        self.taken_tokens += len(piece.token_ids)
        self.wake()
        return piece

    async def ended(self) -> None:
        while not self._ended:
            self._news.clear()
            await self._news.wait()
        self._news.set()


class Stream:
    """A running sequence for its caller: implements ``viz.domain.ports.engine.Generation``."""

    def __init__(self, state: StreamState) -> None:
        self._state = state

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        return await self._state.take()

    def allow(self, total_tokens: int) -> None:
        """Allow ``total_tokens`` generated tokens in all; a lower number changes nothing."""
        self._state.allowed_tokens = max(self._state.allowed_tokens or 0, total_tokens)
        self._state.wake()

    async def cancel(self) -> None:
        """Stop within one step and free the slot; pieces that were not read stay readable."""
        self._state.abandon()
        await self._state.ended()
