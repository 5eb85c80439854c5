"""Build the QLoRA model: an NF4 base by bitsandbytes, LoRA on upper layers by PEFT, and its loss.

Owns building the model that trains and the loss of a pack. Invariants: the base computes with
dequantise(NF4(w)), double quantised, in both weight modes, which is what serving computes with;
``eval()`` is never called on it (docs/adr/0007-training.md, "Never eval()"): dropout is 0, so
train mode under ``no_grad`` evaluates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from viz.errors import TrainingError
from viz.training.recompute import again, places_within, recompute_layers, recomputes, sliced

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
    from transformers.utils import logging

    from viz.training.base_weights import load_model
    from viz.training.environment import compute_dtype

    logging.disable_progress_bar()
    model = load_model(base, settings, compute_dtype(settings))
    first = first_layer(base.shape.layers, settings)
    if settings.recompute:
        recompute_layers(model, first)
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=sorted({name.rpartition(".")[2] for name, _, _ in base.shape.linears}),
        layers_to_transform=list(range(first, base.shape.layers)),
        layers_pattern="layers",
    )
    peft_model: Any = get_peft_model(model, config, autocast_adapter_dtype=False)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            # The adapter learns in float32 whatever the base computes in.
            parameter.data = parameter.data.float()
    peft_model.train()
    return peft_model


def first_layer(layers: int, settings: TrainingSettings) -> int:
    """Return the lowest layer that learns: ``trained_layers`` is the share from the top."""
    return layers - max(1, round(layers * settings.trained_layers))


def pack_loss(model: Any, pack: Pack) -> torch.Tensor:
    """Return the summed loss (nats) of a pack's learned positions; the head runs only on those.

    At positions of a work it is the cross-entropy of the token. At positions that follow the base
    it is the weighted divergence from the base's distribution.
    """
    import torch

    causal, hidden = model.get_base_model(), _pack_hidden(model, pack)
    if not recomputes(causal):
        followed = (pack.followed, pack.likely_ids, pack.likely_log_probs)
        return _loss(causal, hidden, pack.labels, followed)
    losses = []
    for start, end in sliced(len(pack.labels)):
        here = places_within(pack.followed, start, end)
        followed = (pack.followed[here] - start, pack.likely_ids[here], pack.likely_log_probs[here])
        losses.append(again(_loss, causal, hidden[start:end], pack.labels[start:end], followed))
    return torch.stack(losses).sum()


def pack_logits(model: Any, pack: Pack) -> torch.Tensor:
    """Return the logits (P, V) in float32 of the positions that a pack predicts."""
    return _logits(model.get_base_model(), _pack_hidden(model, pack))


def _pack_hidden(model: Any, pack: Pack) -> torch.Tensor:
    """Return the last hidden states (P, width) of the positions that a pack predicts."""
    hidden: torch.Tensor = (
        model.get_base_model()
        .model(
            input_ids=pack.ids,
            position_ids=pack.positions,
            attention_mask=pack.layout.mask,  # four-dimensional: transformers makes no other
            rows=pack.layout,
            use_cache=False,
        )
        .last_hidden_state
    )
    return hidden[0, pack.predicts]


def _logits(causal: Any, hidden: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = causal.lm_head(hidden).float()
    cap = getattr(causal.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()


def _loss(
    causal: Any,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    followed: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Return the summed loss; ``followed`` has places, likely ids and their log-probabilities."""
    import torch

    logits = _logits(causal, hidden)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    places, likely_ids, likely_log_probs = followed
    if not len(places):
        return losses.sum()
    learned = torch.ones_like(losses).index_fill(0, places, 0.0)
    divergence = _divergence(logits[places], likely_ids, likely_log_probs)
    return (losses * learned).sum() + _FOLLOWED_WEIGHT * divergence


def _divergence(
    logits: torch.Tensor, likely_ids: torch.Tensor, theirs: torch.Tensor
) -> torch.Tensor:
    """Return the summed KL(base || model), with all tokens except the likely ones as one class."""
    ours = logits.log_softmax(-1).gather(1, likely_ids)
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
    """Set the LoRA weights; the names and shapes must be this model's.

    Raises TrainingError for names of another model.
    """
    import torch

    own = adapter_tensors(model)
    if set(own) != set(tensors):
        raise TrainingError("the checkpoint belongs to another model or other settings")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
