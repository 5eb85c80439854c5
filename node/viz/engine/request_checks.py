"""Check a request to an engine, before the engine reserves anything for it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from viz.domain.ports.engine import BaseModel, GenerationRequest, Sampling
from viz.domain.units import BASE_MODEL, AdapterId
from viz.errors import InvalidRequest, PromptEmpty, PromptTooLong, UnknownAdapter

MAX_STOPS: Final = 16
MAX_STOP_CHARACTERS: Final = 512


def check_request(
    request: GenerationRequest, model: BaseModel, adapters: Collection[AdapterId]
) -> None:
    """Check prompt, sampling parameters and adapter; ``adapters`` are those that are served.

    Raises PromptEmpty, PromptTooLong, InvalidRequest, UnknownAdapter.
    """
    prompt, context = request.prompt, model.context_tokens
    if not prompt:
        raise PromptEmpty("the prompt is empty: send at least one token")
    if len(prompt) >= context:
        raise PromptTooLong(
            f"the prompt has {len(prompt)} tokens; at most {context - 1} fit: shorten it"
        )
    if not all(type(i) is int and 0 <= i < model.vocabulary for i in prompt):
        raise InvalidRequest("the prompt contains a token id outside the vocabulary")
    check_sampling(request.sampling)
    if request.adapter_id != BASE_MODEL and request.adapter_id not in adapters:
        raise UnknownAdapter(f"adapter {request.adapter_id} is not served here")


def check_adapter_id(adapter_id: AdapterId) -> None:
    """Raise InvalidRequest if an adapter is to be added under the base model's id."""
    if adapter_id == BASE_MODEL:
        raise InvalidRequest("adapter id 0 is the base model")


def check_sampling(rules: Sampling) -> None:
    """Raise InvalidRequest if a sampling parameter is out of bounds."""
    bounds = {
        "max_tokens": rules.max_tokens >= 1,
        "temperature": 0.0 <= rules.temperature <= 100.0,
        "top_p": 0.0 <= rules.top_p <= 1.0,
        "top_k": rules.top_k >= 0,
        "seed": rules.seed is None or -(2**63) <= rules.seed < 2**64,
        "stop": len(rules.stop) <= MAX_STOPS
        and all(0 < len(stop) <= MAX_STOP_CHARACTERS for stop in rules.stop),
        "logprobs": rules.logprobs is None or 0 <= rules.logprobs <= 20,
    }
    for name, sound in bounds.items():
        if not sound:
            raise InvalidRequest(f"{name} is out of bounds", param=name)
