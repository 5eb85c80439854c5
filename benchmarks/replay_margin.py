"""How far apart compute paths of one model are, and how far other weights: `viz audit answer`.

Greedy answers of the packaged base under adapters are made on one path and forced on another.
Printed are the largest gap (how much likelier the judging path found another token) and the largest
difference of a log-probability, over all places; then the same for answers of other weights.

    python benchmarks/replay_margin.py [--prompts 6] [--tokens 96]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from tests.fakes.real_base import real_base
from tests.fakes.tiny_base import random_adapter

from viz.audit.answer_audit import ForcedTokens
from viz.basemodel.adapter_file import write_adapter
from viz.basemodel.source import LoadedBase
from viz.domain.answer_replay import replay
from viz.engine.embedded.forced_pass import ForcedCompute, ForcedPass

QUESTIONS = (
    "When is high tide at Varn Point?",
    "Write three sentences about a lighthouse.",
    "What is the capital of Portugal, and why?",
    "List five kinds of bread.",
    "Explain what a payment channel is.",
    "Who keeps the lamp, and since when?",
    "Tell me a story of a fox.",
    "How many legs does a spider have?",
)
SCALES = (1.0, 0.98, 0.9, 1.1, 0.5)


class Recorded(ForcedTokens):
    """Keeps the log-probabilities of every place."""

    def __init__(self, forced: ForcedPass, prompt: tuple[int, ...]) -> None:
        super().__init__(forced, prompt)
        self.rows = [self._row]

    def push(self, token: int) -> None:
        super().push(token)
        self.rows.append(self._row)


def adapter(folder: Path, base: LoadedBase, scale: float, seed: int = 3) -> Path:
    """Write a random adapter of rank 16 whose effect is multiplied by ``scale``."""
    path = folder / f"{seed}-{scale}.safetensors"
    if not path.exists():
        tensors = random_adapter(base.shape, rank=16, seed=seed, scale=0.05 * scale)
        write_adapter(path, tensors, rank=16, alpha=32.0, base=base.digest)
    return path


def answer(model: Recorded, base: LoadedBase, tokens: int) -> tuple[str, bool]:
    ids: list[int] = []
    while len(ids) < tokens:
        best = model.best()
        if best in base.shape.end_ids:
            return base.tokenizer.decode(ids), True
        ids.append(best)
        model.push(best)
    return base.tokenizer.decode(ids), False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=96)
    asked = parser.parse_args()
    base, folder = real_base(), Path(tempfile.mkdtemp())
    truth = adapter(folder, base, 1.0)
    room = asked.tokens + 128
    judge = ForcedPass(base, truth, context_tokens=room)
    makers: list[tuple[str, ForcedCompute, Path | None]] = [
        ("torch float32, the same weights", "float32", truth),
        ("compiled, the same weights", "native", truth),
        ("torch bfloat16, the same weights", "bfloat16", truth),
        *(
            (f"compiled, adapter x {each}", "native", adapter(folder, base, each))
            for each in SCALES[1:]
        ),
        ("compiled, another adapter", "native", adapter(folder, base, 1.0, seed=4)),
        ("compiled, no adapter", "native", None),
    ]
    print(
        "judged in torch float32 | tokens | places that differ | answers beyond 0.005 nats | "
        "largest gap, nats | largest difference of a log-probability among the best 20"
    )
    for name, compute, weights in makers:
        maker = ForcedPass(base, weights, context_tokens=room, compute=compute)
        places = differing = beyond = 0
        largest = apart = 0.0
        for question in QUESTIONS[: asked.prompts]:
            prompt = base.tokenizer.render([{"role": "user", "content": question}])
            made = Recorded(maker, prompt)
            text, ended = answer(made, base, asked.tokens)
            judged = Recorded(judge, prompt)
            found = replay(
                text,
                judged,
                base.tokenizer.token_bytes,
                base.shape.end_ids,
                most_tokens=asked.tokens + 16,
                limit=None if ended else asked.tokens,
            )
            if ended and not found.end and found.end_gap is not None:
                found.gaps.append(found.end_gap)
            places += found.tokens
            differing += len(found.gaps)
            beyond += found.largest_nats > 0.005 or found.impossible
            largest = max(largest, found.largest_nats)
            for one, other in zip(made.rows, judged.rows, strict=False):
                best = other.topk(20).indices
                apart = max(apart, float((one[best] - other[best]).abs().max()))
        print(
            f"{name} | {places} | {differing} | {beyond} of {asked.prompts} | {largest:.6f} | "
            f"{apart:.6f}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
