"""Generate one sequence as a series of bounded segments, each a request to one server.

Owns the state of one request: the tokens that arrived, those passed on to the reader, and when a
segment is cut off. Text, stop strings and log-probabilities are made from the token ids by our own
tokenizer, as in the embedded engine. Invariants:

- A server is at most ``ahead_tokens`` (and what is in transit) ahead of what is paid and read.
  Tokens that are ahead are kept, and passed on when they are paid.
- A segment continues from all tokens that arrived before, on the server that is best at the time.
  So a server that dies costs time, but no token is billed twice.
- With a seed, the answer does not depend on when it was paid: segments begin at fixed positions,
  each with its own seed, and a segment that was cut off is computed again from its beginning.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import deque
from contextlib import aclosing
from dataclasses import replace
from typing import Final, Protocol

import structlog

from viz.domain.ports.engine import GenerationRequest
from viz.engine.sequence import SampledToken, TokenSequence
from viz.engine.stream import StreamState
from viz.engine.upstream.peft_folder import SharedAdapter
from viz.engine.upstream.replica import Replica
from viz.engine.upstream.server import (
    AdapterLost,
    SegmentRequest,
    ServerBusy,
    ServerFault,
    ServerRefused,
)
from viz.engine.upstream.settings import UpstreamSettings
from viz.errors import EngineError, EngineOverloaded

# A request ends after this many server faults.
MOST_FAULTS: Final = 4
BUSY_PAUSE_S: Final = 0.2
_log = structlog.get_logger()


class Servers(Protocol):
    """What a request needs of the engine's servers."""

    async def pick(self, adapter: SharedAdapter, avoid: set[Replica]) -> Replica:
        """Return the server for a segment; wait for one a short time. Raises EngineError."""
        ...

    def count(self, name: str, more: int = 1) -> None:
        """Add to one of the engine's counters."""
        ...


class _Cut(Exception):
    """The segment ends here: nobody reads or pays any more, or the sequence has ended."""


class ServerGoneEarly(ServerFault):
    """The server broke off an answer, or gave an impossible reason: continue at another one."""


