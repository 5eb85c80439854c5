"""The frozen base model: its source, its digest, and the weights that serving computes with.

Owns the conversion of the packaged model, the base and tokenizer digests, the NF4 quantisation
that training trains against and serving dequantises, the tokenizer with its chat template, and the
adapter file format. ``viz.engine`` and ``viz.training`` share this package and never import each
other.

Modules: ``policy`` (what is quantised, and how), ``shape`` and ``shape_reader`` (the architecture,
and how a config.json is understood), ``checkpoint`` (weights, shard by shard), ``tokenizer``,
``spelling`` (kinds of tokenizers), ``detokenise``, ``hub`` (fetch), ``source`` (find, convert,
digest: ``load_base``), ``preparation`` (in a child), ``nf4`` (quantise, dequantise,
``serving_weights``), ``export``, ``adapter_file`` (read, check, write), ``safetensor_file`` (the
file format).
Importing this package imports neither torch nor transformers.
"""
