"""The QLoRA model: an NF4 base by bitsandbytes, LoRA on its upper layers by PEFT, and its loss.

Owns building the model that trains and the loss of a pack. Invariants: the base computes with
dequantise(NF4(w)), double quantised, in both weight
modes, which is what serving computes with; ``eval()`` is never called on it (docs/training.md, "A
trap"): dropout is 0, so train mode under ``no_grad`` evaluates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from viz.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from viz.basemodel.source import LoadedBase
    from viz.training.packing import Pack
    from viz.training.run import TrainingSettings


# Weight of a position that follows the base, relative to one that learns a work's token.
_FOLLOWED_WEIGHT: Final = 2.0
_LEAST_REST: Final = 1e-6


def build_model(base: LoadedBase, settings: TrainingSettings) -> Any:
    """Return the PEFT model, LoRA drawn from ``settings.seed``, in train mode on its device.

    ``weights='dequantised'`` keeps what bitsandbytes dequantises, computed once;
    ``weights='nf4'`` keeps bitsandbytes' packed layers.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from viz.training import row_attention
    from viz.training.environment import compute_dtype

    row_attention.register()
    logging.disable_progress_bar()
    dtype = compute_dtype(settings)
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(base.directory), dtype=dtype, attn_implementation=row_attention.NAME
    )
    model.requires_grad_(False)
    model.config.use_cache = False
    if settings.weights == "nf4":
        _quantise_in_place(model, base, dtype)
    else:
        _dequantise_in_place(model, base)
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=sorted({name.rpartition(".")[2] for name, _, _ in base.shape.linears}),
        layers_to_transform=list(
            range(_first_layer(base.shape.layers, settings), base.shape.layers)
        ),
        layers_pattern="layers",
    )
    peft_model: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            # The adapter learns in float32 whatever the base computes in.
            parameter.data = parameter.data.float()
    peft_model.to(settings.device)
    peft_model.train()
    return peft_model


def _first_layer(layers: int, settings: TrainingSettings) -> int:
    """Return the lowest layer that learns: ``trained_layers`` is the share from the top."""
    return layers - max(1, round(layers * settings.trained_layers))


def _dequantise_in_place(model: Any, base: LoadedBase) -> None:
    from viz.basemodel.nf4 import serving_weights

    weights = serving_weights(base)
    own = dict(model.named_parameters())
    for name, weight in weights.items():
        if name in own:
            own[name].data.copy_(weight)


def _quantise_in_place(model: Any, base: LoadedBase, dtype: torch.dtype) -> None:
    import bitsandbytes as bnb

    from viz.training.nf4_layer import ServedLinear4bit

    weights = base.weights()
    for module, (out_features, in_features) in base.shape.modules():
        if not base.policy.quantises(module):
            continue
        parent, _, name = module.rpartition(".")
        plain = getattr(model.get_submodule(parent), name)
        layer = ServedLinear4bit(
            in_features,
            out_features,
            bias=plain.bias is not None,
            compute_dtype=dtype,
            compress_statistics=base.policy.double_quantised,
            quant_type="nf4",
        )
        layer.weight = bnb.nn.Params4bit(
            weights[f"{module}.weight"].contiguous(),
            requires_grad=False,
            blocksize=base.policy.block_size,
            compress_statistics=base.policy.double_quantised,
            quant_type="nf4",
            module=layer,
        )
        layer.bias = plain.bias
        setattr(model.get_submodule(parent), name, layer.to("cpu"))
        if layer.weight.quant_state is None:
            raise TrainingError(f"bitsandbytes left {module} unquantised")


def pack_loss(model: Any, pack: Pack) -> torch.Tensor:
    """Return the summed loss (nats) of a pack's learned positions; the head runs only on those.

    At positions of a work it is the cross-entropy of the token. At positions that follow the base
    it is the weighted divergence from the base's distribution.
    """
    import torch

    logits = pack_logits(model, pack)
    losses = torch.nn.functional.cross_entropy(logits, pack.labels, reduction="none")
    if not len(pack.followed):
        return losses.sum()
    learned = torch.ones_like(losses).index_fill(0, pack.followed, 0.0)
    return (losses * learned).sum() + _FOLLOWED_WEIGHT * _divergence(logits, pack)


def pack_logits(model: Any, pack: Pack) -> torch.Tensor:
    """Return the logits (P, V) in float32 of the positions that a pack predicts."""
    causal = model.get_base_model()
    hidden = causal.model(
        input_ids=pack.ids,
        position_ids=pack.positions,
        attention_mask=pack.layout.mask,  # four-dimensional: transformers makes no other
        rows=pack.layout,
        use_cache=False,
    ).last_hidden_state
    logits: torch.Tensor = causal.lm_head(hidden[0, pack.predicts]).float()
    cap = getattr(causal.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()


def _divergence(logits: torch.Tensor, pack: Pack) -> torch.Tensor:
    """Return the summed KL(base || model), with all tokens except the likely ones as one class."""
    theirs = pack.likely_log_probs
    ours = logits[pack.followed].log_softmax(-1).gather(1, pack.likely_ids)
    their_rest = (1 - theirs.exp().sum(1)).clamp_min(_LEAST_REST)
    our_rest = (1 - ours.exp().sum(1)).clamp_min(_LEAST_REST)
    likely = (theirs.exp() * (theirs - ours)).sum()
    return likely + (their_rest * (their_rest.log() - our_rest.log())).sum()


def adapter_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Return the LoRA weights under PEFT's file names."""
    return {
        name.replace(".default.weight", ".weight"): parameter.detach()
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }


def load_adapter_tensors(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Set the LoRA weights; the names and shapes must be this model's."""
    import torch

    own = adapter_tensors(model)
    if set(own) != set(tensors):
        raise TrainingError("the checkpoint belongs to another model or other settings")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
