"""Build the base model of a run with its weights, one weight at a time.

Owns how the weights get into transformers' model: it is made without memory (on the meta device),
then each weight is read from the checkpoint, converted or quantised, moved to the device, and let
go. Invariants:

- Host and device hold the finished model and one weight more, never the model in another type.
- NF4 is made on the host, by the function that makes the served weights, whatever the device is.
  So the packed bytes are those that are served: sums in another order, as on a GPU, would change
  the statistics of blocks in their last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from viz.errors import TrainingError

if TYPE_CHECKING:
    import torch

    from viz.basemodel.source import LoadedBase
    from viz.training.run import TrainingSettings


def load_model(base: LoadedBase, settings: TrainingSettings, dtype: torch.dtype) -> Any:
    """Return transformers' model of ``base`` on the device of ``settings``, without gradients.

    All parameters are ``dtype``; with ``weights='nf4'`` the linear layers that the policy quantises
    are packed, with ``weights='dequantised'`` they have the values that are served. Raises
    TrainingError, ModelUnavailable.
    """
    from viz.basemodel.nf4 import serving_weights

    model = _empty_model(base, dtype)
    packed = _pack_layers(model, base, dtype) if settings.weights == "nf4" else {}
    weights = base.weights() if packed else serving_weights(base)
    for name in base.shape.tensors():
        module = name.removesuffix(".weight")
        if module in packed:
            packed[module].take(weights[name], base.policy, settings.device)
        else:
            _put(model, name, weights[name].to(settings.device, dtype, copy=True))
    if base.shape.tied:
        model.tie_weights()
    model.to(settings.device)  # buffers: they were computed on the host
    left = [name for name, each in model.named_parameters() if each.device.type == "meta"]
    if left:
        raise TrainingError(f"the base model's {left[0]} has no weight in its checkpoint")
    return model


def _empty_model(base: LoadedBase, dtype: torch.dtype) -> Any:
    """Return the model with parameters on the meta device; buffers have their values."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    from viz.training import row_attention

    row_attention.register()
    config = AutoConfig.from_pretrained(str(base.directory), local_files_only=True)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=row_attention.NAME
        )
    model.requires_grad_(False)
    model.config.use_cache = False
    return model


def _pack_layers(model: Any, base: LoadedBase, dtype: torch.dtype) -> dict[str, Any]:
    """Replace the linear layers that are quantised by empty packed ones; return them by name."""
    from viz.training.nf4_layer import ServedLinear4bit

    layers: dict[str, Any] = {}
    for module, (out_features, in_features) in base.shape.modules():
        if not base.policy.quantises(module):
            continue
        parent, _, name = module.rpartition(".")
        plain = getattr(model.get_submodule(parent), name)
        layers[module] = ServedLinear4bit(
            in_features,
            out_features,
            bias=plain.bias is not None,
            compute_dtype=dtype,
            compress_statistics=base.policy.double_quantised,
            quant_type="nf4",
            device="meta",
        )
        setattr(model.get_submodule(parent), name, layers[module])
    return layers


def _put(model: Any, name: str, tensor: torch.Tensor) -> None:
    import torch

    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, torch.nn.Parameter(tensor, requires_grad=False))
