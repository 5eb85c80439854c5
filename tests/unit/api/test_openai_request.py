"""What a request may say: read, ignored because it changes nothing, or refused by its name."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import chat, completion_create_params

from viz.api.openai.request import read_chat, read_completion
from viz.domain.text_request import TextRequest
from viz.errors import InvalidRequest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PLAIN: dict[str, Any] = {"model": "m", "prompt": "hi"}


def ask(**more: Any) -> TextRequest:
    return read_chat({**CHAT, **more}, max_choices=8)


def complete(**more: Any) -> TextRequest:
    return read_completion({**PLAIN, **more}, max_choices=8)


def refused(call: Any, **more: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        call(**more)
    return caught.value


@pytest.mark.parametrize(
    ("name", "neutral", "other"),
    [
        ("min_p", 0, 0.1),
        ("min_tokens", 0, 5),
        ("repetition_penalty", 1.0, 1.2),
        ("frequency_penalty", 0, 0.5),
        ("reasoning_effort", "none", "high"),
        ("logit_bias", {}, {"5": 1}),
        ("tools", [], [{"type": "function"}]),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(
    name: str, neutral: Any, other: Any
) -> None:
    """A buyer is never sold an answer made by other rules than it asked for."""
    for call in (ask, complete):
        assert call(**{name: neutral}) == call(**{name: None}) == call()
        error = refused(call, **{name: other})
        assert error.extensions["param"] == name and name in error.detail


@pytest.mark.parametrize("call", [ask, complete])
def test_both_ends_of_openais_ranges_are_taken(call: Any) -> None:
    """A bound stricter than the interface's breaks clients that ask for the likeliest token."""
    for name, ends in {"top_p": (0, 1), "temperature": (0, 2), "n": (1,), "seed": (0,)}.items():
        for end in (*ends, *map(float, ends if name in ("top_p", "temperature") else ())):
            read = call(**{name: end})
            held = read.choices if name == "n" else getattr(read.sampling, name)
            assert held == end
    for name, outside in (("top_p", -0.01), ("top_p", 1.01), ("temperature", 2.01), ("top_k", -2)):
        assert refused(call, **{name: outside}).extensions["param"] == name
    assert call(top_k=-1).sampling.top_k == 0 == call().sampling.top_k


@pytest.mark.parametrize("name", ["temprature", "typical_p", "best", "x" * 5_000])
def test_what_nobody_knows_is_refused(name: str) -> None:
    """A misspelt parameter is an error, as at OpenAI, and not an answer without it."""
    for call in (ask, complete):
        error = refused(call, **{name: None})
        assert error.extensions["param"] == name[:64] and len(error.detail) < 200
    assert refused(ask, prompt="x").extensions["param"] == "prompt"
    assert refused(complete, messages=[]).extensions["param"] == "messages"


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (ask, chat.completion_create_params.CompletionCreateParamsBase.__annotations__),
        (complete, completion_create_params.CompletionCreateParamsBase.__annotations__),
    ],
)
def test_every_parameter_of_the_official_client_is_known(call: Any, names: Any) -> None:
    """Whatever OpenAI's client can send is read, ignored or refused for what it asks."""
    for name in (*names, "stream"):
        if name not in ("model", "messages", "prompt"):
            call(**{name: None})


def test_what_cannot_change_the_answer_is_ignored() -> None:
    """Bookkeeping for OpenAI's own service does not stand in the way."""
    bookkeeping = {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "flex"}
    assert ask(**bookkeeping, prompt_cache_key="k", parallel_tool_calls=False) == ask()


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], [[1, 2], [3]], [1], [[1]], [], 5, None])
def test_several_prompts_and_token_ids_are_refused_by_name(prompt: Any) -> None:
    """One text is sold at a time; ids could hold the control tokens that are the template's."""
    assert refused(complete, prompt=prompt).extensions["param"] == "prompt"
    assert complete(prompt=["hi"]) == complete()


def test_a_message_that_says_more_than_text_is_refused() -> None:
    """A tool's call that the model would never see is not dropped in silence."""
    said = {"role": "assistant", "content": "x", "tool_calls": None, "refusal": None}
    assert ask(messages=[said]).prompt == [{"role": "assistant", "content": "x"}]
    for name in ("tool_calls", "function_call", "audio"):
        error = refused(ask, messages=[{**said, name: [{"id": "1"}]}])
        assert error.extensions["param"] == "messages" and name in error.detail
