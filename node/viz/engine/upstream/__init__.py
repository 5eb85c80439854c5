"""The upstream engine: other servers compute (vLLM), this node keeps the paywall and the counts.

    base = await prepared_base(source, cache_dir=path, allowed=digests)
    engine = await UpstreamEngine.start(base, UpstreamSettings(urls=("http://gpu:8000",), ...))

Importing this package does not import torch. Modules of ``upstream``: ``engine`` (the Engine
Protocol), ``generation`` (one request as a row of bounded segments), ``replica`` (one server: its
state, its adapters, its canaries), ``placement`` (which server takes a segment), ``server`` (HTTP),
``peft_folder`` (adapters where servers read them), ``canary`` (what a right answer is),
``reference`` and ``reference_child`` (our own pass, which says it).
"""
