"""transformers' generate, bare or through PEFT, on the exported weights; a child process.

Arguments: material folder, threads, number of PEFT adapters (0: no PEFT). Computes in float32 or
bfloat16, whichever multiplies faster here.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.engine_parts.peer import faster_dtype, quiet_stdout, rate_of, serve


class Contender:
    """One model; ``names`` are its PEFT adapters."""

    def __init__(self, folder: Path, threads: int, adapters: int) -> None:
        self.torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        self.torch.set_num_threads(threads)
        self.folder, self.dtype = folder, faster_dtype(self.torch)
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder / "model"), dtype=getattr(self.torch, self.dtype)
        )
        if adapters:
            peft: Any = importlib.import_module("peft")
            lora = peft.LoraConfig.from_pretrained(str(folder / "adapter-1"))
            lora.init_lora_weights = False
            self.model = peft.get_peft_model(self.model, lora, adapter_name="a1")
            for number in range(2, adapters + 1):
                self.model.add_adapter(f"a{number}", lora)
        self.model.eval()
        self.prompts = json.loads((folder / "prompts.json").read_text())

    def decode(self, asked: dict[str, Any]) -> dict[str, float]:
        """Return tokens/s of one batch; with adapters, a different one for every row."""
        names = [f"a{1 + row}" for row in range(asked["streams"])] if asked["adapters"] else None
        steps: list[tuple[float, int]] = []
        self._generate(asked["streams"], asked["tokens"], steps, names)
        return {"rate": rate_of(steps, asked["streams"])}

    def switch(self, asked: dict[str, Any]) -> dict[str, float]:
        """Return tokens/s of one stream after another, each with set_adapter, prefill and all."""
        began = time.perf_counter()
        for number in range(1, asked["adapters"] + 1):
            self.model.set_adapter(f"a{number}")
            self._generate(1, asked["tokens"], [])
        return {"rate": asked["adapters"] * asked["tokens"] / (time.perf_counter() - began)}

    def prefill(self, asked: dict[str, Any]) -> dict[str, float]:
        """Return prompt tokens/s of one long prompt, logits of the last token only."""
        ids = self.torch.tensor([self.prompts["long"]])
        began = time.perf_counter()
        with self.torch.inference_mode():
            self.model(input_ids=ids, logits_to_keep=1)
        return {"rate": ids.shape[1] / (time.perf_counter() - began)}

    def load(self, asked: dict[str, Any]) -> dict[str, float]:
        """Return the seconds PEFT takes to load one more adapter from disk."""
        began = time.perf_counter()
        self.model.load_adapter(str(self.folder / "adapter-2"), adapter_name="loaded")
        taken = time.perf_counter() - began
        self.model.delete_adapter("loaded")
        return {"seconds": taken}

    def _generate(
        self,
        rows: int,
        tokens: int,
        steps: list[tuple[float, int]],
        names: list[str] | None = None,
    ) -> None:
        def seen(ids: Any, scores: Any, **_: Any) -> Any:
            # Called when a step's logits are there: its token is made now.
            steps.append((time.perf_counter(), rows * (len(steps) + 1)))
            return scores

        ids = self.torch.tensor([self.prompts["prompt"]] * rows)
        more = {"adapter_names": names} if names else {}
        with self.torch.inference_mode():
            self.model.generate(
                input_ids=ids,
                attention_mask=self.torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
                logits_processor=[seen],
                **more,
            )


def main() -> None:
    quiet_stdout()
    contender = Contender(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    about = {"dtype": contender.dtype}
    serve(
        about,
        {
            "decode": contender.decode,
            "switch": contender.switch,
            "prefill": contender.prefill,
            "load": contender.load,
        },
    )


if __name__ == "__main__":
    main()
