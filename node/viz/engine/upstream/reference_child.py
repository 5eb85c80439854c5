"""Compute the likeliest next tokens after prefixes of a text, for some adapters, in float32.

Runs as a separate process, so that the daemon does not import transformers and the memory is freed
at the end. Reads one job from standard input and writes one answer to standard output, both as
JSON. A weight is read from the serving file when its layer needs it and is dropped afterwards, so
that memory depends on the largest weight, not on the model. All adapters are rows of one batch, so
that each weight is read once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.basemodel.adapter_file import AdapterWeights, read_adapter
from viz.basemodel.safetensor_file import StoredTensors
from viz.basemodel.shape_reader import read_shape
from viz.domain.units import Hash32
from viz.engine.upstream.canary import KEPT, beginnings
from viz.errors import VizError

if TYPE_CHECKING:
    import torch

NICE: Final = 10


def candidates(
    directory: Path, serving_file: Path, prompt: Sequence[int], adapters: Sequence[AdapterWeights]
) -> list[list[list[tuple[int, float]]]]:
    """Return the likeliest tokens with log-probabilities, by adapter and prefix.

    ``directory`` holds config.json, ``serving_file`` the dequantised weights.
    """
    import torch
    from accelerate import cpu_offload, init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(directory))
    with init_empty_weights(include_buffers=False):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.eval()
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    weights = _InFloat32(StoredTensors(serving_file), names)
    _with_adapters(model, adapters)
    cpu_offload(model, execution_device=torch.device("cpu"), state_dict=weights)
    ids = torch.tensor([list(prompt)] * len(adapters))
    with torch.inference_mode():
        places = [len(each) - 1 for each in beginnings(prompt)]
        logits = model(input_ids=ids, use_cache=False).logits[:, places].float()
        found = logits.log_softmax(-1)
        values, tokens = found.topk(min(KEPT, found.shape[-1]))
    rows = zip(tokens.tolist(), values.tolist(), strict=True)
    return [[list(zip(*place, strict=True)) for place in zip(*row, strict=True)] for row in rows]


def _with_adapters(model: Any, adapters: Sequence[AdapterWeights]) -> None:
    """Hook each module so that every row gets the product of its own adapter."""
    modules = dict(model.named_modules())
    for name in {name for adapter in adapters for name in adapter.modules}:
        modules[name].register_forward_hook(_adding(name, adapters))


def _adding(name: str, adapters: Sequence[AdapterWeights]) -> Callable[..., Any]:
    def add(_module: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        for row, adapter in enumerate(adapters):
            if name in adapter.modules:
                a, b = (matrix.float() for matrix in adapter.modules[name])
                scaling = adapter.header.scaling(a.shape[0])
                out[row] += scaling * (given[0][row] @ a.T) @ b.T
        return out

    return add


class _InFloat32(Mapping[str, "torch.Tensor"]):
    """The serving weights in float32; a tied head is the embeddings."""

    def __init__(self, stored: StoredTensors, names: set[str]) -> None:
        self._stored = stored
        self._names = set(stored) | (names & {"lm_head.weight"})

    def __getitem__(self, name: str) -> torch.Tensor:
        kept = name if name in set(self._stored) else "model.embed_tokens.weight"
        return self._stored[kept].float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def main() -> int:
    """Read the job from standard input; write rows, or ``failed`` with the reason."""
    # Standard output is only for the answer: what libraries print goes to standard error.
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.nice(NICE)
    job = json.load(sys.stdin)
    try:
        directory = Path(job["directory"])
        base = Hash32(bytes.fromhex(job["base"]))
        shape = read_shape(directory)
        adapters = [read_adapter(Path(path), shape, base) for path in job["adapters"]]
        answer: dict[str, Any] = {
            "rows": candidates(directory, Path(job["serving_file"]), job["prompt"], adapters)
        }
    except VizError as error:
        answer = {"failed": error.detail}
    json.dump(answer, told)
    told.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
