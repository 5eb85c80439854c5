"""The embedded engine: one base model, many adapters, continuously batched.

    from viz.basemodel.source import load_base
    from viz.engine.embedded.engine import EmbeddedEngine
    from viz.engine.embedded.settings import EngineSettings

    base = await asyncio.to_thread(load_base, source, cache_dir=path, allowed=digests)
    engine = await EmbeddedEngine.start(base, EngineSettings(max_streams=32))

Owns batching, LoRA application, sampling and streams. Knows nothing of money, chains or HTTP.
Importing this package, ``embedded`` or ``settings`` imports no torch; ``start`` does.

Modules: ``settings`` (values), ``limits`` (what memory admits), ``sequence`` (one request's
state), ``stops`` (stop strings), ``stream`` (asyncio side of a sequence), ``cache`` (keys and
values by slot), ``adapters`` (their layout), ``residency`` (which are in memory), ``lanes`` and
``lora`` (adapters beside the batch), ``forward`` (the Llama decoder), ``sampling``, ``seats`` (who
holds a slot), ``runner`` (schedule -> run -> postprocess, on one thread) and ``embedded`` (the
asyncio front).
"""
