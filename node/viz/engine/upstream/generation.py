"""Generate one sequence as a row of bounded segments, each a request to some server.

Owns the state of one request: what arrived, what was handed on, and when a request is cut. The
text, stop strings and log-probabilities come from the token ids by our own tokenizer, as in the
embedded engine. Invariants:

- A server is at most ``ahead_tokens`` (and what travels) beyond what is allowed and read; what is
  ahead is kept and handed on when it is allowed.
- A segment continues with all tokens that arrived before, on whichever server is best then. So a
  server that dies costs time, and no token is billed twice.
- With a seed, the answer does not depend on when it was paid: segments begin at fixed places, each
  with a seed of its own, and one that was cut is computed again from its beginning.
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

# Faults of servers after which a request ends.
MOST_FAULTS: Final = 4
BUSY_PAUSE_S: Final = 0.2
_log = structlog.get_logger()


class Servers(Protocol):
    """The servers of an engine, as one request needs them."""

    async def pick(self, adapter: SharedAdapter, avoid: set[Replica]) -> Replica:
        """Return the server for a segment; wait for one a short time. Raises EngineError."""
        ...

    def count(self, name: str, more: int = 1) -> None:
        """Add to one of the engine's counters."""
        ...


class _Cut(Exception):
    """The segment ends here: nobody reads or pays on, or the sequence ended."""


class ServerGoneEarly(ServerFault):
    """It broke an answer off, or gave a reason that cannot be true: go on with another one."""


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
        # Tokens that arrived and are not handed on yet, and all tokens that arrived.
        self._ahead: deque[SampledToken] = deque()
        self._arrived: list[int] = []
        # The server ended the sequence; whether its repetitions were exact; why it is not believed.
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
        except Exception as error:  # noqa: BLE001 - a fault ends this stream, and no other
            _log.exception("a request to a server failed", request=self.request.request_id)
            self.state.fail(EngineError(f"the engine failed: {type(error).__name__}"))
        finally:
            self._task = None

    def cut_off(self) -> None:
        """End the stream: the server that computes it is not to be believed."""
        self._wrong = (
            "the server that computed this answer was taken out, because it computes something "
            "else than this model: ask again"
        )
        self._woken()

    def _is_over(self) -> bool:
        """Return whether nothing more is to be generated; tell the reader, if it does not know."""
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
        """Called when the reader took, allowed or cancelled something, on any thread."""
        if threading.get_ident() == self._thread:
            self._woken()
        else:
            self._loop.call_soon_threadsafe(self._woken)

    def _woken(self) -> None:
        self._news.set()
        if self._task is None:
            return
        over = self.state.cancelled or self._wrong is not None
        # What waits here may go on at once, whether or not the server has more to say.
        if over or self._hand_on():
            self._task.cancel()

    # segments

    async def _segments(self) -> None:
        faults = 0
        avoid: set[Replica] = set()
        while not (self._hand_on() or self._is_over()):
            if self._ahead or not self.sequence.may_run():
                self._news.clear()
                # No limit here: how long an unpaid stream waits is the caller's decision.
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
        """Note the fault at its server; raise EngineError if the request is to end."""
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
        """Ask one server to go on, and take what it sends. Raises _Cut, ServerFault."""
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
        """Return what to ask for, and the tokens that will arrive again."""
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
        """Keep a token that arrived, if it is new. Raises _Cut where a repeated part differs."""
        if again:
            if again.popleft() == token.token_id:
                return
            # Arithmetic that depends on the batch: from here on the seed alone decides.
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
        """Take the server's reason to end. Raises ServerGoneEarly if it cannot be true."""
        if reason == "stop" and self.sequence.end_ids:
            # It knows an end that it did not send as a token.
            self._ended = True
            self._ahead.append(SampledToken(min(self.sequence.end_ids)))
        elif reason != "length":
            raise ServerGoneEarly(f"it ended a stream by {reason[:40]!r}")
        elif received < asked:
            raise ServerGoneEarly(f"it said length after {received} of {asked} tokens")

    def _hand_on(self) -> bool:
        """Deliver what is allowed; return whether the sequence has ended."""
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
    """Return the seed of the segment that begins at token ``place``; it is below 2**63."""
    mixed = hashlib.blake2b(f"{seed}:{place}".encode(), digest_size=8).digest()
    return int.from_bytes(mixed, "big") >> 1
