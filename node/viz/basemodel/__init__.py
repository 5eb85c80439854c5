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

import os

# OpenMP threads that spin while they wait take the CPU from each other if the machine has other
# work too (training, a test run): products were measured 13 times slower on two busy cores. The
# OpenMP runtime reads this variable once, when torch loads it, so it is set before torch is
# imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
