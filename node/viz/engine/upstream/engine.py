"""Implement the Engine Protocol over other servers: admission here, computation there.

Owns start and stop, admission, the registered adapters and the set of servers. Invariants: at most
``max_streams + max_waiting`` sequences are open; a refused request leaves no state behind; the node
keeps running when servers come and go.
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog

from viz.basemodel.nf4 import serving_weights
from viz.basemodel.source import LoadedBase
from viz.domain.ports.engine import BaseModel, Generation, GenerationRequest
from viz.domain.units import AdapterId
from viz.engine.request_checks import check_adapter_id, check_request
from viz.engine.sequence import TokenSequence
from viz.engine.stream import Stream
from viz.engine.upstream.generation import UpstreamSequence
from viz.engine.upstream.peft_folder import PeftFolder, SharedAdapter
from viz.engine.upstream.placement import place
from viz.engine.upstream.reference import ReferenceValues
from viz.engine.upstream.replica import Replica, ReplicaState
from viz.engine.upstream.server import ModelServer
from viz.engine.upstream.settings import UpstreamSettings
from viz.errors import EngineError, EngineOverloaded

RETURN_LOOK_S: Final = 0.1
# How long the start waits for servers that are already up.
FIRST_LOOK_S: Final = 120.0
SALT_BYTES: Final = 32
_log = structlog.get_logger()


class UpstreamEngine:
    """Implements ``viz.domain.ports.engine.Engine`` over servers; create it with ``start``."""

    def __init__(self, base: LoadedBase, settings: UpstreamSettings) -> None:
        self._base, self._settings = base, settings
        context = min(settings.context_tokens, base.model.context_tokens)
        self._model = replace(base.model, context_tokens=context, arithmetic=settings.arithmetic)
        self._files = ThreadPoolExecutor(1, thread_name_prefix="viz-adapter-check")
        self._folder = PeftFolder(settings.folder, settings.server_folder, base, settings.max_rank)
        self._values = ReferenceValues(base)
        self._neutral = self._folder.put_neutral(self._values.folder / "neutral.safetensors")
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._replicas = [self._replica(url, context) for url in settings.urls]
        self._adapters: dict[AdapterId, SharedAdapter] = {}
        self._open: dict[asyncio.Task[None], UpstreamSequence] = {}
        self._watches: list[asyncio.Task[None]] = []
        self._background: set[asyncio.Task[None]] = set()
        self._counts: Counter[str] = Counter()
        self._closed = False

    @classmethod
    async def start(cls, base: LoadedBase, settings: UpstreamSettings) -> UpstreamEngine:
        """Check every server once, and start to watch them; servers may also come up later.

        Takes seconds, or minutes if the base model's own canary is computed for the first time.
        Raises ModelUnavailable.
        """
        # This checks the serving weights, from which the expected values are computed.
        await asyncio.to_thread(serving_weights, base)
        _ = base.tokenizer.token_bytes
        engine = cls(base, settings)
        looks = [asyncio.create_task(each.look()) for each in engine._replicas]
        try:
            await asyncio.wait(looks, timeout=FIRST_LOOK_S)
        finally:
            for look in looks:
                look.cancel()
        engine._watches = [asyncio.create_task(each.watch()) for each in engine._replicas]
        for each in engine._replicas:
            _log.info(
                "engine server",
                model=base.model.name,
                server=each.url,
                state=each.state.value,
                reason=each.reason,
            )
        return engine

    def _replica(self, url: str, context_tokens: int) -> Replica:
        server = ModelServer(
            self._http,
            url,
            timeout_s=self._settings.timeout_s,
            vocabulary=self._model.vocabulary,
            api_key=self._settings.api_key,
        )
        return Replica(
            url,
            server,
            self._settings,
            self._values,
            neutral=self._neutral,
            context_tokens=context_tokens,
        )

    @property
    def model(self) -> BaseModel:
        """The base model; the settings may limit its context."""
        return self._model

    @property
    def replicas(self) -> Sequence[Replica]:
        """The servers, in the order of the settings."""
        return self._replicas

    def render(self, messages: Sequence[Mapping[str, str]], so_far: str = "") -> tuple[int, ...]:
        """Return the prompt token ids of a chat by the base model's template."""
        return self._base.tokenizer.render(messages, so_far)

    def encode(self, text: str) -> tuple[int, ...]:
        return self._base.tokenizer.encode(text)

    def count_tokens(self, text: str) -> int:
        return self._base.tokenizer.count(text)

    async def add_adapter(self, adapter_id: AdapterId, weights: Path) -> None:
        """Check an adapter file and write it to the servers' folder; raise InvalidAdapterFile.

        A server loads it at the first request for it.
        """
        check_adapter_id(adapter_id)
        loop = asyncio.get_running_loop()
        shared = await loop.run_in_executor(self._files, self._folder.put, adapter_id, weights)
        before = self._adapters.get(adapter_id)
        self._adapters[adapter_id] = shared
        if before is not None and before.name != shared.name:
            self._later(self._forget(before))
        # Computed now, so that the first buyer does not wait for it.
        self._later(self._expect(shared))

    async def remove_adapter(self, adapter_id: AdapterId) -> None:
        """Remove the adapter; sequences that already run with it finish. Idempotent."""
        shared = self._adapters.pop(adapter_id, None)
        if shared is not None:
            self._later(self._forget(shared))

    def adapters(self) -> frozenset[AdapterId]:
        return frozenset(self._adapters)

    async def generate(self, request: GenerationRequest) -> Generation:
        """Admit the request; it starts when the caller next yields to the event loop.

        So an ``allow`` called right after this applies from the first token on.
        Raises PromptEmpty, PromptTooLong, InvalidRequest, UnknownAdapter, EngineOverloaded.
        """
        check_request(request, self._model, self._adapters)
        adapter = self._adapters.get(request.adapter_id, self._neutral)
        if self._closed or self._open_count() >= self._most_open:
            raise EngineOverloaded("the engine is full: try again shortly")
        if place(self._replicas, adapter.name) is None:
            raise self._none(adapter)
        upstream = UpstreamSequence(request, adapter, self, self._settings, self._salt(request))
        upstream.sequence = TokenSequence(
            request,
            upstream.state,
            self._base,
            context_tokens=self._model.context_tokens,
            buffer_tokens=self._settings.buffer_tokens,
        )
        task = asyncio.create_task(upstream.run())
        self._open[task] = upstream
        task.add_done_callback(self._ended)
        stream = Stream(upstream.state)
        # A stream that was dropped without being cancelled must not keep a server busy.
        weakref.finalize(stream, upstream.state.abandon)
        return stream

    def stats(self) -> Mapping[str, float]:
        """Return counters and gauges by name."""
        totals: Counter[str] = Counter()
        for each in self._replicas:
            totals.update(each.counts)
        states = Counter(each.state for each in self._replicas)
        names = ("generated_tokens", "received_tokens", "failovers")
        loads = ("adapter_loads", "adapter_evictions", "canaries", "canary_mismatches")
        return {
            "running": float(sum(each.running for each in self._replicas)),
            "open": float(self._open_count()),
            "adapters": float(len(self._adapters)),
            "resident_adapters": float(sum(each.loaded_count for each in self._replicas)),
            "servers": float(len(self._replicas)),
            **{f"servers_{state.value}": float(states[state]) for state in ReplicaState},
            **{name: float(self._counts[name]) for name in names},
            **{name: float(totals[name]) for name in loads},
        }

    async def close(self) -> None:
        """Cancel running sequences and stop watching the servers. Idempotent."""
        if self._closed:
            return
        self._closed = True
        tasks = [*self._open, *self._watches, *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._values.close()
        await self._http.close()
        await asyncio.to_thread(self._files.shutdown)

    # what a sequence needs

    async def pick(self, adapter: SharedAdapter, avoid: set[Replica]) -> Replica:
        """Return the server for a segment; wait briefly if there is none. Raises EngineError."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._settings.return_s
        while (found := place(self._replicas, adapter.name, avoid)) is None:
            if loop.time() >= until_s or self._refusal(adapter) is not None:
                raise self._none(adapter)
            await asyncio.sleep(RETURN_LOOK_S)
        return found

    def count(self, name: str, more: int = 1) -> None:
        """Add to one of the engine's counters."""
        self._counts[name] += more

    # helpers

    @property
    def _most_open(self) -> int:
        return self._settings.max_streams + self._settings.max_waiting

    def _open_count(self) -> int:
        return sum(1 for each in self._open.values() if not each.state.is_ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        upstream = self._open.pop(task)
        upstream.state.fail(EngineError("the engine was closed"))  # if it had not begun

    def _salt(self, request: GenerationRequest) -> str:
        """Return the salt of the prefix cache for this request.

        Requests with the same reuse key share it; without a key only the choices of one answer do.
        So no buyer can learn from the time to the first token what another buyer asked.
        """
        if request.reuse_key:
            return request.reuse_key
        for each in self._open.values():
            if each.request.prompt is request.prompt and not each.state.is_ended:
                return each.salt
        return secrets.token_urlsafe(SALT_BYTES)

    def _refusal(self, adapter: SharedAdapter) -> str | None:
        """Return why no server can serve the adapter; None if one of them may."""
        reasons = [each.refusal(adapter.name) for each in self._replicas]
        return reasons[0] if all(reasons) else None

    def _none(self, adapter: SharedAdapter) -> EngineError:
        if (reason := self._refusal(adapter)) is not None:
            _log.error("no server serves an adapter", adapter=adapter.name, reason=reason)
            return EngineError(
                f"adapter {adapter.adapter_id} cannot be served here: no server can compute it"
            )
        return EngineOverloaded("no server of this model answers now: try again shortly")

    async def _expect(self, shared: SharedAdapter) -> None:
        try:
            await self._values.of(shared)
        except EngineError as error:
            _log.warning("adapter without a canary", adapter=shared.name, reason=str(error))

    async def _forget(self, shared: SharedAdapter) -> None:
        users = [task for task, each in self._open.items() if each.adapter.name == shared.name]
        if users:
            await asyncio.wait(users)
        if shared in self._adapters.values():
            return  # added again meanwhile
        for each in self._replicas:
            await each.forget(shared.name)
        self._values.forget(shared.name)
        await asyncio.to_thread(self._folder.remove, shared)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
