"""What a linear readout of the bare base makes of a work's training wordings.

``python benchmarks/readout.py WORK... [--base DIRECTORY]``: each WORK is a folder with a work and
its ``questions.json``. Nothing is trained but a ridge regression: from the base's hidden state of a
wording (the mean over its tokens, or the last token of the prompt) to the fact that it asks for.
Printed is, for layers of the base, for how many of people's questions, and of the run's own
measure, it names the right fact. That is what the wordings and the base's own understanding are
good for; an adapter that answers fewer loses the rest in its training. Minutes, one thread.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.basemodel.source import load_base
from viz.domain.questions import is_right
from viz.training.dataset import build_dataset
from viz.training.evaluate import bare_base
from viz.training.neighbours import neighbours_of
from viz.training.qlora import build_model
from viz.training.run import default_settings

if TYPE_CHECKING:
    import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from benchmarks.teaching import read_works, untrained  # noqa: E402

_WORDINGS: Final = 24
_RIDGE: Final = 100.0
_EVERY: Final = 6


def main() -> None:
    chosen = untrained(__doc__)
    base = load_base(chosen.base, cache_dir=chosen.cache)
    model = build_model(base, default_settings(1, threads=1, seed=chosen.seed))
    print("work | layer | state | people's | the measure's")
    for folder in chosen.works:
        with bare_base(model):
            for line in readouts(folder, chosen.seed, base, model):
                print(f"{folder.name} | {line}", flush=True)


def readouts(folder: Path, seed: int, base: Any, model: Any) -> Iterator[str]:
    """Yield a line for every sixth layer and each way to take its state."""
    import torch

    works, questions = read_works([folder])
    dataset = build_dataset(works, seed=seed, held_out_share=1.0, vocabulary=neighbours_of(base))
    asked: dict[str, list[str]] = defaultdict(list)
    for row in dataset.training:
        asked[row.messages[-1].content].append(row.messages[-2].content)
    facts = list(asked)
    texts = [(text, fact) for fact in facts for text in asked[fact][:_WORDINGS]]
    of_fact = torch.tensor([facts.index(fact) for _, fact in texts])
    known = [_states(model, base, text) for text, _ in texts]
    theirs = [_states(model, base, each.question) for each in questions]
    own = [_states(model, base, row.messages[-2].content) for row in dataset.held_out]
    rights = [[is_right(each, fact) for fact in facts] for each in questions]
    wanted = [[fact == row.messages[-1].content for fact in facts] for row in dataset.held_out]
    for place, state in enumerate(("mean", "last")):
        for layer in range(0, known[0].shape[1], _EVERY):
            readout = _Readout(
                torch.stack([each[place, layer] for each in known]), of_fact, len(facts)
            )
            counts = [
                f"{readout.right([each[place, layer] for each in states], right)} of {len(states)}"
                for states, right in ((theirs, rights), (own, wanted))
            ]
            yield f"{layer} | {state} | {counts[0]} | {counts[1]}"


class _Readout:
    """A ridge regression from states to facts."""

    def __init__(self, states: torch.Tensor, of_fact: torch.Tensor, facts: int) -> None:
        import torch

        self._mean, self._deviation = states.mean(0), states.std(0) + 1e-4
        known = (states - self._mean) / self._deviation
        wanted = torch.nn.functional.one_hot(of_fact, facts).float()
        square = known.T @ known + _RIDGE * torch.eye(known.shape[1])
        self._weights = torch.linalg.solve(square, known.T @ (wanted - wanted.mean(0)))

    def right(self, states: Sequence[torch.Tensor], rights: Sequence[Sequence[bool]]) -> int:
        """Return for how many states the fact with the highest value is a right one."""
        return sum(
            right[int(((state - self._mean) / self._deviation @ self._weights).argmax())]
            for state, right in zip(states, rights, strict=True)
        )


def _states(model: Any, base: Any, text: str) -> torch.Tensor:
    """Return the hidden states of a question, (mean or last token, layer, width)."""
    import torch

    ids = base.tokenizer.render([{"role": "user", "content": text}])
    with torch.no_grad():
        found = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    states = torch.cat(found).float()
    return torch.stack([states[:, 1:].mean(1), states[:, -1]])


if __name__ == "__main__":
    main()
