"""llama.cpp (llama-cpp-python) on the packaged Q4_1 GGUF; a child in its own environment.

Arguments: material folder, threads, GGUF path. Another function than the others' (4-bit weights
multiplied as such, no adapters): a speed to know, not the same answers.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.engine_parts.peer import quiet_stdout, rate_of, serve

_STREAMS = 32


class Contender:
    """One context of 32 sequences, driven by its batch interface."""

    def __init__(self, folder: Path, threads: int, gguf: str) -> None:
        self.api: Any = importlib.import_module("llama_cpp")
        self.numpy: Any = importlib.import_module("numpy")
        api = self.api
        api.llama_backend_init()
        self.model = api.llama_model_load_from_file(gguf.encode(), api.llama_model_default_params())
        rules = api.llama_context_default_params()
        rules.n_ctx, rules.n_seq_max = 1024 * _STREAMS, _STREAMS
        rules.n_batch = rules.n_ubatch = 2048
        rules.n_threads = rules.n_threads_batch = threads
        self.context = api.llama_init_from_model(self.model, rules)
        self.batch = api.llama_batch_init(2048, 0, 1)
        self.words = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.prompts = json.loads((folder / "prompts.json").read_text())

    def decode(self, asked: dict[str, Any]) -> dict[str, float]:
        """Return tokens/s of ``streams`` sequences in one batch."""
        streams, prompt = asked["streams"], self.prompts["prompt"]
        self._clear()
        chosen = [
            self._run([(token, at, stream) for at, token in enumerate(prompt)])[0]
            for stream in range(streams)
        ]
        steps = [(time.perf_counter(), streams)]
        for step in range(1, asked["tokens"]):
            at = len(prompt) + step - 1
            chosen = self._run([(token, at, stream) for stream, token in enumerate(chosen)])
            steps.append((time.perf_counter(), streams * (step + 1)))
        return {"rate": rate_of(steps, streams)}

    def prefill(self, asked: dict[str, Any]) -> dict[str, float]:
        """Return prompt tokens/s of one long prompt."""
        prompt = self.prompts["long"]
        self._clear()
        began = time.perf_counter()
        self._run([(token, at, 0) for at, token in enumerate(prompt)])
        return {"rate": len(prompt) / (time.perf_counter() - began)}

    def _clear(self) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def _run(self, tokens: list[tuple[int, int, int]]) -> list[int]:
        """Run (token, position, sequence); return the greedy choice of each sequence's last."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        lasts = {sequence: place for place, (_, _, sequence) in enumerate(tokens)}
        for place, (token, at, sequence) in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, at
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
            batch.logits[place] = lasts[sequence] == place
        if self.api.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        rows = (self.api.llama_get_logits_ith(self.context, place) for place in lasts.values())
        as_array = self.numpy.ctypeslib.as_array
        return [int(as_array(row, shape=(self.words,)).argmax()) for row in rows]


def main() -> None:
    quiet_stdout()
    contender = Contender(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    about = {
        "version": contender.api.__version__,
        "system": contender.api.llama_print_system_info().decode(),
    }
    serve(about, {"decode": contender.decode, "prefill": contender.prefill})


if __name__ == "__main__":
    main()