class UpstreamSequence:
    """One request, from admission to its last piece. ``run`` is its task."""

    def __init__(
        self,
        request: GenerationRequest,
        adapter: SharedAdapter,
        servers: Servers,
        settings: UpstreamSettings,
        salt: str,
    ) -> None:
        self.request = request
        self.adapter = adapter
        self.state = StreamState(self._wake)
        self.sequence: TokenSequence
        self._servers, self._settings = servers, settings
        self.salt = salt
        self._news = asyncio.Event()
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._task: asyncio.Task[None] | None = None
        # Tokens that arrived and are not passed on yet, and all tokens that arrived.
        self._ahead: deque[SampledToken] = deque()
        self._arrived: list[int] = []
        # The server ended the sequence; repeated parts were exact; why the answer is not trusted.
        self._ended = False
        self._exact = True
        self._wrong: str | None = None

    async def run(self) -> None:
        """Generate to the end; the last piece or an error always reaches the reader."""
        self._task = asyncio.current_task()
        try:
            await self._segments()
        except EngineError as error:
            self.state.fail(error)
        except asyncio.CancelledError:
            if not self._is_over():
                self.state.fail(EngineError("the engine was closed"))
                raise
        except Exception as error:  # noqa: BLE001 - a fault ends only this stream
            _log.exception("a request to a server failed", request=self.request.request_id)
            self.state.fail(EngineError(f"the engine failed: {type(error).__name__}"))
        finally:
            self._task = None

    def cut_off(self) -> None:
        """End the stream because its server computes the wrong model."""
        self._wrong = (
            "the server that computed this answer was taken out, because it computes something "
            "else than this model: ask again"
        )
        self._woken()

    def _is_over(self) -> bool:
        """Return whether the sequence is over; send the reader the end if it has not got it."""
        if self.sequence.finished is not None:
            return True
        if self._wrong is not None:
            self.state.fail(EngineError(self._wrong))
            return True
        if self.state.cancelled:
            self.state.put(self.sequence.cancel())
            return True
        return False

    def _wake(self) -> None:
        """Wake the task; called on any thread when the reader took, allowed or cancelled."""
        if threading.get_ident() == self._thread:
            self._woken()
        else:
            self._loop.call_soon_threadsafe(self._woken)

    def _woken(self) -> None:
        self._news.set()
        if self._task is None:
            return
        over = self.state.cancelled or self._wrong is not None
        # Tokens that wait here may be passed on at once, without waiting for the server.
        if over or self._hand_on():
            self._task.cancel()

    # segments

    async def _segments(self) -> None:
        faults = 0
        avoid: set[Replica] = set()
        while not (self._hand_on() or self._is_over()):
            if self._ahead or not self.sequence.may_run():
                self._news.clear()
                # No time limit here: the caller decides how long an unpaid stream waits.
                await self._news.wait()
                continue
            replica = await self._servers.pick(self.adapter, avoid)
            try:
                await self._segment(replica)
            except _Cut:
                continue
            except ServerFault as error:
                faults += 1
                avoid.add(replica)
                await self._after(error, replica, faults)

    async def _after(self, error: ServerFault, replica: Replica, faults: int) -> None:
        """Record the fault of the server; raise EngineError if the request must end."""
        _log.warning(
            "a server failed a request",
            request=self.request.request_id,
            server=replica.url,
            reason=str(error),
            tokens=len(self._arrived),
        )
        if isinstance(error, AdapterLost):
            replica.lose(self.adapter)
        elif isinstance(error, ServerRefused):
            if not replica.refuses(self.adapter.name):
                raise EngineError(f"the server refuses this request: {error}") from error
        elif isinstance(error, ServerBusy):
            if faults >= MOST_FAULTS:
                raise EngineOverloaded("the servers are full: try again shortly") from error
            await asyncio.sleep(BUSY_PAUSE_S * faults)
        else:
            replica.fail(str(error))
        if faults >= MOST_FAULTS:
            raise EngineError("the servers of this model fail: try again later") from error
        self._servers.count("failovers")

    async def _segment(self, replica: Replica) -> None:
        """Ask one server to continue, and take what it sends. Raises _Cut, ServerFault."""
        asked, again = self._next_request()
        async with replica.use(self.adapter, self.cut_off) as model:
            received = 0
            arriving = replica.server.complete(replace(asked, model=model))
            async with aclosing(arriving):
                async for arrived in arriving:
                    for token in arrived.tokens:
                        received += 1
                        self._take(token, again)
                    if arrived.ended is not None and not self._ended:
                        self._end(arrived.ended, received, asked.max_tokens)
                    if self._hand_on() or len(self._ahead) > self._settings.ahead_tokens:
                        raise _Cut
                    if arrived.ended is not None:
                        return
        raise ServerGoneEarly("it ended a stream without a reason")

    def _next_request(self) -> tuple[SegmentRequest, deque[int]]:
        """Return the next request, and the tokens that it will repeat."""
        rules, prompt = self.request.sampling, self.request.prompt
        start, seed = len(self._arrived), None
        size = self._settings.segment_tokens
        if rules.temperature > 0 and rules.seed is not None:
            size = self._settings.seeded_segment_tokens
            if self._exact:
                start -= start % size
            seed = seed_of(self.sequence.seed, start)
        again = deque(self._arrived[start:])
        left = self.sequence.max_tokens - start
        request = SegmentRequest(
            model="",
            prompt=[*prompt, *self._arrived[:start]],
            max_tokens=min(left, size),
            sampling=rules,
            seed=seed,
            end_ids=sorted(self.sequence.end_ids),
            salt=self.salt,
        )
        return request, again

    def _take(self, token: SampledToken, again: deque[int]) -> None:
        """Store a token if it is new. Raises _Cut if a repeated part differs."""
        if again:
            if again.popleft() == token.token_id:
                return
            # The server's arithmetic depends on its batch; from here on, follow the seed alone.
            self._exact = False
            raise _Cut
        if self._ended:
            return
        if token.token_id in self.sequence.end_ids:
            self._ended = True
        else:
            self._arrived.append(token.token_id)
            self._servers.count("received_tokens")
        self._ahead.append(token)

    def _end(self, reason: str, received: int, asked: int) -> None:
        """Accept the server's finish reason. Raises ServerGoneEarly if it cannot be true."""
        if reason == "stop" and self.sequence.end_ids:
            # The server knows an end token that it did not send.
            self._ended = True
            self._ahead.append(SampledToken(min(self.sequence.end_ids)))
        elif reason != "length":
            raise ServerGoneEarly(f"it ended a stream with reason {reason[:40]!r}")
        elif received < asked:
            raise ServerGoneEarly(f"it said length after {received} of {asked} tokens")

    def _hand_on(self) -> bool:
        """Deliver the tokens that are paid; return whether the sequence has ended."""
        while self._ahead and self.sequence.finished is None:
            token = self._ahead[0]
            if token.token_id not in self.sequence.end_ids and not self.sequence.may_run():
                break
            self._ahead.popleft()
            piece = self.sequence.accept(token)
            self._servers.count("generated_tokens", len(piece.token_ids))
            self.state.put(piece)
        return self.sequence.finished is not None


def seed_of(seed: int, place: int) -> int:
    """Return the seed of the segment that begins at token ``place``, below 2**63."""
    mixed = hashlib.blake2b(f"{seed}:{place}".encode(), digest_size=8).digest()
    return int.from_bytes(mixed, "big") >> 1
