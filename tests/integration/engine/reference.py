"""PEFT over transformers, one adapter at a time: the reference the engine is held to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from viz.basemodel.adapter_file import read_adapter
from viz.basemodel.nf4 import serving_weights
from viz.basemodel.source import LoadedBase


class PeftReference:
    """The serving weights in float32 inside transformers; adapters through PEFT's own code."""

    def __init__(self, base: LoadedBase) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        self._base = base
        config = AutoConfig.from_pretrained(str(base.directory))
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        weights = {name: value.float() for name, value in serving_weights(base).items()}
        missing, unexpected = plain.load_state_dict(weights, strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}
        plain.tie_weights()
        self._plain, self._peft = plain, None
        self.model: Any = plain

    def wear(self, path: Path) -> None:
        """Put on the adapter in ``path``, alone."""
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
        from safetensors.torch import load_file

        header = read_adapter(path, self._base.shape).header
        if self._peft is not None:
            self._plain = self._peft.unload()
        config = LoraConfig(
            r=header.rank,
            lora_alpha=header.alpha,
            target_modules=[name.rsplit(".", 1)[1] for name, _, _ in self._base.shape.linears],
            lora_dropout=0.0,
        )
        self._peft = self.model = get_peft_model(self._plain, config)
        outcome = set_peft_model_state_dict(self.model, load_file(str(path)))
        assert not outcome.unexpected_keys
        self.model.eval()

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """Return up to ``count`` greedy tokens, without the end token."""
        import torch

        with torch.inference_mode():
            found = self.model.generate(
                input_ids=torch.tensor([list(prompt)]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=count,
                pad_token_id=0,
            )
        made: list[int] = found[0, len(prompt) :].tolist()
        return made[:-1] if made and made[-1] in self._base.shape.end_ids else made

    def logits(self, tokens: Sequence[int]) -> Any:
        """Return the logits (tokens, vocabulary) of a whole sequence."""
        import torch

        with torch.inference_mode():
            return self.model(input_ids=torch.tensor([list(tokens)])).logits[0]
