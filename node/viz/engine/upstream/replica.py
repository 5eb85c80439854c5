"""Manage one server: whether it may be used, which adapters it has loaded, and its canaries.

Owns the server's state, the adapters that this node loaded into it, and their eviction. Invariants:

- An adapter is used only after its canary was right on this server, each time after it was loaded.
- At most ``max_adapters`` are loaded; an adapter in use is never unloaded.
- Requests for the base model use a neutral adapter, which adds nothing: some servers give a row
  without an adapter the adapter of another row (vLLM 0.32 on CPUs uses the last one it holds).
- A server with a wrong canary is not used until it was restarted, and its running requests end with
  an error.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from enum import Enum
from typing import Final

import structlog

from viz.domain.ports.engine import Sampling
from viz.engine.sequence import SampledToken
from viz.engine.upstream.canary import ASKED, Candidates, beginnings, distance, mismatch
from viz.engine.upstream.peft_folder import SharedAdapter
from viz.engine.upstream.reference import ReferenceValues
from viz.engine.upstream.server import (
    AdapterLost,
    ModelServer,
    SegmentRequest,
    ServerBusy,
    ServerFault,
    ServerRefused,
)
from viz.engine.upstream.settings import UpstreamSettings
from viz.errors import EngineError

_log = structlog.get_logger()
OURS: Final = "viz-"
# How many other adapters run beside a canary, and how many tokens it decodes.
COMPANY: Final = 3
DECODED_TOKENS: Final = 4
# While a server answers, it is checked this many times less often.
_CALM: Final = 3


class ReplicaState(Enum):
    """Whether a server may be used."""

    DOWN = "down"
    """It has not answered yet, or has stopped answering."""
    READY = "ready"
    OUT = "out"
    """It answers, but computes a wrong model, or its settings make it unusable."""


class Replica:
    """One server of a base model."""

    def __init__(
        self,
        url: str,
        server: ModelServer,
        settings: UpstreamSettings,
        values: ReferenceValues,
        *,
        neutral: SharedAdapter,
        context_tokens: int,
    ) -> None:
        self.url = url
        self.server = server
        self._settings, self._values = settings, values
        self._neutral = neutral
        self._context_tokens = context_tokens
        self.state = ReplicaState.DOWN
        self.reason = "it has not answered yet"
        self.running = 0
        self.counts: Counter[str] = Counter()
        self._loaded: OrderedDict[str, SharedAdapter] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._refused: dict[str, str] = {}
        # One callback for each running request, called when the server is taken out of use.
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
    async def use(self, adapter: SharedAdapter, cut: Callable[[], None]) -> AsyncIterator[str]:
        """Keep the adapter loaded and yield its name on the server; load it first if necessary.

        ``cut`` is called if the server is taken out meanwhile. Raises ServerFault, EngineError.
        """
        name = adapter.name
        self.running += 1
        self._users[name] += 1
        self._cut.add(cut)
        try:
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
            await self._judge_load(adapter)
            self._loaded[adapter.name] = adapter

    async def _make_room(self) -> None:
        while len(self._loaded) >= max(self._settings.max_adapters, 2):
            kept = self._neutral.name
            idle = next((n for n in self._loaded if n != kept and not self._users[n]), None)
            if idle is None:
                raise ServerBusy("all adapters that it may hold are in use")
            del self._loaded[idle]
            self.counts["adapter_evictions"] += 1
            await self.server.unload(idle)

    async def _judge_load(self, adapter: SharedAdapter) -> None:
        """Ask the canary of a newly loaded adapter, together with some that were right before.

        Raises ServerRefused if only this adapter is wrong. If others are wrong too, takes the
        server out of use and raises ServerBusy.
        """
        company = list(reversed(self._loaded))[:COMPANY]
        wrong = await self._asked([adapter.name, *company])
        if not wrong:
            return
        if wrong.keys() != {adapter.name}:
            name = next(name for name in wrong if name != adapter.name)
            self.take_out(f"{name} {wrong[name]}")
            raise ServerBusy(self.reason)
        await self.server.unload(adapter.name)
        self._refuse(adapter, f"the server's answer with it {wrong[adapter.name]}")

    def _refuse(self, adapter: SharedAdapter, reason: str) -> None:
        self._refused[adapter.name] = reason
        _log.error("an adapter is refused", server=self.url, adapter=adapter.name, reason=reason)
        raise ServerRefused(reason)

    # canaries

    async def _asked(self, names: Sequence[str]) -> dict[str, str]:
        """Ask the canaries of loaded adapters at the same time; return the faults by name.

        After the longest prefix the server generates some tokens, so that it decodes rows of
        several adapters in one batch, which is where servers confuse adapters. Its values for the
        last token are then compared with its values for the same token in a prompt.
        """
        names = [name for name in names if name in self._values.known]
        self.counts["canaries"] += len(names)
        found = await asyncio.gather(*map(self._measured, names))
        wrong: dict[str, str] = {}
        for name, (measured, apart) in zip(names, found, strict=True):
            expected = self._values.known
            if name not in expected:
                continue  # removed meanwhile
            reason = mismatch(measured, name, expected, self._settings.margin)
            if reason is None and apart > self._settings.margin:
                reason = f"decodes {apart:.3f} nats away from its own pass over the prompt"
            if reason is not None:
                self.counts["canary_mismatches"] += 1
                wrong[name] = reason
        return wrong

    async def _measured(self, name: str) -> tuple[Sequence[Candidates], float]:
        """Return the candidates after each prefix, and decoding's distance from them, in nats."""
        *short, whole = beginnings(self._values.prompt)
        *first, decoded = await asyncio.gather(
            *(self._likeliest(name, each, 1) for each in short),
            self._likeliest(name, whole, DECODED_TOKENS),
        )
        measured = [dict(row[0].top) if row else {} for row in (*first, decoded)]
        if len(decoded) < 2:
            return measured, 0.0
        again = await self._likeliest(
            name, (*whole, *(token.token_id for token in decoded[:-1])), 1
        )
        said = [dict(decoded[-1].top)]
        return measured, distance(said, [dict(again[0].top) if again else {}])

    async def _likeliest(self, name: str, prompt: Sequence[int], tokens: int) -> list[SampledToken]:
        """Return the tokens that the server generates greedily, with their candidates."""
        asked = SegmentRequest(
            model=name,
            prompt=prompt,
            max_tokens=tokens,
            sampling=Sampling(tokens, logprobs=ASKED),
            seed=None,
            end_ids=(),
            salt=secrets.token_urlsafe(32),
        )
        found: list[SampledToken] = []
        async with aclosing(self.server.complete(asked)) as arriving:
            async for arrived in arriving:
                found += arrived.tokens
        return found

    async def ask_all(self) -> None:
        """Ask the canaries of all loaded adapters; a wrong answer takes the server out of use."""
        names = list(self._loaded)
        for start in range(0, len(names), 1 + COMPANY):
            batch = [name for name in names[start : start + 1 + COMPANY] if name in self._loaded]
            try:
                wrong = await self._asked(batch)
            except AdapterLost:
                self.fail("it lost an adapter")
                return
            except ServerFault as error:
                self.fail(str(error))
                return
            if wrong:
                name, reason = next(iter(wrong.items()))
                self.take_out(f"{name} {reason}")
                return

    def take_out(self, reason: str) -> None:
        """Stop using the server until it was restarted, and end its running requests."""
        self.state, self.reason = ReplicaState.OUT, reason
        _log.error(
            "a server is taken out of use: it computes a wrong model",
            server=self.url,
            reason=reason,
            remedy="restart it with the folder that `viz base export` wrote",
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

    def lose(self, adapter: SharedAdapter) -> None:
        """Record that the server lost an adapter; it is loaded again when needed."""
        if self._loaded.pop(adapter.name, None) is not None:
            _log.warning("a server lost an adapter", server=self.url, adapter=adapter.name)

    async def forget(self, name: str) -> None:
        """Unload an adapter that is no longer served."""
        self._refused.pop(name, None)
        if self._loaded.pop(name, None) is not None and self.ready:
            try:
                await self.server.unload(name)
            except ServerFault as error:
                self.fail(str(error))

    async def watch(self) -> None:
        """Check the server periodically until cancelled; ask the canaries when they are due."""
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
        """Ask the server for its models; start or stop using it, depending on the answer."""
        # An adapter loaded during this request may be missing in the answer.
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
        if self.state is ReplicaState.OUT and listed & set(self._loaded):
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
        if not set(self._loaded) <= listed:  # another process than before
            self._loaded.clear()
            self._refused.clear()
        await self._begin([name for name in listed - set(self._loaded) if name.startswith(OURS)])

    async def _begin(self, strays: list[str]) -> None:
        """Start to use the server if its canaries are right; unload adapters that are not ours."""
        try:
            for name in strays:
                await self.server.unload(name)
            await self._values.of(self._neutral)
            if self._neutral.name not in self._loaded:
                await self.server.load(self._neutral.name, self._neutral.server_path)
                self._loaded[self._neutral.name] = self._neutral
            wrong = await self._asked(list(self._loaded))
        except (ServerFault, EngineError) as error:
            self._loaded.pop(self._neutral.name, None)
            if isinstance(error, ServerRefused):
                self._unfit(str(error))
            else:
                self.state, self.reason = ReplicaState.DOWN, str(error)
            return
        if wrong:
            name, said = next(iter(wrong.items()))
            reason = f"{name} {said}"
            if self.state is not ReplicaState.OUT or self.reason != reason:
                self.take_out(reason)
            return
        self.state, self.reason = ReplicaState.READY, ""
        _log.info("a server is used", server=self.url)

    def _unfit(self, reason: str) -> None:
        if self.reason != reason:
            _log.error("a server cannot be used", server=self.url, reason=reason)
        self.state, self.reason = ReplicaState.OUT, reason
