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

import os

# OpenMP threads that wait by spinning starve each other on a machine that does anything else
# beside the model (training, a test run): measured 13 times slower products on two busy cores. The
# runtime reads this once, when torch loads it, so it is set before anything can import torch.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
