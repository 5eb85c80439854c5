"""Compute answers: in this process (``embedded``), by other servers (``upstream``), or none.

The embedded engine serves one base model and many adapters, continuously batched:

    from viz.basemodel.source import load_base
    from viz.engine.embedded.engine import EmbeddedEngine
    from viz.engine.embedded.settings import EngineSettings

    base = await asyncio.to_thread(load_base, source, cache_dir=path, allowed=digests)
    engine = await EmbeddedEngine.start(base, EngineSettings(max_streams=32))

It owns batching, LoRA, sampling and streams. Importing this package, ``embedded.engine`` or
``embedded.settings`` does not import torch; ``start`` does.

``upstream`` lets vLLM compute and counts the tokens itself; ``none`` serves no model, for a node
that is a custodian, relay or gateway only.

Beside the engines stands what both use: ``request_checks`` (what is refused), ``sequence`` and
``stream`` (one request's tokens and text, and its asyncio side), ``stop_strings``.

Modules of ``embedded``: ``engine`` (the asyncio front), ``loop`` (one generation thread: schedule,
run, postprocess), ``scheduler`` (which sequence has a slot), ``sequence`` (its place in the batch),
``decoder``, ``rotary`` and ``native`` (the pass, in torch and compiled), ``kv_cache``, ``lora`` and
``lora_batch`` (the adapters of a batch), ``adapter_pool`` (which adapters are in memory),
``sampling``, ``memory_plan``, ``process_memory``.
"""
