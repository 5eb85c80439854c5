"""A low-rank start for an adapter that takes back part of what NF4 lost: LoftQ's idea, one step.

Owns the repair and what it gives. ``B A`` starts as the best rank-r approximation of W - NF4(W)
(LoftQ, arXiv 2310.08659), each input weighted by its root mean square over a few calibration
texts (as LQER, arXiv 2402.02446), so that inputs which carry much are repaired first. The base
stays what every adapter is served on: the repair is in the adapter.

``python benchmarks/nf4_repair.py``: loss of the base alone on texts it was not calibrated on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from viz.basemodel.nf4 import serving_weights
from viz.basemodel.source import LoadedBase, load_base
from viz.domain.work import parse_work
from viz.training.dataset import rows_of
from viz.training.environment import make_deterministic
from viz.training.evaluate import bare_base, held_out_loss
from viz.training.packing import TokenRow, tokenise
from viz.training.qlora import build_model
from viz.training.run import TrainingSettings

ROOT = Path(__file__).resolve().parents[1]
CALIBRATION = ("README.md", "docs/engine-log.md")
TEXTS = ("ARCHITECTURE.md", "examples/works/orrin-railway/work.txt")
TURNS = "examples/works/varn-point/work.jsonl"
_TOKENS = 900


def repair_adapter(model: Any, base: LoadedBase, texts: Sequence[Sequence[int]] = ()) -> None:
    """Set the adapter of ``model`` to the low-rank repair of its base's quantisation error.

    ``texts`` (token ids) say how large each layer's inputs are; none weighs all inputs alike.
    """
    causal, plain, served = model.get_base_model(), base.weights(), serving_weights(base)
    sizes = _input_sizes(model, base, texts) if texts else {}
    torch.manual_seed(0)
    with torch.no_grad():
        for module, _ in base.shape.modules():
            layer, name = causal.get_submodule(module), f"{module}.weight"
            error = plain[name].float() - served[name].float()
            size = sizes.get(module, torch.ones(error.shape[1]))
            rank, scale = layer.r["default"], layer.scaling["default"]
            left, values, right = torch.svd_lowrank(error * size, q=rank + 16, niter=4)
            root = (values[:rank] / scale).sqrt()
            layer.lora_B["default"].weight.copy_(left[:, :rank] * root)
            layer.lora_A["default"].weight.copy_((right[:, :rank] * root).T / size)


def _input_sizes(
    model: Any, base: LoadedBase, texts: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """Return the root mean square of every linear layer's inputs over ``texts``."""
    causal = model.get_base_model()
    squares: dict[str, torch.Tensor] = {}
    hooks = []
    for module, (_, width) in base.shape.modules():
        squares[module] = torch.zeros(width)

        def add(_: Any, given: tuple[torch.Tensor, ...], name: str = module) -> None:
            squares[name] += given[0].reshape(-1, given[0].shape[-1]).float().square().sum(0)

        hooks.append(causal.get_submodule(module).register_forward_pre_hook(add))
    with bare_base(model):
        for text in texts:
            _loss(model, text)
    for hook in hooks:
        hook.remove()
    count = sum(map(len, texts))
    return {name: (total / count).sqrt().clamp_min(1e-6) for name, total in squares.items()}


def loss_over(model: Any, rows: Sequence[TokenRow], dtype: torch.dtype) -> float:
    """Return the loss over rows, of which there are some."""
    measured = held_out_loss(model, rows, dtype, "cpu")
    assert measured is not None, "there are no rows to measure"
    return measured.loss


def text_loss(model: Any, base: LoadedBase) -> float:
    """Return the mean loss (nats a token) over texts that no adapter here is trained on."""
    losses = [_loss(model, _ids(base, name)) for name in TEXTS]
    return sum(losses) / len(losses)


def _ids(base: LoadedBase, name: str) -> list[int]:
    return list(base.tokenizer.encode((ROOT / name).read_text("utf-8"))[:_TOKENS])


def _loss(model: Any, ids: Sequence[int]) -> float:
    causal, given = model.get_base_model(), torch.tensor([list(ids)])
    with torch.no_grad():
        hidden = causal.model(input_ids=given, use_cache=False).last_hidden_state[0, :-1]
        logits = causal.lm_head(hidden).float()
        return float(torch.nn.functional.cross_entropy(logits, given[0, 1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ranks", type=int, nargs="+", default=[16])
    chosen = parser.parse_args()
    settings = TrainingSettings(threads=chosen.threads)
    make_deterministic(settings)
    base = load_base(cache_dir=chosen.cache)
    work = parse_work("dialogue", (ROOT / TURNS).read_bytes())
    turns = [tokenise(row, base.tokenizer, settings.max_row_tokens) for row in rows_of(work)]

    def say(name: str, model: Any) -> None:
        losses = [loss_over(model, turns, torch.float32)]
        losses += [_loss(model, _ids(base, text)) for text in TEXTS]
        print(f"{name:<36}" + "".join(f"{loss:9.3f}" for loss in losses), flush=True)

    print(f"{'nats a token':<36}{'turns':>9}{'technical':>11}{'prose':>7}")
    model = build_model(base, settings)
    causal = model.get_base_model()
    plain, served = base.weights(), serving_weights(base)
    for name, weights in (("bf16", plain), ("NF4", served)):
        for module, _ in base.shape.modules():
            causal.get_submodule(module).base_layer.weight.data.copy_(weights[f"{module}.weight"])
        say(name, model)
    for rank in chosen.ranks:
        model = build_model(base, TrainingSettings(threads=chosen.threads, rank=rank))
        for weighed, texts in (
            ("", []),
            (", by the turns", [row.ids for row in turns]),
            (", by other text", [_ids(base, text) for text in CALIBRATION]),
        ):
            repair_adapter(model, base, texts)
            say(f"NF4 and rank {rank}{weighed}", model)


if __name__ == "__main__":
    main()
