"""Join streamed chunks into whole OpenAI answers.

Owns the joining: the result is the answer that a request without streaming gets. The usage comes
from the verified receipt, not from the node's chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from viz.buyer.answers.answer import PaidAnswer
from viz.buyer.answers.received import AnswerChunk

_CHAT_CHUNK = "chat.completion.chunk"


def usage_of(answer: PaidAnswer) -> dict[str, int]:
    """Return OpenAI's usage object from the receipt; all zero if there is no receipt."""
    if answer.receipt is None:
        return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    receipt = answer.receipt.receipt
    return {
        "prompt_tokens": receipt.prompt_tokens,
        "completion_tokens": receipt.completion_tokens,
        "total_tokens": receipt.prompt_tokens + receipt.completion_tokens,
    }


def assemble(chunks: Sequence[AnswerChunk], usage: dict[str, int]) -> dict[str, Any]:
    """Return the whole answer that the chunks of one request make up, with OpenAI's usage."""
    head = chunks[0] if chunks else {}
    chat = head.get("object") == _CHAT_CHUNK
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk.get("choices") or ():
            index = int(choice.get("index", 0))
            _add(choices.setdefault(index, _begin(index, chat=chat)), choice, chat=chat)
    return {
        "id": head.get("id", ""),
        "object": "chat.completion" if chat else "text_completion",
        "created": head.get("created", 0),
        "model": head.get("model", ""),
        "choices": [choices[index] for index in sorted(choices)],
        "usage": usage,
    }


def _begin(index: int, *, chat: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": None, "logprobs": None}
    if chat:
        choice["message"] = {"role": "assistant", "content": "", "refusal": None}
    else:
        choice["text"] = ""
    return choice


def _add(whole: dict[str, Any], part: dict[str, Any], *, chat: bool) -> None:
    if chat:
        whole["message"]["content"] += (part.get("delta") or {}).get("content") or ""
    else:
        whole["text"] += part.get("text") or ""
    whole["finish_reason"] = part.get("finish_reason") or whole["finish_reason"]
    if (logprobs := part.get("logprobs")) is not None:
        _join(whole, logprobs)


def _join(whole: dict[str, Any], logprobs: dict[str, Any]) -> None:
    known: dict[str, Any] = whole["logprobs"] or {}
    for key, value in logprobs.items():
        before = known.get(key)
        joins = isinstance(before, list) and isinstance(value, list)
        known[key] = [*(before or ()), *value] if joins else value
    whole["logprobs"] = known
