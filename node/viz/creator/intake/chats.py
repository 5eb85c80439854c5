"""Convert chats in our own form, OpenAI's, ShareGPT's and Alpaca's to JSON Lines of dialogue.

Owns these forms, and which records fit into a dialogue. A record that does not fit is left out and
reported with its number; no turn is invented.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Final

from viz.creator.intake.clean import cleaned
from viz.creator.intake.decode import decoded
from viz.creator.intake.found import Converted, OptOut
from viz.creator.intake.front_matter import record_statements
from viz.creator.intake.signals import is_rule, plain_name
from viz.domain.strict_json import MemberTwice, load_json, once
from viz.domain.work import MAX_LINE_BYTES, MAX_MESSAGES
from viz.errors import InvalidWork

_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}
_TEXT_PARTS: Final = ("text", "input_text", "output_text")
_NAMED: Final = 5
# A cheap look before a record's members are gone through; what is written with escapes passes too.
_PERHAPS_RULE: Final = re.compile(r"tdm|no.?ai|train|usage|signal|pref|\\u", re.IGNORECASE)
_BETWEEN: Final = re.compile(r"[\s,]*")
ChatTurns = list[dict[str, str]]


class _Unfit(Exception):
    """Why a record is left out."""


def chats_file(raw: bytes, encoding: str) -> Converted:
    """Return the dialogues in a file of chats. Raises InvalidWork if there are none."""
    text, _ = decoded(raw, encoding)
    found = Converted("dialogue", "", tools=[f"viz-node {version('viz-node')}"])
    counts: Counter[str] = Counter()
    found.opt_outs += _reservations(text)
    lines: list[str] = []
    left_out: list[tuple[int, str]] = []
    for number, record in _records(text):
        try:
            if isinstance(record, _Unfit):
                raise record
            for messages in _pieces(_turns(record, counts)):
                line = json.dumps({"messages": messages}, ensure_ascii=False)
                if len(line.encode()) > MAX_LINE_BYTES:
                    raise _Unfit(f"is longer than {MAX_LINE_BYTES} bytes: split it")
                lines.append(line)
        except _Unfit as unfit:
            left_out.append((number, str(unfit)))
    if not lines:
        told = "the file has no record"
        if left_out:
            number, why = left_out[0]
            told = f"no record of the file is a chat: record {number} {why}"
        raise InvalidWork(
            f"{told}. Write one JSON object a line, "
            'with "messages", "conversations" or "instruction" and "output"'
        )
    if left_out:
        counts["records left out"] += len(left_out)
    for name, count in counts.most_common():
        found.note(f"{count} {name}")
    for number, why in left_out[:_NAMED]:
        found.note(f"record {number} is left out: it {why}")
    found.text = "\n".join(lines) + "\n"
    return found


def _reservations(text: str) -> list[OptOut]:
    """Return what records say about training, also those that are left out; each with the first."""
    whole = text.lstrip()[:1] == "["
    found: dict[OptOut, OptOut] = {}
    for number, line in enumerate([text] if whole else text.split("\n"), start=1):
        if not _PERHAPS_RULE.search(line):
            continue
        with contextlib.suppress(ValueError, RecursionError):
            for said in record_statements(line):
                found.setdefault(
                    said, replace(said, where="a record" if whole else f"line {number}")
                )
    return list(found.values())


def _records(text: str) -> Iterator[tuple[int, Any]]:
    """Yield the records of JSON Lines, or of one JSON list, with their numbers, from 1.

    Raises InvalidWork if the list is none, or if a record has a member twice: nobody knows which.
    """
    if text.lstrip()[:1] == "[":
        try:
            whole = load_json(text, max_values=None, object_pairs_hook=_members)
        except MemberTwice as error:
            raise InvalidWork(f"{_place_of_twice(text)}: {error}: keep one of them") from error
        except (ValueError, RecursionError) as error:
            raise InvalidWork(
                f"the file begins like a JSON list, but is not one: {error}"
            ) from error
        yield from enumerate(whole, start=1)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, load_json(line, object_pairs_hook=_members)
        except MemberTwice as error:
            raise InvalidWork(f"line {number}: {error}: keep one of them") from error
        except (ValueError, RecursionError):
            yield number, _Unfit("is not JSON on a line of its own")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises MemberTwice; of a rule on training, each one is read elsewhere."""
    once([pair for pair in pairs if not is_rule(plain_name(pair[0]))])
    return dict(pairs)


