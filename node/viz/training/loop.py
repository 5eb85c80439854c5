"""Run the training loop: schedule, order, early stop, checkpoints, exact resume.

Owns the state of a run between steps. Invariant: a
run that is killed and resumed from its checkpoint goes through the same states as an unbroken
one, so it ends in the same bytes: the order is a function of seed and epoch, dropout is 0, and a
checkpoint holds weights, optimiser moments and the early-stop state (its files are
``checkpoint``'s).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from viz.errors import TrainingError
from viz.training import checkpoint
from viz.training.dataset import epoch_order
from viz.training.packing import TokenRow, pack
from viz.training.qlora import adapter_tensors, load_adapter_tensors, pack_loss

if TYPE_CHECKING:
    import torch

    from viz.training.run import TrainingSettings

# Of states whose right answers differ by less than this share of the questions, the one that saw
# more is kept.
_NOISE: Final = 0.05


@dataclass(slots=True)
class LoopState:
    """The scalars of a run between steps."""

    step: int = 0
    best_right: int | None = None
    best_step: int = 0
    stale: int = 0
    losses: list[float] = field(default_factory=list)
    recalled: list[tuple[int, int, int]] = field(default_factory=list)
    """(step, right answers, questions) of each evaluation."""


class TrainingLoop:
    """One run's training; ``run`` goes on from where ``resume`` left it."""

    def __init__(
        self,
        model: Any,
        training: Sequence[TokenRow],
        settings: TrainingSettings,
        dtype: torch.dtype,
        *,
        identity: str,
        evaluate: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        """``identity`` names recipe, rows and base: only its own checkpoint can be resumed.

        ``evaluate`` returns how many answers are right, and of how many; without it the last
        state is kept.
        """
        self._identity = identity
        self._model, self._training, self._evaluate = model, training, evaluate
        self._settings, self._dtype = settings, dtype
        self._parameters = [p for _, p in sorted(_trainable(model))]
        self._optimizer = _optimizer(self._parameters, settings)
        self.progress = LoopState()
        self._best: dict[str, torch.Tensor] | None = None

    def run(
        self,
        *,
        after_step: Callable[[LoopState, float], None],
        after_evaluation: Callable[[LoopState], None],
    ) -> None:
        """Train to the end or the early stop; callbacks may raise to stop between steps.

        ``after_step`` comes before the step is judged: what it saves is judged after a resume.
        """
        progress = self.progress
        while True:
            if self._evaluate is not None and self._is_due():
                self._judge(*self._evaluate())
                after_evaluation(progress)
            if self.is_ended:
                break
            loss = self._step()
            progress.step += 1
            progress.losses.append(loss)
            after_step(progress, loss)
        if self._best is None:
            progress.best_step = progress.step
        else:
            load_adapter_tensors(self._model, self._best)

    @property
    def is_ended(self) -> bool:
        """Whether no step is left to make, judged or not."""
        settings, progress = self._settings, self.progress
        return progress.step >= settings.steps or progress.stale >= settings.patience

    def _is_due(self) -> bool:
        """Return whether the last step is to be judged, and was not yet."""
        step, recalled = self.progress.step, self.progress.recalled
        if not step or (recalled and recalled[-1][0] == step):
            return False
        return step % self._settings.evaluate_every == 0 or step == self._settings.steps

    def save(self, directory: Path) -> None:
        """Write a checkpoint in the place of the last one."""
        tensors: dict[str, torch.Tensor] = {
            f"weights.{name}": tensor for name, tensor in adapter_tensors(self._model).items()
        }
        for place, parameter in enumerate(self._parameters):
            for name, value in checkpoint.tensors_of(self._optimizer.state[parameter]).items():
                tensors[f"optimizer.{place}.{name}"] = value
        for name, tensor in (self._best or {}).items():
            tensors[f"best.{name}"] = tensor
        progress = asdict(self.progress)
        checkpoint.write(directory, checkpoint.Checkpoint(self._identity, progress, tensors))

    def resume(self, directory: Path) -> bool:
        """Load the checkpoint, if there is a whole one; return whether there was.

        Raises TrainingError when it does not fit this run.
        """
        found = checkpoint.read(directory)
        if found is None:
            return False
        if found.identity != self._identity:
            raise TrainingError(
                f"the checkpoint in {directory} belongs to another recipe, work or base: train in "
                "a new directory, or remove it"
            )
        load_adapter_tensors(self._model, _under(found.tensors, "weights."))
        for place, parameter in enumerate(self._parameters):
            state = _under(found.tensors, f"optimizer.{place}.")
            if state:
                self._optimizer.state[parameter] = checkpoint.state_of(state, parameter)
        self._best = _under(found.tensors, "best.") or None
        recalled = [
            (int(step), int(right), int(of)) for step, right, of in found.progress["recalled"]
        ]
        self.progress = LoopState(**{**found.progress, "recalled": recalled})
        return True

    def _step(self) -> float:
        import torch

        settings = self._settings
        rate = learning_rate(self.progress.step, settings)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        packs = [
            pack([self._training[place] for place in places], self._dtype, settings.device)
            for places in self._places(self.progress.step)
        ]
        tokens = sum(len(packed.labels) for packed in packs)
        total = 0.0
        for packed in packs:
            loss = pack_loss(self._model, packed) / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if not math.isfinite(total):
            raise TrainingError("the loss is not finite: lower learning_rate")
        torch.nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return total

    def _places(self, step: int) -> list[list[int]]:
        """Return the rows of a step, pack by pack: consecutive rows of the shuffled epochs."""
        settings, count = self._settings, len(self._training)
        size = min(settings.rows_per_step, count)
        packs = []
        for number in range(step * settings.accumulation, (step + 1) * settings.accumulation):
            wanted = range(number * size, (number + 1) * size)
            orders = {e: epoch_order(count, settings.seed, e) for e in {w // count for w in wanted}}
            packs.append([orders[w // count][w % count] for w in wanted])
        return packs

    def _judge(self, right: int, asked: int) -> None:
        progress = self.progress
        progress.recalled.append((progress.step, right, asked))
        best = progress.best_right
        if best is None or right >= best - int(asked * _NOISE):
            progress.best_right = max(right, best or 0)
            progress.best_step, progress.stale = progress.step, 0
            self._best = {n: t.clone() for n, t in adapter_tensors(self._model).items()}
        else:
            progress.stale += 1


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the rate of ``step`` (from 0): linear warm-up, then half a cosine to a tenth."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / (settings.warmup_steps + 1)
    left = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * left)))


def _trainable(model: Any) -> list[tuple[str, Any]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _optimizer(parameters: Sequence[Any], settings: TrainingSettings) -> Any:
    import torch

    if settings.optimizer == "paged_adamw":
        from bitsandbytes.optim import PagedAdamW32bit

        return PagedAdamW32bit(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=False
    )


def _under(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
