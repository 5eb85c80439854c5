"""The frozen base model: where it comes from, what its digest is, what serving computes with.

Owns the conversion of the packaged model, the base and tokenizer digests, the NF4 quantisation
that training trains against and serving dequantises, the tokenizer with its chat template, and the
adapter file format. Lies below ``viz.engine`` and ``viz.training``, which share it and never import
each other. Does not know requests, batches, money or training loops.

Modules: ``policy`` (what is quantised, and how), ``shape`` (the architecture), ``tokenizer``,
``detokenise``, ``source`` (find, convert, digest: ``load_base``), ``nf4`` (quantise, dequantise,
``serving_weights``), ``adapter_file`` (read, check, write), ``safetensor_file`` (the container).
Importing this package imports neither torch nor transformers.
"""
