"""What of the base model is quantised, and how: the one place that says so.

A pure value. It is part of the base digest, since it is part of the function that adapters are
trained against: change it and every base digest changes, so no adapter can meet another function.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class QuantisationPolicy:
    """NF4 by bitsandbytes over the decoder's linear layers (QLoRA, arXiv 2305.14314, section 3).

    ``keep`` are shell patterns of module names (``model.layers.0.mlp.down_proj``) that stay bf16.
    Embeddings, norms and the head always do.
    """

    block_size: int = 64
    double_quantised: bool = True
    keep: tuple[str, ...] = ()

    def quantises(self, module: str) -> bool:
        """Tell whether the decoder's linear layer ``module`` is quantised."""
        return not any(fnmatchcase(module, pattern) for pattern in self.keep)

    def canonical(self) -> str:
        """Return the policy as canonical JSON: what digests and manifests hold."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


DEFAULT_POLICY = QuantisationPolicy()
