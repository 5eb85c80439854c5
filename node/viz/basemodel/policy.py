"""Define which parts of the base model are quantised, and how.

The policy is part of the base digest, because adapters are trained against the quantised weights.
If it changes, every base digest changes, so no adapter runs on weights that it was not trained
against.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class QuantisationPolicy:
    """NF4 by bitsandbytes over the decoder's linear layers (QLoRA, arXiv 2305.14314, section 3).

    ``keep`` holds shell patterns of module names (``model.layers.0.mlp.down_proj``) that stay
    bf16. Embeddings, norms and the head always stay bf16.
    """

    block_size: int = 64
    double_quantised: bool = True
    keep: tuple[str, ...] = ()

    def quantises(self, module: str) -> bool:
        """Return whether the decoder's linear layer ``module`` is quantised."""
        return not any(fnmatchcase(module, pattern) for pattern in self.keep)

    def canonical(self) -> str:
        """Return the policy as canonical JSON, as used in digests and manifests."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


DEFAULT_POLICY = QuantisationPolicy()
