"""Start the engines that the settings name, one for each base model.

Owns which class stands behind the engine's Protocol, the part of the memory that each engine gets,
and the name of the entry in an error. Invariants: a base model is loaded only if its digest is
accepted; all engines start, or none: a base that cannot be served stops the start and is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Final

import structlog

from viz.basemodel.preparation import ReportProgress, prepared_base
from viz.basemodel.source import DEFAULT_BASE_DIGEST, LoadedBase, models_folder
from viz.domain.engines import Engines, require_distinct
from viz.domain.ports.engine import DEFAULT_BASE, Engine
from viz.domain.pricing import Price
from viz.domain.units import Hash32
from viz.engine.embedded.settings import EngineSettings
from viz.engine.upstream.settings import UpstreamSettings
from viz.errors import ConfigError, VizError
from viz.protocol.messages import ADAPTER_MODEL_PREFIX, MAX_BASE_NAME_CHARS, is_base_name
from viz.settings.config import Config
from viz.settings.engine_config import EngineConfig
from viz.settings.secret import secret

_NONE: Final = "none"
# Stands for the price in the section [prices].
_USUAL: Final = "prices"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the settings whose base model is to be served; ``place`` counts from 1."""

    place: int
    settings: EngineConfig


async def start_engines(config: Config, report: ReportProgress, ends: AsyncExitStack) -> Engines:
    """Start an engine for each entry that is not "none", and have ``ends`` close it.

    All base models are loaded and compared before the first engine starts. ``report`` is called as
    ``prepared_base`` does, for one base after the other. Raises ConfigError, ModelUnavailable.
    """
    entries = _served(config)
    bases: list[LoadedBase] = []
    for entry in entries:
        with _naming(entry, config):
            bases.append(_named(await accepted_base(config, entry.settings, report), entry))
    require_distinct(base.model for base in bases)
    memory = _memory_bytes(entries)
    engines: list[Engine] = []
    for entry, base in zip(entries, bases, strict=True):
        with _naming(entry, config):
            engine = await _started(config, entry.settings, base, memory.get(entry.place, 0))
        ends.push_async_callback(engine.close)
        engines.append(engine)
    return Engines(engines)


async def accepted_base(
    config: Config, engine: EngineConfig, report: ReportProgress = lambda done: None
) -> LoadedBase:
    """Return the base model that the operator accepts; raise ModelUnavailable for another."""
    return await prepared_base(
        engine.base_model,
        cache_dir=models_folder(config.data_dir),
        allowed=_accepted_digests(engine),
        report=report,
    )


def base_prices(config: Config) -> Mapping[Hash32, Price]:
    """Return the list price of each base model whose entry names one."""
    usual, found = config.prices, dict[Hash32, Price]()
    for entry in config.engines:
        prompt, completion = entry.prompt_units_per_million, entry.completion_units_per_million
        if (prompt, completion) == (_USUAL, _USUAL):
            continue
        price = Price(
            usual.prompt_units_per_million if prompt == _USUAL else prompt,
            usual.completion_units_per_million if completion == _USUAL else completion,
        )
        found |= dict.fromkeys(_accepted_digests(entry), price)
    return found


def _accepted_digests(engine: EngineConfig) -> frozenset[Hash32]:
    """Return the digest that an entry's base model must have; nothing if none is accepted."""
    pinned = engine.base_digest
    if not pinned and engine.base_model == DEFAULT_BASE:
        pinned = DEFAULT_BASE_DIGEST
    return frozenset({Hash32(bytes.fromhex(pinned.removeprefix("0x")))} if pinned else ())


def _served(config: Config) -> Sequence[_Entry]:
    """Return the entries to serve; log those that are switched off beside others."""
    entries = [_Entry(place, each) for place, each in enumerate(config.engines, 1)]
    for entry in entries:
        if entry.settings.backend == _NONE and len(entries) > 1:
            _log.info("a base model is switched off", base_model=entry.settings.base_model)
    return [each for each in entries if each.settings.backend != _NONE]


@contextmanager
def _naming(entry: _Entry, config: Config) -> Iterator[None]:
    """Add to an error which of several entries it is about."""
    try:
        yield
    except VizError as error:
        if len(config.engines) == 1:
            raise
        where = f"[[engine]] entry {entry.place} ({entry.settings.base_model})"
        raise type(error)(
            f'{where}: {error.detail}. To start without it, set its backend to "none"',
            **error.extensions,
        ) from error


def _named(base: LoadedBase, entry: _Entry) -> LoadedBase:
    """Return the base model with the name under which it is sold."""
    name = entry.settings.name or base.model.name
    if not is_base_name(name):
        raise ConfigError(
            f"{name[:80]!a} is no name for a base model: set engine.name to another, of at most "
            f"{MAX_BASE_NAME_CHARS} printable ASCII characters without @ and outer blanks, that "
            f"does not begin with {ADAPTER_MODEL_PREFIX}"
        )
    return replace(base, model=replace(base.model, name=name))


def _memory_bytes(entries: Sequence[_Entry]) -> Mapping[int, int]:
    """Return the bytes of each embedded engine, by its entry's place, if there are several.

    What the entries' own ``max_memory_mib`` leave of 60 % of the free memory is divided equally
    among the others. A single engine measures that itself.
    """
    embedded = [each for each in entries if each.settings.backend == "embedded"]
    if len(embedded) < 2:
        return {}
    from viz.engine.embedded.memory_plan import usual_bytes

    unbounded = [each.place for each in embedded if not each.settings.max_memory_mib]
    left = usual_bytes() - sum(each.settings.max_memory_mib << 20 for each in embedded)
    # At least one byte: 0 would mean that the engine measures what is free itself.
    return {place: max(1, left // len(unbounded)) for place in unbounded}


async def _started(
    config: Config, engine: EngineConfig, base: LoadedBase, memory_bytes: int
) -> Engine:
    # Libraries that the core install lacks are imported only if they are used.
    if engine.backend == "upstream":
        from viz.engine.upstream.engine import UpstreamEngine

        return await UpstreamEngine.start(base, _upstream_settings(config, engine))
    from viz.engine.embedded.engine import EmbeddedEngine

    return await EmbeddedEngine.start(base, _embedded_settings(engine, memory_bytes))


def _upstream_settings(config: Config, engine: EngineConfig) -> UpstreamSettings:
    upstream = engine.upstream
    return UpstreamSettings(
        urls=upstream.urls,
        folder=config.at(upstream.folder),
        server_folder=upstream.server_folder,
        arithmetic=upstream.arithmetic,
        max_streams=engine.max_streams,
        context_tokens=engine.context_tokens,
        max_adapters=upstream.max_adapters,
        max_rank=upstream.max_rank,
        timeout_s=upstream.timeout_s,
        canary_interval_s=upstream.canary_interval_s,
        api_key=secret("VIZ_UPSTREAM_API_KEY").get_secret_value(),
    )


def _embedded_settings(engine: EngineConfig, memory_bytes: int) -> EngineSettings:
    return EngineSettings(
        max_streams=engine.max_streams,
        context_tokens=engine.context_tokens,
        resident_adapters=engine.resident_adapters,
        memory_bytes=memory_bytes or engine.max_memory_mib << 20,
        grace_s=engine.grace_s,
        prefix_s=engine.prefix_s,
        threads=engine.threads,
        compute=engine.compute,
        compile=engine.compile,
    )
