"""Compute what follows a prompt and given tokens, one token at a time, outside the serving loop.

One sequence under the base and at most one adapter, by default in float32. For whoever replays an
answer: the tokens are those of the answer, and not those that this pass would choose (teacher
forcing).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from viz.basemodel.adapter_file import read_adapter
from viz.domain.units import AdapterId
from viz.engine.embedded.loaded_adapter import LoadedAdapter, stack
from viz.errors import PromptTooLong

if TYPE_CHECKING:
    import torch

    from viz.basemodel.source import LoadedBase

ForcedCompute = Literal["float32", "native", "bfloat16"]


class ForcedPass:
    """One sequence; ``begin`` once, then ``follow`` with each token."""

    def __init__(
        self,
        base: LoadedBase,
        adapter: Path | None,
        *,
        context_tokens: int,
        compute: ForcedCompute = "float32",
    ) -> None:
        """Load the weights, in seconds; ``adapter`` None is the base alone.

        ``compute`` is torch in float32 or bfloat16, or the compiled pass. Raises ModelUnavailable,
        InvalidAdapterFile, PromptTooLong if the model does not take ``context_tokens``.
        """
        from viz.basemodel.nf4 import serving_weights
        from viz.engine.embedded.backend_choice import choose_backend
        from viz.engine.embedded.decoder import DecoderModel
        from viz.engine.embedded.kv_cache import KvCache

        if context_tokens > base.shape.context_tokens:
            raise PromptTooLong(
                f"prompt and answer have {context_tokens} tokens, and this model takes "
                f"{base.shape.context_tokens}"
            )
        native = base.serving_file.parents[1] / "native" if compute == "native" else None
        backend = choose_backend(base.shape, compute, native, capacity=context_tokens)
        cache = KvCache(base.shape, 1, context_tokens, backend.dtype)
        weights = serving_weights(base)
        self._decoder = DecoderModel(weights, base.shape, cache, backend.dtype, backend.kernels)
        self._adapter: LoadedAdapter | None = None
        if adapter is not None:
            read = read_adapter(adapter, base.shape, base.digest)
            self._adapter = stack(AdapterId(1), read, base.shape, backend.adapter_dtype)
        self._place = 0

    def begin(self, prompt: Sequence[int]) -> torch.Tensor:
        """Return the log-probabilities (vocabulary, in nats) of what follows the prompt."""
        from viz.engine.embedded.decoder import PrefillChunk

        self._place = len(prompt)
        chunk = PrefillChunk(0, 0, list(prompt), self._adapter)
        return self._decoder.prefill([chunk], [0])[0].float().log_softmax(-1)

    def follow(self, token: int) -> torch.Tensor:
        """Return the same after one more token."""
        active = [(0, self._adapter)] if self._adapter is not None else []
        found = self._decoder.decode([token], [self._place], [0], active)
        self._place += 1
        return found[0].float().log_softmax(-1)
