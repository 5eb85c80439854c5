"""Make the request by which another node continues an answer that broke off.

Owns the form of that request and how many tokens are left of the answer. Does no I/O. The text that
arrived becomes part of the prompt (docs/protocol.md, section 7), so that no completion token is
paid twice.
"""

from __future__ import annotations

from typing import Any, Final

from viz.buyer.terms.request import LENGTHS, named_lengths
from viz.errors import InvalidRequest
from viz.protocol.payment import CHAT_PATH

# A node's default length for a request that names none (docs/protocol.md, section 12).
DEFAULT_TOKENS: Final = 256
# As many as OpenAI's own servers allow; a node may allow fewer.
MAX_CHOICES: Final = 128


def require_choices(body: dict[str, Any]) -> None:
    """Raise InvalidRequest for a number of choices that no server computes, or that is none."""
    asked = body.get("n")
    if asked is not None and (type(asked) is not int or not 1 <= asked <= MAX_CHOICES):
        raise InvalidRequest(f"'n' must be a whole number from 1 to {MAX_CHOICES}", param="n")


def with_length(body: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the request with an explicit length, which the parts of the answer share.

    Raises InvalidRequest for a length that is none: it must not become the default length. It
    raises as ``require_choices`` too.
    """
    require_choices(body)
    for name in LENGTHS:
        named = body.get(name)
        if named is not None and (named is True or not isinstance(named, int) or named < 1):
            raise InvalidRequest(f"{name!r} must be a whole number above 0", param=name)
    if named_lengths(body):
        return body
    others = {name: value for name, value in body.items() if name not in LENGTHS}
    return {**others, LENGTHS[0] if path == CHAT_PATH else LENGTHS[1]: DEFAULT_TOKENS}


def length_of(body: dict[str, Any]) -> int:
    """Return the most tokens that each choice may have."""
    return next(iter(named_lengths(body).values()), DEFAULT_TOKENS)


def goes_on(body: dict[str, Any], path: str, text: str, left_tokens: int) -> dict[str, Any]:
    """Return the request for the rest of an answer of which ``text`` has arrived."""
    if not text:
        return body
    shorter = {**body, **dict.fromkeys(named_lengths(body), left_tokens)}
    if path != CHAT_PATH:
        prompt = body.get("prompt", "")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        return {**shorter, "prompt": f"{prompt}{text}"}
    messages = list(body["messages"])
    if body.get("continue_final_message") is True:
        last = messages.pop()
        text = _text_of(last.get("content")) + text
    messages.append({"role": "assistant", "content": text})
    return {
        **shorter,
        "messages": messages,
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


def ended_by_length(path: str) -> dict[str, Any]:
    """Return the chunk that ends an answer of one choice of which every token has come."""
    ended: dict[str, Any] = {"index": 0, "finish_reason": "length"}
    if path == CHAT_PATH:
        return {"object": "chat.completion.chunk", "choices": [{**ended, "delta": {}}]}
    return {"object": "text_completion", "choices": [{**ended, "text": ""}]}


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
