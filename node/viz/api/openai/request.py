"""Read requests of OpenAI clients strictly.

Owns the parameters of chat completions and completions: their types, ranges and defaults. Unknown
parameters are refused by name. So are unsupported ones that would change the answer, except at a
neutral value (``_NEUTRAL``). Known parameters of OpenAI that cannot change the answer are ignored
(``_IGNORED``). Source: OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from viz.domain.ports.engine import Sampling
from viz.domain.text_request import TextRequest
from viz.errors import InvalidRequest

MAX_MESSAGES: Final = 1024
MAX_STOPS: Final = 4
MAX_TOP_LOGPROBS: Final = 20
_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "reasoning_effort": (None, "none"),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
    "moderation": (None,),
    # Not parameters of OpenAI, but of other servers with its interface.
    "min_p": (None, 0),
    "min_tokens": (None, 0),
    "repetition_penalty": (None, 1),
}
_IGNORED: Final = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
_READ: Final = frozenset(
    {
        "logprobs",
        "max_tokens",
        "model",
        "n",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "top_k",
        "top_p",
    }
)
_OF_CHAT: Final = frozenset(
    {
        "add_generation_prompt",
        "continue_final_message",
        "max_completion_tokens",
        "messages",
        "top_logprobs",
    }
)
_OF_COMPLETION: Final = frozenset({"prompt"})
_NOT_IN_A_MESSAGE: Final = ("tool_calls", "function_call", "audio")


def read_chat(body: Mapping[str, Any], *, max_choices: int) -> TextRequest:
    """Read a chat completion request; raise InvalidRequest, which names the wrong parameter."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise _wrong("messages", f"a list of 1 to {MAX_MESSAGES} messages")
    prompt = [_message(message) for message in messages]
    so_far = _so_far(body, prompt)
    limit = _whole(body, "max_completion_tokens", 1, 2**31) or _whole(body, "max_tokens", 1, 2**31)
    wanted = _flag(body, "logprobs")
    top = _whole(body, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top and not wanted:
        raise _wrong("top_logprobs", "given with logprobs: true")
    return _request(
        body,
        chat=True,
        prompt=prompt[:-1] if so_far else prompt,
        so_far=so_far,
        max_tokens=limit,
        logprobs=(top or 0) if wanted else None,
        max_choices=max_choices,
    )


def read_completion(body: Mapping[str, Any], *, max_choices: int) -> TextRequest:
    """Read a completion request; raise InvalidRequest, which names the wrong parameter."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise _wrong("prompt", "one text: not several, and not token ids")
    return _request(
        body,
        chat=False,
        prompt=_utf8("prompt", prompt),
        so_far="",
        max_tokens=_whole(body, "max_tokens", 1, 2**31),
        logprobs=_whole(body, "logprobs", 0, MAX_TOP_LOGPROBS),
        max_choices=max_choices,
    )


def _request(
    body: Mapping[str, Any],
    *,
    chat: bool,
    prompt: str | Sequence[Mapping[str, str]],
    so_far: str,
    max_tokens: int | None,
    logprobs: int | None,
    max_choices: int,
) -> TextRequest:
    known = _READ | _IGNORED | (_OF_CHAT if chat else _OF_COMPLETION)
    for name, value in body.items():
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise InvalidRequest(f"{name!r} is not supported here: leave it out", param=name)
        elif name not in known:
            short = name[:64]
            raise InvalidRequest(f"{short!r} is not known here: leave it out", param=short)
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= 256:
        raise _wrong("model", "a model's name")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "an object")
    sampling = Sampling(
        max_tokens=max_tokens or 1,
        temperature=_number(body, "temperature", 0, 2, 1.0),
        top_p=_number(body, "top_p", 0, 1, 1.0),
        top_k=max(0, _whole(body, "top_k", -1, 2**31) or 0),  # some servers use -1 for "all"
        seed=_whole(body, "seed", -(2**63), 2**63 - 1),
        stop=_stops(body),
        logprobs=logprobs,
    )
    return TextRequest(
        chat=chat,
        model=model,
        prompt=prompt,
        sampling=sampling,
        max_tokens=max_tokens,
        choices=_whole(body, "n", 1, max_choices) or 1,
        stream=_flag(body, "stream"),
        include_usage=_flag(options or {}, "include_usage"),
        names_temperature=body.get("temperature") is not None,
        so_far=so_far,
    )


def _so_far(body: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> str:
    """Return the beginning of the reply, if the request asks to continue its last message.

    The parameters are those of other servers with OpenAI's interface (vLLM, SGLang).
    """
    prompted = body.get("add_generation_prompt")
    if prompted is not None and not isinstance(prompted, bool):
        raise _wrong("add_generation_prompt", "true or false")
    if not _flag(body, "continue_final_message"):
        if prompted is False:
            raise _wrong("add_generation_prompt", "false only with continue_final_message: true")
        return ""
    if prompted:
        raise _wrong("add_generation_prompt", "false with continue_final_message: true")
    *before, last = messages
    if not before or last["role"] != "assistant" or not last["content"]:
        raise _wrong(
            "continue_final_message",
            "given with a last message of the assistant that has text, after another message",
        )
    return last["content"]


def _message(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _wrong("messages", "a list of objects")
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _wrong("messages", f"made of roles {', '.join(_ROLES)}")
    for name in _NOT_IN_A_MESSAGE:
        if value.get(name):
            raise _wrong("messages", f"without {name!r}, which is not supported here")
    content = value.get("content")
    if isinstance(content, list):
        parts: list[str] = []
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text":
                raise _wrong("messages", "made of text parts alone")
            parts.append(_text(part.get("text")))
        content = "".join(parts)
    return {"role": _ROLES[role], "content": _utf8("messages", _text(content))}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong("messages", "made of texts")
    return value


def _utf8(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(name, "valid Unicode: it has a lone surrogate") from error
    return text


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    stops = body.get("stop")
    if stops is None:
        return ()
    if isinstance(stops, str):
        stops = [stops]
    right = isinstance(stops, list) and len(stops) <= MAX_STOPS
    if not right or not all(isinstance(stop, str) and 0 < len(stop) <= 256 for stop in stops):
        raise _wrong("stop", f"a text, or up to {MAX_STOPS} texts")
    return tuple(_utf8("stop", stop) for stop in stops)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "true or false")
    return bool(value)


def _whole(body: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(name, f"a whole number of {low} to {high}")
    return value


def _number(
    body: Mapping[str, Any],
    name: str,
    low: float,
    high: float,
    default: float,
) -> float:
    value = body.get(name)
    if value is None:
        return default
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    # Compare before converting: an integer of hundreds of digits does not fit into a float. NaN
    # fails every comparison.
    if not fits or not low <= value <= high:
        raise _wrong(name, f"a number of {low} to {high}")
    return float(value)


def _wrong(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{name!r} must be {what}", param=name)
