"""Look after one server: whether it may be used, which adapters it has, and what its canaries said.

Owns the server's state, the adapters that this node loaded into it, and their eviction. Invariants:

- An adapter serves nobody before its canary was right on this server after it was loaded there.
- At most ``max_adapters`` are loaded; one in use is never unloaded.
- A server whose canary was wrong answers nobody until it was started again, and what it was
  answering ends with an error.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final

import structlog

from viz.engine.upstream.canary import mismatch
from viz.engine.upstream.peft_folder import SharedAdapter
from viz.engine.upstream.reference import BASE, ReferenceValues
from viz.engine.upstream.server import (
    AdapterLost,
    ModelServer,
    ServerBusy,
    ServerFault,
    ServerRefused,
)
from viz.engine.upstream.settings import UpstreamSettings
from viz.errors import EngineError

_log = structlog.get_logger()
OURS: Final = "viz-"
# A server is looked at this much less often while it answers.
_CALM: Final = 3


class ReplicaState(Enum):
    """Whether a server may be used."""

    DOWN = "down"
    """It has not answered yet, or stopped answering."""
    READY = "ready"
    OUT = "out"
    """It answered, and computes something else than it should, or cannot be used as it is set."""


class Replica:
    """One server of a base model."""

    def __init__(
        self,
        url: str,
        server: ModelServer,
        settings: UpstreamSettings,
        values: ReferenceValues,
        context_tokens: int,
    ) -> None:
        self.url = url
        self.server = server
        self._settings, self._values = settings, values
        self._context_tokens = context_tokens
        self.state = ReplicaState.DOWN
        self.reason = "it has not answered yet"
        self.base_name = ""
        self.running = 0
        self.counts: Counter[str] = Counter()
        self._loaded: OrderedDict[str, SharedAdapter] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._refused: dict[str, str] = {}
        # Called when the server is taken out, one for each request that runs on it.
        self._cut: set[Callable[[], None]] = set()
        self._loading = asyncio.Lock()
        self._look = asyncio.Event()

    # what placement reads

    @property
    def ready(self) -> bool:
        return self.state is ReplicaState.READY

    def has(self, adapter: str) -> bool:
        return adapter in self._loaded

    def refuses(self, adapter: str) -> bool:
        return adapter in self._refused

    def refusal(self, adapter: str) -> str | None:
        """Return why this server cannot serve the adapter; None if it can."""
        return self._refused.get(adapter)

    @property
    def loaded_count(self) -> int:
        return len(self._loaded)

    # one request

    @asynccontextmanager
    async def use(
        self, adapter: SharedAdapter | None, cut: Callable[[], None]
    ) -> AsyncIterator[str]:
        """Hold the adapter on the server, and yield the name to ask for; load it first if needed.

        ``cut`` is called if the server is taken out meanwhile. Raises ServerFault, EngineError.
        """
        name = self.base_name if adapter is None else adapter.name
        self.running += 1
        self._users[name] += 1
        self._cut.add(cut)
        try:
            if adapter is not None:
                await self._ensure(adapter)
            yield name
        finally:
            self._cut.discard(cut)
            self.running -= 1
            self._users[name] -= 1

    async def _ensure(self, adapter: SharedAdapter) -> None:
        if adapter.name in self._loaded:
            self._loaded.move_to_end(adapter.name)
            return
        async with self._loading:
            if adapter.name in self._loaded:
                return
            if not self.ready:
                raise ServerBusy(self.reason)
            await self._values.of(adapter)
            await self._make_room()
            try:
                await self.server.load(adapter.name, adapter.server_path)
            except ServerRefused as error:
                self._refuse(adapter, f"the server refused to load it: {error}")
            self.counts["adapter_loads"] += 1
            wrong = await self._asked(adapter.name)
            if wrong is not None:
                await self._judge_load(adapter, wrong)
            self._loaded[adapter.name] = adapter

    async def _make_room(self) -> None:
        while len(self._loaded) >= self._settings.max_adapters:
            idle = next((name for name in self._loaded if not self._users[name]), None)
            if idle is None:
                raise ServerBusy("all adapters that it may hold are in use")
            del self._loaded[idle]
            self.counts["adapter_evictions"] += 1
            await self.server.unload(idle)

    async def _judge_load(self, adapter: SharedAdapter, wrong: str) -> None:
        """Say whose fault a wrong answer after a load is. Raises ServerFault or ServerRefused.

        If all else on the server is right, this server cannot compute this adapter, and only that
        is refused. If not, the server is taken out.
        """
        self.counts["canary_mismatches"] += 1
        for name in (BASE, *self._loaded):
            if (other := await self._asked(name)) is not None:
                self.take_out(f"{name} {other}")
                raise ServerBusy(self.reason)
        await self.server.unload(adapter.name)
        self._refuse(adapter, f"the server's answer with it {wrong}")

    def _refuse(self, adapter: SharedAdapter, reason: str) -> None:
        self._refused[adapter.name] = reason
        _log.error("an adapter is refused", server=self.url, adapter=adapter.name, reason=reason)
        raise ServerRefused(reason)

    # canaries

    async def _asked(self, name: str) -> str | None:
        """Ask the canary of the base or of a loaded adapter; return what is wrong, or None."""
        if name not in self._values.known:
            return None  # removed meanwhile
        self.counts["canaries"] += 1
        model = self.base_name if name == BASE else name
        measured = await self.server.prompt_logprobs(model, self._values.prompt)
        return mismatch(measured, name, self._values.known, self._settings.margin)

    async def ask_all(self) -> None:
        """Ask the canaries of all that is loaded; a wrong answer takes the server out."""
        for name in (BASE, *self._loaded):
            try:
                wrong = await self._asked(name)
            except AdapterLost:
                self._loaded.pop(name, None)
                continue
            except ServerFault as error:
                self.fail(str(error))
                return
            if wrong is not None and (name == BASE or name in self._loaded):
                self.counts["canary_mismatches"] += 1
                self.take_out(f"{name} {wrong}")
                return

    def take_out(self, reason: str) -> None:
        """Use the server no more until it was started again, and end what it is answering."""
        self.state, self.reason = ReplicaState.OUT, reason
        _log.error(
            "a server is taken out: it computes something else",
            server=self.url,
            reason=reason,
            remedy="start it again, from the folder that `viz base export` wrote",
        )
        for cut in list(self._cut):
            cut()

    # health

    def fail(self, reason: str) -> None:
        """Stop using the server until it answers again."""
        if self.ready:
            _log.warning("a server does not answer", server=self.url, reason=reason)
            self.state, self.reason = ReplicaState.DOWN, reason
            self._look.set()

    def lose(self, adapter: SharedAdapter | None) -> None:
        """Note that the server lost an adapter; it is loaded again when needed."""
        if adapter is None:
            self.fail("it does not know its base model any more")
        elif self._loaded.pop(adapter.name, None) is not None:
            _log.warning("a server lost an adapter", server=self.url, adapter=adapter.name)

    async def forget(self, name: str) -> None:
        """Unload an adapter that is not served any more."""
        self._refused.pop(name, None)
        if self._loaded.pop(name, None) is not None and self.ready:
            try:
                await self.server.unload(name)
            except ServerFault as error:
                self.fail(str(error))

    async def watch(self) -> None:
        """Look at the server again and again, until cancelled; ask the canaries when it is time."""
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        while True:
            await self.look()
            if self.ready and loop.time() - asked_s >= self._settings.canary_interval_s:
                await self.ask_all()
                asked_s = loop.time()
            self._look.clear()
            pause = self._settings.watch_s * (_CALM if self.ready else 1)
            pause = min(pause, self._settings.canary_interval_s)
            try:
                async with asyncio.timeout(pause):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Ask the server what it has; begin to use it, or stop using it, by what it says."""
        # What is loaded while the server answers need not be in its answer yet.
        before = list(self._loaded.values())
        try:
            models = await self.server.models()
        except ServerFault as error:
            self.fail(str(error))
            self.state, self.reason = ReplicaState.DOWN, str(error)
            return
        listed = {each.name for each in models}
        if self.ready:
            for adapter in before:
                if adapter.name not in listed:
                    self.lose(adapter)
            return
        if self.state is ReplicaState.OUT and self._loaded and listed & set(self._loaded):
            return  # the same process as before: its adapters are still there
        bases = [each for each in models if each.parent is None]
        if len(bases) != 1:
            self._unfit(f"it lists {len(bases)} base models; one server serves one")
            return
        context = bases[0].context_tokens
        if context is not None and context < self._context_tokens:
            self._unfit(
                f"it takes {context} tokens and engine.context_tokens is {self._context_tokens}: "
                "raise its --max-model-len, or lower the setting"
            )
            return
        self.base_name = bases[0].name
        if not set(self._loaded) <= listed:  # another process than before
            self._loaded.clear()
            self._refused.clear()
        await self._begin([name for name in listed - set(self._loaded) if name.startswith(OURS)])

    async def _begin(self, strays: list[str]) -> None:
        """Begin to use the server, if it computes what it should; unload adapters of others."""
        try:
            for name in strays:
                await self.server.unload(name)
            await self._values.of(None)
            for name in (BASE, *self._loaded):
                if (wrong := await self._asked(name)) is not None:
                    self.counts["canary_mismatches"] += 1
                    reason = f"{name} {wrong}"
                    if self.state is not ReplicaState.OUT or self.reason != reason:
                        self.take_out(reason)
                    return
        except (ServerFault, EngineError) as error:
            self.state, self.reason = ReplicaState.DOWN, str(error)
            return
        self.state, self.reason = ReplicaState.READY, ""
        _log.info("a server is used", server=self.url, model=self.base_name)

    def _unfit(self, reason: str) -> None:
        if self.reason != reason:
            _log.error("a server cannot be used", server=self.url, reason=reason)
        self.state, self.reason = ReplicaState.OUT, reason