def _place_of_twice(text: str) -> str:
    """Return which record of a JSON list has a member twice, and the line on which it begins."""
    read = json.JSONDecoder(object_pairs_hook=_members).raw_decode
    number, at = 1, text.index("[") + 1
    while gap := _BETWEEN.match(text, at):
        at = gap.end()
        try:
            _, at = read(text, at)
        except ValueError:
            break
        number += 1
    line = text.count("\n", 0, at) + 1
    return f"record {number}, which begins on line {line}"


def _turns(record: Any, counts: Counter[str]) -> ChatTurns:
    """Return a record's messages: at most one system message, then user and assistant in turn."""
    messages: ChatTurns = []
    for role, content in _said(record, counts):
        words = cleaned(content, counts).strip()
        if not words:
            raise _Unfit("has an empty message")
        if role == "system" and messages:
            raise _Unfit("has a system message that is not the first")
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{words}"
            counts["messages joined to the one before, of the same role"] += 1
        else:
            messages.append({"role": role, "content": words})
    at = 1 if messages and messages[0]["role"] == "system" else 0
    if len(messages) > at and messages[at]["role"] == "assistant":
        del messages[at]
        counts["first messages left out, which answer nothing"] += 1
    if messages and messages[-1]["role"] == "user":
        del messages[-1]
        counts["last messages left out, which nothing answers"] += 1
    if len(messages) < at + 2:
        raise _Unfit("has no question with an answer")
    return messages


def _said(record: Any, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    if not isinstance(record, Mapping):
        raise _Unfit("is no JSON object")
    if "messages" in record or "conversations" in record:
        turns = record.get("messages", record.get("conversations"))
        if not isinstance(turns, list) or not turns:
            raise _Unfit("has no list of messages")
        if isinstance(record.get("system"), str) and record["system"].strip():
            yield "system", record["system"]
        for turn in turns:
            if not isinstance(turn, Mapping):
                raise _Unfit("has a message that is not an object")
            role = str(turn.get("role", turn.get("from", ""))).lower()
            content = turn.get("content", turn.get("value"))
            if role not in _ROLES:
                raise _Unfit(f"has a message of the role {role[:20]!r}, which a dialogue has not")
            yield _ROLES[role], _words(content)
    elif "instruction" in record or "prompt" in record:
        asked = record.get("instruction", record.get("prompt"))
        answer = record.get("output", record.get("response", record.get("completion")))
        given = record.get("input") or ""
        if not all(isinstance(each, str) for each in (asked, answer, given)):
            raise _Unfit('must have text as "instruction" and "output"')
        yield "user", f"{asked}\n\n{given}" if given.strip() else str(asked)
        yield "assistant", str(answer)
    else:
        raise _Unfit('has neither "messages" nor "conversations" nor "instruction"')
    extra = set(record) - {
        "messages", "conversations", "system", "instruction", "prompt", "input", "output",
        "response", "completion",
    }  # fmt: skip
    if extra:
        counts["records with other members, which are left out"] += 1


def _words(content: Any) -> str:
    """Return a message's text, which OpenAI's form may give in parts."""
    parts = content if isinstance(content, list) and content else [content]
    said = [
        each["text"]
        if isinstance(each, Mapping) and each.get("type") in _TEXT_PARTS and "text" in each
        else each
        for each in parts
    ]
    if not all(isinstance(each, str) for each in said):
        raise _Unfit("has a message that is not text (pictures and calls are not read)")
    return "".join(said)


def _pieces(messages: ChatTurns) -> Iterator[ChatTurns]:
    """Yield a chat in pieces that respect the limit of messages in a work's chat."""
    system = messages[:1] if messages[0]["role"] == "system" else []
    turns = messages[len(system) :]
    most = (MAX_MESSAGES - len(system)) // 2 * 2
    for at in range(0, len(turns), most):
        yield [*system, *turns[at : at + most]]
