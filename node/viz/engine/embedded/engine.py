"""Implement the Engine Protocol: asyncio outside, one generation thread inside.

Owns start and stop, admission, and the hand-over between event loop and generation thread.
Invariants: at most ``max_streams + max_waiting`` sequences are open; a refused request leaves no
state behind.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from viz.domain.ports.engine import BaseModel, Generation, GenerationRequest, Piece
from viz.domain.units import AdapterId
from viz.engine.embedded.memory_plan import plan, usable_processors, usual_bytes
from viz.engine.embedded.process_memory import (
    resident_bytes,
    return_freed,
    return_libraries,
    share_heaps,
)
from viz.engine.embedded.sequence import Sequence as Running
from viz.engine.embedded.settings import EngineSettings
from viz.engine.request_checks import check_adapter_id, check_request
from viz.engine.stream import Stream, StreamState
from viz.errors import EngineError, EngineOverloaded

if TYPE_CHECKING:
    from viz.basemodel.source import LoadedBase
    from viz.engine.embedded.adapter_pool import AdapterPool
    from viz.engine.embedded.loop import EngineLoop, PieceBatch

_log = structlog.get_logger()


class EmbeddedEngine:
    """Implements ``viz.domain.ports.engine.Engine`` in this process; create it with ``start``."""

    def __init__(self, base: LoadedBase, settings: EngineSettings) -> None:
        self._base, self._settings = base, settings
        self._model = base.model
        self._loop = asyncio.get_running_loop()
        self._open: set[StreamState] = set()
        self._files = ThreadPoolExecutor(1, thread_name_prefix="viz-adapter-check")
        self._engine_loop: EngineLoop
        self._pool: AdapterPool
        self._slots = 0
        self._compute = ""
        self._closed = False

    @classmethod
    async def start(cls, base: LoadedBase, settings: EngineSettings) -> EmbeddedEngine:
        """Load the weights, choose the backend, and start the generation thread.

        Takes seconds, in a thread. Raises ModelUnavailable.
        """
        engine = cls(base, settings)
        await asyncio.to_thread(engine._build)
        engine._engine_loop.start()
        return engine

    def _build(self) -> None:
        import torch

        from viz.basemodel.nf4 import serving_weights
        from viz.engine.embedded.adapter_pool import AdapterPool
        from viz.engine.embedded.backend_choice import choose_backend
        from viz.engine.embedded.decoder import DecoderModel
        from viz.engine.embedded.kv_cache import KvCache
        from viz.engine.embedded.loop import EngineLoop

        share_heaps()
        settings, shape = self._settings, self._base.shape
        threads = settings.threads or min(torch.get_num_threads(), usable_processors())
        torch.set_num_threads(threads)
        choice = choose_backend(
            shape,
            settings.compute,
            self._base.serving_file.parents[1] / "native" if settings.compile else None,
            capacity=min(settings.context_tokens, shape.context_tokens),
        )
        dtype = choice.dtype
        budget = settings.memory_bytes or usual_bytes()
        fits = plan(shape, settings, choice.widths, budget)
        self._slots = fits.slots
        arithmetic = str(dtype).removeprefix("torch.")
        self._model = replace(self._model, context_tokens=fits.capacity, arithmetic=arithmetic)
        self._compute = choice.name
        _log.info(
            "engine starts",
            model=self._base.model.name,
            compute=self._compute,
            reason=choice.reason,
            threads=threads,
            streams=fits.slots,
            context_tokens=fits.capacity,
            memory_mib=budget >> 20,
            adapter_memory_mib=fits.resident_bytes >> 20,
        )
        if fits.slots < settings.max_streams:
            _log.warning(
                f"memory suffices for {fits.slots} of engine.max_streams = {settings.max_streams} "
                "streams: for all of them set engine.max_memory_mib to "
                f"{-(-fits.all_streams_bytes >> 20)}, or lower engine.context_tokens",
                model=self._base.model.name,
            )
        program = resident_bytes()
        cache = KvCache(shape, fits.slots, fits.capacity, dtype)
        weights = serving_weights(self._base)
        decoder = DecoderModel(
            weights, shape, cache, dtype, choice.kernels, lane_bytes=fits.lane_bytes
        )
        self._pool = AdapterPool(
            self._base,
            choice.adapter_dtype,
            max_resident=fits.resident_adapters,
            max_bytes=fits.resident_bytes,
            max_lane_bytes=fits.lane_bytes,
        )
        self._engine_loop = EngineLoop(decoder, self._pool, settings, self._deliver)
        # Computed here in a thread, because the first stream would wait for it.
        _ = self._base.tokenizer.token_bytes
        return_freed()
        return_libraries()
        if program:
            _log.info(
                f"the node uses at most about {(program + budget) >> 20} MiB: {budget >> 20} for "
                f"weights, caches and adapters (engine.max_memory_mib), {program >> 20} for the "
                "program and its libraries, which no setting lowers",
                model=self._base.model.name,
            )

    @property
    def model(self) -> BaseModel:
        """The base model; its context is that of a slot here, perhaps less than the model's own."""
        return self._model

    def render(self, messages: Sequence[Mapping[str, str]], so_far: str = "") -> tuple[int, ...]:
        """Return the prompt token ids of a chat by the base model's template."""
        return self._base.tokenizer.render(messages, so_far)

    def encode(self, text: str) -> tuple[int, ...]:
        return self._base.tokenizer.encode(text)

    def count_tokens(self, text: str) -> int:
        return self._base.tokenizer.count(text)

    async def add_adapter(self, adapter_id: AdapterId, weights: Path) -> None:
        """Check an adapter file and make the adapter usable; raise InvalidAdapterFile."""
        check_adapter_id(adapter_id)
        await self._loop.run_in_executor(self._files, self._pool.register, adapter_id, weights)

    async def remove_adapter(self, adapter_id: AdapterId) -> None:
        """Remove the adapter; sequences that already run with it finish. Idempotent."""
        self._pool.remove(adapter_id)

    def adapters(self) -> frozenset[AdapterId]:
        return self._pool.registered()

    async def generate(self, request: GenerationRequest) -> Generation:
        """Admit the request; it starts when the caller next yields to the event loop.

        So an ``allow`` called right after this applies from the first token on.
        Raises PromptEmpty, PromptTooLong, InvalidRequest, UnknownAdapter, EngineOverloaded.
        """
        check_request(request, self._model, self._pool.registered())
        if self._closed or len(self._open) >= self._slots + self._settings.max_waiting:
            raise EngineOverloaded("the engine is full: try again shortly")
        state = StreamState(self._engine_loop.wake)
        sequence = Running(
            request,
            state,
            self._base,
            context_tokens=self._model.context_tokens,
            buffer_tokens=self._settings.buffer_tokens,
        )
        self._open.add(state)
        self._loop.call_soon(self._engine_loop.submit, sequence)
        stream = Stream(state)
        # A stream that its caller dropped without cancelling must not keep its slot.
        weakref.finalize(stream, state.abandon)
        return stream

    def stats(self) -> Mapping[str, float]:
        """Return counters and gauges by name."""
        return {
            **self._engine_loop.gauges(),
            **{name: float(value) for name, value in self._engine_loop.counts.items()},
            "slots": self._slots,
            "open": len(self._open),
            "adapters": len(self._pool.registered()),
            "resident_adapters": self._pool.resident_count,
            "resident_adapter_bytes": self._pool.held_bytes,
            "adapter_loads": self._pool.loads,
            "adapter_evictions": self._pool.evictions,
            f"compute_{self._compute}": 1.0,
        }

    async def close(self) -> None:
        """Cancel running sequences and stop the threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._engine_loop.close)
        await asyncio.to_thread(self._pool.close)
        await asyncio.to_thread(self._files.shutdown)
        for state in self._open:
            state.fail(EngineError("the engine was closed"))
        self._open.clear()

    def _deliver(self, delivery: PieceBatch) -> None:
        """Hand pieces to the event loop. Called on the generation thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._dispatch, delivery)

    def _dispatch(self, delivery: PieceBatch) -> None:
        for state, news in delivery:
            if isinstance(news, Piece):
                state.put(news)
            elif isinstance(news, EngineError):
                state.fail(news)
            if state.is_ended:
                self._open.discard(state)
