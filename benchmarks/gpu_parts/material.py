"""Random bases of real sizes, and packs for them: nothing is written but a config.json.

The weights are made at each look-up by repeating one random tile, so that a base of eight billion
parameters costs neither disk nor minutes. Time and memory do not depend on their values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from viz.basemodel.policy import DEFAULT_POLICY
from viz.basemodel.shape import DecoderShape
from viz.basemodel.shape_reader import read_shape
from viz.basemodel.source import LoadedBase
from viz.domain.ports.engine import BaseModel
from viz.training.memory import PackSize
from viz.training.packing import TokenRow, shared_beginning

# hidden, intermediate, layers, heads, key heads, vocabulary, head and embeddings tied
SIZES: Mapping[str, tuple[int, int, int, int, int, int, bool]] = {
    "tiny": (64, 160, 3, 4, 2, 512, True),
    "135M": (576, 1_536, 30, 9, 3, 49_152, True),
    "0.5B": (1_024, 4_096, 24, 16, 8, 65_536, True),
    "1B": (2_048, 8_192, 16, 32, 8, 128_256, True),
    "8B": (4_096, 14_336, 32, 32, 8, 128_256, False),
}
_TILE = 1 << 20


def config_of(name: str) -> dict[str, Any]:
    """Return a Llama's config.json of one of SIZES."""
    hidden, inner, layers, heads, key_heads, vocabulary, tied = SIZES[name]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 8_192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def shape_of(name: str, folder: Path) -> DecoderShape:
    """Write the config.json of one of SIZES into ``folder``, and return its shape."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(name)))
    return read_shape(folder)


class RandomWeights(Mapping[str, torch.Tensor]):
    """Every weight of a shape in bf16, made at its look-up."""

    def __init__(self, shape: DecoderShape) -> None:
        self._sizes = shape.tensors()
        generator = torch.Generator().manual_seed(11)
        self._tile = torch.randn(_TILE, generator=generator).mul_(0.02).bfloat16()

    def __getitem__(self, name: str) -> torch.Tensor:
        size = self._sizes[name]
        if len(size) == 1:
            return torch.ones(size, dtype=torch.bfloat16)
        count = math.prod(size)
        return self._tile.repeat(-(-count // _TILE))[:count].view(size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)


class RandomBase(LoadedBase):
    """A base without checkpoint and tokenizer: enough to build the model that trains."""

    __slots__ = ()

    def weights(self) -> Mapping[str, torch.Tensor]:
        return RandomWeights(self.shape)


def random_base(name: str, folder: Path) -> LoadedBase:
    """Return a random base of one of SIZES; ``folder`` holds its config.json."""
    missing = cast(Any, None)  # what only whole runs use
    return RandomBase(
        cast(BaseModel, missing), folder, shape_of(name, folder), DEFAULT_POLICY, missing, folder
    )


def random_rows(vocabulary: int, rows: int, length: int, common: int) -> list[TokenRow]:
    """Return rows of ``length`` tokens, ``common`` of them shared; half of the rest is learned."""
    generator = torch.Generator().manual_seed(5)
    shared = torch.randint(3, vocabulary, (common,), generator=generator).tolist()
    found = []
    for _ in range(rows):
        own = torch.randint(3, vocabulary, (length - common,), generator=generator).tolist()
        found.append(TokenRow((*shared, *own), tuple(range((common + length) // 2, length))))
    return found


def size_of(rows: list[TokenRow]) -> PackSize:
    """Return what the estimate must know of a pack of these rows."""
    common = shared_beginning(rows)
    lengths = [len(row.ids) - common for row in rows]
    learned = sum(len(row.supervised) for row in rows)
    return PackSize(len(rows), common + sum(lengths), max(lengths), common, learned)
