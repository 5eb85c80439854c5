"""The upstream engine: other servers (vLLM) compute, and this node sells and counts.

    base = await prepared_base(source, cache_dir=path, allowed=digests)
    engine = await UpstreamEngine.start(base, UpstreamSettings(urls=("http://gpu:8000",), ...))

Importing this package does not import torch. Modules of ``upstream``: ``engine`` (the Engine
Protocol), ``generation`` (one request as a sequence of bounded segments), ``replica`` (one server:
its state, its adapters, its canaries), ``placement`` (which server gets a segment), ``server``
(HTTP), ``peft_folder`` (adapters in the folder that servers read), ``canary`` (comparison of
answers), ``reference`` and ``reference_child`` (our own pass, for the expected values).
"""
