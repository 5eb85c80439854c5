"""Read PEFT's adapter_config.json, and refuse settings that Viz does not support.

An adapter is two matrices for each module on the plain base, scaled by alpha and rank. Some members
of the config describe such an adapter, and some its initialisation or training. The others change
what it computes. Invariant: a config is accepted only if each member is known not to change the
function given by the tensors, alpha, rank and rsLoRA, or has the value that means "not used".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from viz.domain.strict_json import load_json
from viz.errors import InvalidAdapterFile

# These do not change the function: the tensors show the modules, the digest identifies the base,
# and the others concern training or bookkeeping.
_DESCRIBES: Final = frozenset(
    {"base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode"}
    | {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
    | {"lora_dropout", "megatron_core", "qalora_group_size", "eva_config"}
)
# These initialise A and B and do not change the base. PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA and
# others subtract the initial value from the base's weights, so their tensors fit another base.
_BEGINNINGS: Final = (True, False, "gaussian", "orthogonal", "eva")
_UNDERSTOOD: Final[Mapping[str, tuple[Any, ...]]] = {
    "peft_type": ("LORA",),
    "task_type": (None, "CAUSAL_LM"),
    "bias": ("none",),
    "init_lora_weights": _BEGINNINGS,
    "use_rslora": (False, True),
}
_READ: Final = frozenset({"r", "lora_alpha"})
_NOT_USED: Final[tuple[Any, ...]] = (None, False, {}, [], "")


def read_config(raw: bytes, name: str) -> dict[str, Any]:
    """Return ``lora_alpha``, ``rank`` and ``use_rslora`` of the config in ``raw``.

    Raises InvalidAdapterFile that names the first unsupported member.
    """
    try:
        config: Any = load_json(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidAdapterFile(f"{name} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict) or not config.keys() >= _READ:
        raise InvalidAdapterFile(f"{name} lacks r or lora_alpha")
    for member, value in config.items():
        if member in _DESCRIBES or member in _READ:
            continue
        allowed = _UNDERSTOOD.get(member, _NOT_USED)
        if not any(type(value) is type(each) and value == each for each in allowed):
            raise InvalidAdapterFile(
                f"{name}: {member[:60]} is {str(value)[:60]!r}, which may change what the adapter "
                "computes and is not supported: merge it into a plain LoRA of this base first"
            )
    rank, alpha = config["r"], config["lora_alpha"]
    if type(rank) is not int or type(alpha) not in (int, float):
        raise InvalidAdapterFile(f"{name}: r and lora_alpha must be numbers")
    return {
        "rank": rank,
        "lora_alpha": alpha,
        "use_rslora": str(config.get("use_rslora", False)).lower(),
    }
