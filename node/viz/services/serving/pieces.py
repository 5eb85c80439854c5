"""Read the pieces of an answer's choices as the engine produces them, or until money arrives.

Owns the wait between two pieces. Most answers have one choice: its pieces are read from the engine
directly, without a task or a queue in between. Several choices have one task each, which fill a
bounded queue, so that a slow reader slows down its own generations and does not fill the memory.
Invariant: no piece is lost, whatever ends a wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import structlog

from viz.domain.ports.engine import Generation, Piece
from viz.errors import EngineError, VizError
from viz.services.serving.shown_logprobs import ShownLogprobs

T = TypeVar("T")
QUEUE: Final = 16
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of one choice, to be sent to the buyer."""

    choice: int
    piece: Piece


class Pieces(Protocol):
    """The pieces of one request."""

    def is_empty(self) -> bool:
        """Return whether no piece is waiting to be taken."""
        ...

    async def take(self, patience_s: float, *, awaits_money: bool) -> Text | None:
        """Return the next piece, or None if ``wake`` ended the wait; raise TimeoutError.

        ``awaits_money``: the engine has no allowance left, so only ``wake`` ends the wait. Raises
        EngineError, and any VizError that the generation raises.
        """
        ...

    def wake(self) -> None:
        """End a wait for money."""
        ...

    async def stop(self) -> None:
        """Stop reading."""
        ...


def pieces_of(request_id: str, generations: Sequence[Generation]) -> Pieces:
    """Return the pieces of these generations, one for each choice."""
    if len(generations) == 1:
        return OneChoice(request_id, generations[0])
    return ManyChoices(request_id, generations)


class OneChoice:
    """Reads the only generation in the caller's task."""

    def __init__(self, request_id: str, generation: Generation) -> None:
        self._request_id = request_id
        self._generation = generation
        self._showing = ShownLogprobs()
        # A read that a wait for money left unfinished; it may hold the next piece.
        self._reading: asyncio.Future[Piece] | None = None
        self._money = asyncio.Event()
        self._patience = Patience()

    def is_empty(self) -> bool:
        return self._reading is None or not self._reading.done()

    async def take(self, patience_s: float, *, awaits_money: bool) -> Text | None:
        try:
            if awaits_money or self._reading is not None:
                piece = await self._take_or_wake(patience_s)
            else:
                piece = await self._patience.wait_for(self._next(), patience_s)
        except (VizError, TimeoutError):
            raise
        except Exception as error:
            raise _failed(self._request_id, error) from error
        return None if piece is None else Text(0, self._showing.take(piece))

    async def _next(self) -> Piece:
        try:
            return await self._generation.__anext__()
        except StopAsyncIteration as error:
            raise EngineError("the engine ended the answer early: try again later") from error

    async def _take_or_wake(self, patience_s: float) -> Piece | None:
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._next())
        money = asyncio.ensure_future(self._money.wait())
        try:
            waits: set[asyncio.Future[Any]] = {self._reading, money}
            await asyncio.wait(waits, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            money.cancel()
        if self._reading.done():
            reading, self._reading = self._reading, None
            return reading.result()
        if self._money.is_set():
            self._money.clear()
            return None
        raise TimeoutError

    def wake(self) -> None:
        self._money.set()

    async def stop(self) -> None:
        self._patience.end()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
            if not self._reading.cancelled():
                self._reading.exception()  # seen, so that asyncio does not report it


class Patience:
    """Bounds each of many short waits of one task with one timer.

    ``asyncio.timeout`` arms a timer for each wait, which costs more than everything else about a
    token. This timer stays armed. When it fires, it checks whether the present wait is too long; if
    not, it arms itself for the time when it will be.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None
        self._ends_s = 0.0
        self._is_over = False

    async def wait_for(self, work: Coroutine[Any, Any, T], limit_s: float) -> T:
        """Return the result of ``work``; raise TimeoutError after ``limit_s``."""
        task = asyncio.current_task()
        cancels = task.cancelling() if task is not None else 0
        self._task, self._is_over = task, False
        self._ends_s = self._loop.time() + limit_s
        if self._timer is None or self._timer.when() > self._ends_s:
            self._arm()
        try:
            return await work
        except asyncio.CancelledError:
            # As in asyncio.timeout: only our own cancellation becomes a TimeoutError.
            if self._is_over and task is not None and task.uncancel() <= cancels:
                raise TimeoutError from None
            raise
        finally:
            self._task = None

    def end(self) -> None:
        """Disarm the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self.end()
        self._timer = self._loop.call_at(self._ends_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._task is None:
            return  # nobody waits; the next wait arms the timer again
        if self._loop.time() < self._ends_s:
            self._arm()
            return
        self._is_over = True
        self._task.cancel()


class ManyChoices:
    """Reads each generation in a task of its own."""

    def __init__(self, request_id: str, generations: Sequence[Generation]) -> None:
        self._request_id = request_id
        self._queue: asyncio.Queue[Text | VizError | None] = asyncio.Queue(QUEUE)
        self._pumps = [
            asyncio.create_task(self._pump(choice, generation))
            for choice, generation in enumerate(generations)
        ]

    def is_empty(self) -> bool:
        return self._queue.empty()

    async def take(self, patience_s: float, *, awaits_money: bool) -> Text | None:
        async with asyncio.timeout(patience_s):
            item = await self._queue.get()
        if isinstance(item, VizError):
            raise item
        return item

    def wake(self) -> None:
        # None only ends a wait for an item; if the queue is full, its items end the wait.
        if not self._queue.full():
            self._queue.put_nowait(None)

    async def stop(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.wait(self._pumps)

    async def _pump(self, choice: int, generation: Generation) -> None:
        """Move one choice's pieces into the queue, then the error if the generation failed."""
        showing = ShownLogprobs()
        try:
            async for piece in generation:
                await self._queue.put(Text(choice, showing.take(piece)))
        except VizError as error:
            await self._queue.put(error)
        except Exception as error:  # noqa: BLE001  a bug in a backend must end only this stream
            await self._queue.put(_failed(self._request_id, error))


def _failed(request_id: str, error: Exception) -> EngineError:
    _log.error("the engine failed", request=request_id, exc_info=error)
    return EngineError("the engine failed: try again later")
